"""Which runs train together, as one program."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from qmix_jax.config import Config
from qmix_jax.run.host_loop import Run
from qmix_jax.run.memory import fits
from qmix_jax.run.program import Program
from qmix_jax.traced import program_key


def groups(configs: Sequence[Config]) -> list[list[int]]:
    """The numbers of the configs that one program can train, by group: those that differ in their numbers, their seeds,
    what they write and their callbacks alone. Needs no device.
    """
    found: dict[str, list[int]] = {}
    for i, config in enumerate(configs):
        found.setdefault(program_key(config), []).append(i)
    return list(found.values())


def batches(runs: Sequence[Run]) -> Iterator[tuple[Program, list[int]]]:
    """The programs that train runs with one `program_key`, each with the numbers of its runs, which are at one
    environment step and fit into memory together.
    """
    at_time: dict[Any, list[int]] = {}
    for i, run in enumerate(runs):
        at_time.setdefault(i if run.is_complete else _time(run), []).append(i)
    for numbers in at_time.values():
        yield from _fitting(runs, numbers)


def _time(run: Run) -> tuple[int, int]:
    """The clock before the first chunk."""
    state = run.point.state
    return (0, 0) if state is None else (int(state.clock.iteration), int(state.clock.replay_start))


def _fitting(runs: Sequence[Run], numbers: list[int]) -> Iterator[tuple[Program, list[int]]]:
    members, half = [runs[i] for i in numbers], len(numbers) // 2
    if not half:
        yield members[0].program, numbers
        return
    program = Program.of_runs([run.config for run in members], members[0].program.env)
    if fits(program):
        for run in members:
            run.program = replace(run.program, mesh=program.mesh)
        yield program, numbers
    else:
        yield from _fitting(runs, numbers[:half])
        yield from _fitting(runs, numbers[half:])

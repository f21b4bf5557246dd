"""Which runs train together, as one program."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

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


class Batch(NamedTuple):
    """Runs that train together."""

    program: Program
    runs: list[Run]


def batches(runs: Sequence[Run]) -> list[Batch]:
    """Runs with one `program_key`, so that those of a batch are at one time and fit into memory together."""
    at_time: dict[tuple[int, int] | int, list[Run]] = {}
    for number, run in enumerate(runs):
        at_time.setdefault(number if run.is_complete else _time(run), []).append(run)
    return [batch for each in at_time.values() for batch in _fitting(each)]


def _time(run: Run) -> tuple[int, int]:
    """The clock before the first chunk."""
    state = run.point.state
    return (0, 0) if state is None else (int(state.clock.iteration), int(state.clock.replay_start))


def _fitting(runs: list[Run]) -> Iterator[Batch]:
    if len(runs) == 1:
        yield Batch(runs[0].program, runs)
        return
    program = Program.of_runs([run.config for run in runs], runs[0].program.env)
    if fits(program):
        for run in runs:
            run.program = replace(run.program, mesh=program.mesh)
        yield Batch(program, runs)
    else:
        yield from _fitting(runs[: len(runs) // 2])
        yield from _fitting(runs[len(runs) // 2 :])

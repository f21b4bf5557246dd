"""Which runs train together, as one program."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from qmix_jax.config import Config
from qmix_jax.run.host_loop import Run
from qmix_jax.run.memory import even_sizes, fits
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
    environment step and fit into memory together. They are as few as that allows, with as many runs or one more.
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
    if len(numbers) == 1:
        yield runs[numbers[0]].program, numbers
        return
    env, left = runs[numbers[0]].program.env, iter(numbers)
    every = Program.of_runs([runs[i].config for i in numbers], env)

    def of_batch(batch: Sequence[int]) -> Program:
        return Program.of_runs([runs[i].config for i in batch], env, every.mesh)

    for size in even_sizes(len(numbers), lambda size: fits(of_batch(numbers[:size]))):
        batch = list(islice(left, size))
        program = of_batch(batch)
        for i in batch:
            runs[i].program = replace(runs[i].program, mesh=program.mesh)
        yield program, batch

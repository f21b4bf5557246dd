"""A run whose seeds do not train at once: batches of them train one after the other, then the run is made of them.

The batch of the seeds FIRST to LAST is a run in RUN/seeds/FIRST-LAST: its seeds have the numbers, and its devices the
share of a seed, that they have among all. RUN itself then gets the rows and the last parameters of all seeds.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qmix_jax.config import Config
from qmix_jax.records import ENVIRONMENT_NAN, FROZEN, SEEDS, batch_folder
from qmix_jax.run import hosts
from qmix_jax.run.checkpoint import checkpoints, find
from qmix_jax.run.devices import SEED
from qmix_jax.run.memory import even_sizes, fits, refuse_what_cannot_fit
from qmix_jax.run.metrics import SUMS
from qmix_jax.run.program import Program
from qmix_jax.run.resume import begun_batches, read_rows
from qmix_jax.run.snapshot import to_host
from qmix_jax.settings import require
from qmix_jax.types import Params

OF_EVALUATIONS = ("total_env_steps", "evaluation.every_env_steps")
"""Settings on which the environment steps of evaluations depend."""


def plan(program: Program, folder: Path) -> list[range]:
    """The seeds of each batch of a run; one batch where all train at once. Those that the folder holds stay as they
    are, the others are as few as memory allows, and even: each device that shares seeds gets as many or one less. On
    several hosts all train at once.

    Raises:
        ConfigError: the folder holds a run of all seeds at once that does not fit, or batches of other seeds.
    """
    every = range(program.config.seed, program.config.seed + program.config.num_seeds)
    begun = begun_batches(folder)
    if hosts.count() > 1 or (not begun and fits(program)):
        return [every]
    if not begun and any(each.is_whole_state for each in checkpoints(folder)):
        refuse_what_cannot_fit(program)
        return [every]
    found, start = [], every.start
    for batch in [*begun, range(every.stop, every.stop)]:
        fit = start <= batch.start and batch.stop <= every.stop
        require(fit, f"{folder / SEEDS} holds other seeds than {every[0]} to {every[-1]}")
        found += [*_split(program, range(start, batch.start)), batch]
        start = batch.stop
    return found[:-1]


def _split(program: Program, seeds: range) -> list[range]:
    """Even batches that fit."""
    if not seeds:
        return []
    devices = math.gcd(len(seeds), program.mesh.shape[SEED])
    unit = devices if fits(program.of_seeds(seeds[:devices])) else 1
    sizes = even_sizes(len(seeds) // unit, lambda size: fits(program.of_seeds(seeds[: unit * size])))
    ends = np.cumsum([unit * size for size in sizes]).tolist()
    return [seeds[end - unit * size : end] for end, size in zip(ends, sizes, strict=True)]


def refuse_other_evaluations(folder: Path, batches: Sequence[range], changes: dict[str, Any]) -> None:
    """Raise ConfigError where settings changed that say when to evaluate, while the batches are at different steps."""
    steps = {max(_saved(batch_folder(folder, each)), default=0) for each in batches}
    changed = " ".join(f"{name}={changes[name][0]}" for name in OF_EVALUATIONS if name in changes)
    require(
        not changed or len(steps) == 1,
        f"{folder} has seeds at different steps ({min(steps):,} to {max(steps):,}), which would be evaluated at "
        f"different steps from now on: train it to its end with {changed} first",
    )


def _saved(folder: Path) -> list[int]:
    """The environment steps of a batch's whole states."""
    return [each.env_steps for each in checkpoints(folder) if each.is_whole_state]


def is_complete(folder: Path, config: Config) -> bool:
    """Whether a batch's folder holds its end, with parameters that can be read; raises OSError as `Checkpoint.flaw`."""
    rows, saved = read_rows(folder), _saved(folder)
    is_at_end = bool(rows and saved) and rows[-1]["env_steps"] == saved[-1] >= config.total_env_steps
    return is_at_end and _has_params(folder, saved[-1])


def _has_params(folder: Path, env_steps: int) -> bool:
    """Whether a run's folder has whole parameters of this environment step."""
    return any(each.env_steps == env_steps and not each.flaw() for each in checkpoints(folder))


# --- all seeds ---------------------------------------------------------------------------------------------------


def are_joined(folder: Path, batches: Sequence[range], config: Config) -> bool:
    """Whether the run in a folder has the rows and the last parameters of all its batches, which are complete."""
    if not all(is_complete(batch_folder(folder, each), config) for each in batches):
        return False
    rows = join_batches(folder, batches)
    return read_rows(folder) == rows and _has_params(folder, rows[-1]["env_steps"])


def join_batches(folder: Path, batches: Sequence[range]) -> list[dict]:
    """The rows of all seeds of the run in a folder."""
    return join_rows([(len(each), read_rows(batch_folder(folder, each))) for each in batches])


def read_params(program: Program, folder: Path, batches: Sequence[range]) -> Params:
    """The last parameters (S, ...) of all seeds, on the host; initial ones of a batch that met NaN at once.

    Raises:
        ConfigError: those of a batch cannot be read.
    """
    found = []
    for each in batches:
        place = batch_folder(folder, each)
        saved = [checkpoint.env_steps for checkpoint in checkpoints(place)]
        last = find(place, saved[-1]).params if saved else to_host(program.of_seeds(each).init().seeds.learner.params)
        found.append(last)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)


def join_rows(runs: Sequence[tuple[int, Sequence[dict]]]) -> list[dict]:
    """The rows of several runs, each with its number of seeds, as those of one run with all their seeds: at every
    environment step at which each has a row, or has ended because all of its seeds met NaN.
    """
    steps = sorted({row["env_steps"] for _, rows in runs for row in rows})
    found = ([_row_at(step, rows) for _, rows in runs] for step in steps)
    counts = [count for count, _ in runs]
    return [_join([row for row in rows if row], counts) for rows in found if all(rows)]


def _row_at(step: int, rows: Sequence[dict]) -> dict | None:
    """The row of a step; after the end of a run by NaN the last one, masked."""
    row = next((row for row in rows if row["env_steps"] == step), None)
    last = rows[-1] if rows else {}
    if row or step < last.get("env_steps", step) or None in last.get(FROZEN, [None]):
        return row
    kept = (FROZEN, ENVIRONMENT_NAN)
    masked = {name: [None] * len(value) for name, value in last.items() if isinstance(value, list) and name not in kept}
    return {**last, **masked, "env_steps": step}


def _join(rows: Sequence[dict], counts: Sequence[int]) -> dict:
    """One row of all seeds: lists are joined, seconds are added up, and speeds are those of all batches in turn."""
    names = dict.fromkeys(name for row in rows for name in row)
    joined = {name: _join_column(name, [row.get(name) for row in rows], counts) for name in names}
    rates = [row["train/steps_per_second"] for row in rows]
    seconds = sum(count / max(rate, 1e-9) for count, rate in zip(counts, rates, strict=True))  # times a chunk's steps
    return joined | {"train/steps_per_second": round(sum(counts) / seconds, 1)}


def _join_column(name: str, values: Sequence[Any], counts: Sequence[int]) -> Any:
    if any(isinstance(value, list) for value in values):
        each = [[None] * count if value is None else value for value, count in zip(values, counts, strict=True)]
        return [item for own in each for item in own]
    return round(sum(value or 0 for value in values), 3) if name in SUMS else values[0]

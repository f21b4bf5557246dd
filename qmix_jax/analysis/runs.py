"""Run folders, read and grouped: the runs of a group differ only in their seeds."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qmix_jax.console import warn
from qmix_jax.deployed_agent import ArtifactError
from qmix_jax.import_path import title_of
from qmix_jax.records import ENVIRONMENT_NAN, FROZEN, metric_names, read_metrics
from qmix_jax.settings import ConfigError, flatten, require
from qmix_jax.untrusted import read_settings

TASKS = ("map", "task", "id")
"""Settings of environments that name a task."""
NO_DIFFERENCE = ("seed", "num_seeds", "devices", "logging", "callbacks", "import_folders")
"""Settings (or sections) in which runs of one group may differ."""


@dataclass(frozen=True)
class RunFolder:
    """A finished or stopped run."""

    folder: Path
    settings: dict[str, Any]
    """By dotted name, such as learner.gamma."""
    rows: list[dict]
    """Its evaluations, with all seeds that were trained."""
    left_out: dict[int, str] = field(default_factory=dict)
    """Excluded seeds by index, with the reason."""

    @property
    def algorithm(self) -> str:
        """The algorithm's name; pqn_qmix and the like if it learnt without replay."""
        name = title_of(self.settings["algorithm.name"])
        return f"pqn_{name}" if self.settings.get("replay.capacity") == 0 else name

    @property
    def environment(self) -> str:
        """The environment's name."""
        return title_of(self.settings["env.name"])

    @property
    def base_task(self) -> str:
        """The map, the task or the like; without one, the environment's name."""
        return next((found for name in TASKS if (found := self.settings.get(f"env.{name}"))), self.environment)

    @property
    def numbers(self) -> list[int]:
        """The indices of the seeds that count."""
        return [i for i in range(self.settings["num_seeds"]) if i not in self.left_out]

    @property
    def seeds(self) -> list[int]:
        """The seeds that count."""
        return [self.settings["seed"] + i for i in self.numbers]

    @property
    def episodes(self) -> int | None:
        """The number of episodes of all these seeds in one evaluation; None if the settings do not name it."""
        each = self.settings.get("evaluation.episodes")
        return each * len(self.numbers) if each else None

    @property
    def metrics(self) -> list[str]:
        """The metrics of every evaluation, the default one of reports first: win_rate or else return."""
        return [name for name in metric_names(self.rows[0]) if all(f"eval/{name}" in row for row in self.rows)]

    def evaluations(self, metric: str) -> dict[int, list[float | None]]:
        """Environment step -> the metric of every seed that counts."""
        return {row["env_steps"]: [row[f"eval/{metric}"][i] for i in self.numbers] for row in self.rows}

    def seconds(self) -> dict[int, float]:
        """Environment step -> seconds since the run began."""
        return {row["env_steps"]: row["wall_seconds"] for row in self.rows}

    def until(self, env_step: int) -> "RunFolder":
        """The run up to its first evaluation at or after that step."""
        later = [k for k, row in enumerate(self.rows) if row["env_steps"] >= env_step]
        return replace(self, rows=self.rows[: later[0] + 1]) if later else self


@dataclass(frozen=True)
class Group:
    """Runs of one algorithm on one task that differ only in their seeds."""

    environment: str
    task: str
    algorithm: str
    """With the settings in which these runs differ from others of this algorithm on this task."""
    runs: tuple[RunFolder, ...]

    @property
    def seeds(self) -> list[int]:
        """All seeds, run by run."""
        return [seed for run in self.runs for seed in run.seeds]

    @property
    def episodes(self) -> int | None:
        """The number of episodes of all seeds in one evaluation; None if the settings of a run do not name it."""
        counts = [run.episodes for run in self.runs]
        return sum(filter(None, counts)) if all(counts) else None

    @cached_property
    def env_steps(self) -> list[int]:
        """The steps at which every run was evaluated."""
        return sorted(set.intersection(*({row["env_steps"] for row in run.rows} for run in self.runs)))

    def evaluated(self, env_step: int) -> int:
        """The step of the last evaluation up to that one."""
        return max(step for step in self.env_steps if step <= env_step)

    def seconds(self, env_step: int) -> float:
        """From the start of a run to its last evaluation up to that step, with all its seeds: the mean over runs."""
        return float(np.mean([run.seconds()[self.evaluated(env_step)] for run in self.runs]))

    def scores(self, metric: str, env_steps: Sequence[int]) -> np.ndarray:
        """The metric (seeds, len(env_steps)) at the last evaluation up to each step; raises ConfigError if a value is
        missing.
        """
        found = [run.evaluations(metric) for run in self.runs]
        values = np.array([[x for each in found for x in each[self.evaluated(step)]] for step in env_steps], float).T
        require(
            bool(np.isfinite(values).all()), f"{self.runs[0].folder}: no eval/{metric} at some step; leave the run out"
        )
        return values


# --- reading -----------------------------------------------------------------------------------------------------


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run folders among and below the paths; raises ConfigError for a path without any."""
    found: list[Path] = []
    for path in paths:
        require(path.is_dir(), f"{path} is a file, not a folder" if path.exists() else f"there is no folder {path}")
        marks = [*path.rglob("metrics.jsonl"), *path.rglob(".hydra")]  # a job that failed early has the latter alone
        folders = sorted({mark.parent for mark in marks if mark.parent.parent.name != "checkpoints"})
        require(bool(folders), f"{path} holds no run: there is no metrics.jsonl in it or below it")
        found += [folder for folder in folders if folder not in found]
    return found


def read_runs(paths: Sequence[Path]) -> tuple[list[RunFolder], list[str]]:
    """The runs among and below the paths, and the reasons why others were left out.

    Raises:
        ConfigError: a path does not exist, or no run is left.
    """
    runs: dict[Path, RunFolder] = {}
    left_out: dict[str, None] = {}  # each reason once, in order
    for path in paths:
        require(path.exists(), f"there is no folder {path}")
        try:
            folders = find_runs([path])
        except ConfigError as error:
            left_out[str(error)] = None
            continue
        for folder in folders:
            try:
                runs[folder] = read_run(folder)
            except ConfigError as error:
                left_out[str(error)] = None
    require(bool(runs), f"no run can be reported: {'; '.join(left_out)}")
    for run in runs.values():
        for number, why in run.left_out.items():
            left_out[f"{run.folder}: seed {run.settings['seed'] + number} {why}"] = None
    return list(runs.values()), list(left_out)


def read_run(folder: Path) -> RunFolder:
    """A run, without the seeds that met NaN or lack an evaluation.

    Raises:
        ConfigError: something is missing or damaged, or no seed is left.
    """
    path = folder / "metrics.jsonl"
    require(path.exists(), f"{folder} has no metrics.jsonl: its job ended before its first evaluation")
    settings, skipped = _read_settings(folder), []
    try:
        rows = read_metrics(path, skipped.append)
    except ArtifactError as error:
        raise ConfigError(str(error)) from error
    require(bool(rows) or not path.stat().st_size, f"{path} is damaged: no line of it is a row")
    require(bool(rows), f"{folder} was stopped before its first evaluation; leave it out")
    for text in skipped:
        warn(text)
    count = settings["num_seeds"]
    require(all(_is_whole(row, count) for row in rows), f"{path} is damaged: a row is no evaluation of {count} seeds")
    left_out = {i: why for i in range(count) if (why := _flaw(rows, i))}
    reasons = "; ".join(f"seed {settings['seed'] + i} {why}" for i, why in left_out.items())
    require(len(left_out) < count, f"{folder} has no seed to report: {reasons}; leave the run out")
    return RunFolder(folder, settings, rows, left_out)


def _read_settings(folder: Path) -> dict[str, Any]:
    """The settings by dotted name; raises ConfigError if they are missing or damaged."""
    path, settings = folder / "config.yaml", read_settings(folder)
    flat = flatten(settings)
    for kind, names in {int: ("seed", "num_seeds"), str: ("env.name", "algorithm.name")}.items():
        for name in names:
            require(isinstance(flat.get(name), kind), f"{path} is damaged: {name} is {flat.get(name)}")
    require(flat["num_seeds"] > 0, f"{path} is damaged: num_seeds is {flat['num_seeds']}")
    return flat


def _is_whole(row: dict, num_seeds: int) -> bool:
    """Whether a row is an evaluation of `num_seeds` seeds."""
    if not all(_is_number(row.get(name)) for name in ("env_steps", "wall_seconds")):
        return False
    scores = [row[f"eval/{name}"] for name in metric_names(row)]
    return bool(scores) and all(
        len(each) == num_seeds and all(x is None or _is_number(x) for x in each) for each in scores
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _flaw(rows: Sequence[dict], number: int) -> str:
    """Why a seed is excluded; empty if it counts."""

    def of_seed(row: dict, name: str) -> Any:
        values = row.get(name)
        return values[number] if isinstance(values, list) and number < len(values) else None

    for row in rows:
        if of_seed(row, FROZEN) or (of_seed(row, "train/updates") and of_seed(row, "train/loss") is None):
            step = of_seed(row, ENVIRONMENT_NAN)
            cause = "" if step is None else f", from its environment at step {step:,}"
            return f"met NaN before step {row['env_steps']:,}{cause}"
        for metric in metric_names(row):
            score = row[f"eval/{metric}"][number]
            if score is None or not math.isfinite(score):
                return f"has no eval/{metric} at step {row['env_steps']:,}"
    return ""


# --- grouping ----------------------------------------------------------------------------------------------------


def group_runs(runs: Sequence[RunFolder]) -> list[Group]:
    """Runs by environment, task and algorithm.

    Settings in which runs on one task (or of one algorithm on a task) differ become part of its name. Raises
    ConfigError if a group has a seed twice.
    """
    groups = [
        Group(environment, task, name, tuple(members))
        for (environment, base), alike in _by(runs, lambda run: (run.environment, run.base_task)).items()
        for task, on_task in _named(base, alike, lambda key: key.startswith("env.")).items()
        for algorithm, same in _by(on_task, lambda run: run.algorithm).items()
        for name, members in _named(algorithm, same, lambda key: not key.startswith("env.")).items()
    ]
    for group in groups:
        _refuse_repeated_seeds(group)
    return groups


def _by(runs: Sequence[RunFolder], key) -> dict[Any, list[RunFolder]]:
    """The runs by a key, in the order of its first occurrence."""
    found: dict[Any, list[RunFolder]] = {}
    for run in runs:
        found.setdefault(key(run), []).append(run)
    return found


def _named(name: str, runs: Sequence[RunFolder], counts) -> dict[str, list[RunFolder]]:
    """The runs by name and by the settings, among those for which `counts` is true, in which they differ."""
    names = dict.fromkeys(key for run in runs for key in run.settings if counts(key))
    keys = [key for key in names if key.split(".")[0] not in NO_DIFFERENCE]
    differing = [key for key in keys if any(run.settings.get(key) != runs[0].settings.get(key) for run in runs)]

    def label(run: RunFolder) -> str:
        return " ".join([name, *(f"{key}={run.settings[key]}" for key in differing if key in run.settings)])

    return _by(runs, label)


def _refuse_repeated_seeds(group: Group) -> None:
    owners: dict[int, Path] = {}
    for run in group.runs:
        for seed in run.seeds:
            both = f"{owners.get(seed)} and {run.folder} both hold seed {seed} of the same algorithm and settings"
            require(seed not in owners, f"{both}; leave one out")
            owners[seed] = run.folder

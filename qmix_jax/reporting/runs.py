"""Run folders read back and grouped: which runs are seeds of the same thing, and what to call it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qmix_jax.config import ConfigError, require
from qmix_jax.reporting.records import read_metrics

NO_DIFFERENCE = ("seed", "num_seeds", "devices", "logging")
"""Settings (or sections) in which runs of the same thing may differ."""
METRICS = {"win_rate": "win rate", "return": "return"}
"""What runs are judged by, the preferred one first, and what it is called."""


@dataclass(frozen=True)
class RunFolder:
    """What a run left behind."""

    folder: Path
    settings: dict[str, Any]
    """By dotted name, such as learner.gamma."""
    rows: list[dict]

    @property
    def algorithm(self) -> str:
        """The algorithm's name; pqn_qmix and the like where it learnt without replay."""
        name = self.settings["algorithm.name"]
        return f"pqn_{name}" if self.settings.get("replay.capacity") == 0 else name

    @property
    def environment(self) -> str:
        """The environment's name."""
        return self.settings["env.name"]

    @property
    def base_task(self) -> str:
        """The map or the task, or else the environment's name."""
        return self.settings.get("env.map") or self.settings.get("env.task") or self.environment

    @property
    def seeds(self) -> range:
        """The seeds that were trained side by side."""
        return range(self.settings["seed"], self.settings["seed"] + self.settings["num_seeds"])

    @property
    def metrics(self) -> list[str]:
        """The evaluation metrics that it has, the preferred one first."""
        return [name for name in METRICS if f"eval/{name}" in self.rows[0]]

    def evaluations(self, metric: str) -> dict[int, list[float | None]]:
        """Environment step -> the metric of every seed."""
        return {row["env_steps"]: row[f"eval/{metric}"] for row in self.rows}

    def seconds(self) -> dict[int, float]:
        """Environment step -> seconds since the run began."""
        return {row["env_steps"]: row["wall_seconds"] for row in self.rows}


@dataclass(frozen=True)
class Group:
    """Runs of one algorithm on one task: they differ in nothing but seeds."""

    environment: str
    task: str
    algorithm: str
    """With the settings in which it differs from other runs of this algorithm on this task."""
    runs: tuple[RunFolder, ...]

    @property
    def seeds(self) -> list[int]:
        """All seeds, run by run."""
        return [seed for run in self.runs for seed in run.seeds]

    @cached_property
    def env_steps(self) -> list[int]:
        """The steps at which every run was evaluated."""
        return sorted(set.intersection(*({row["env_steps"] for row in run.rows} for run in self.runs)))

    def evaluated(self, env_step: int) -> int:
        """The step of the last evaluation up to that one."""
        return max(step for step in self.env_steps if step <= env_step)

    def seconds(self, env_step: int) -> float:
        """From a run's start to the last evaluation up to that step, with all seeds that it trains side by side: the
        mean over runs.
        """
        return float(np.mean([run.seconds()[self.evaluated(env_step)] for run in self.runs]))

    def scores(self, metric: str, env_steps: Sequence[int]) -> np.ndarray:
        """(seeds, len(env_steps)) the metric at the last evaluation up to each step; raises ConfigError where a seed
        has none.
        """
        found = [run.evaluations(metric) for run in self.runs]
        values = np.array([[x for each in found for x in each[self.evaluated(step)]] for step in env_steps], float).T
        require(
            bool(np.isfinite(values).all()), f"{self.runs[0].folder}: no eval/{metric} at some step; leave the run out"
        )
        return values


# --- reading -----------------------------------------------------------------------------------------------------


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run folders among and below the paths; raises ConfigError for a path with none."""
    found: list[Path] = []
    for path in paths:
        require(path.is_dir(), f"there is no folder {path}")
        folders = sorted(file.parent for file in path.rglob("metrics.jsonl") if not _is_of_a_checkpoint(file))
        require(bool(folders), f"{path} holds no run: there is no metrics.jsonl in it or below it")
        found += [folder for folder in folders if folder not in found]
    return found


def _is_of_a_checkpoint(file: Path) -> bool:
    return file.parent.parent.name == "checkpoints"


def read_run(folder: Path) -> RunFolder:
    """A run from its folder; raises ConfigError where something is missing."""
    from omegaconf import OmegaConf

    require((folder / "config.yaml").is_file(), f"{folder} is no run's folder: it has no config.yaml")
    settings: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    try:
        rows = read_metrics(folder / "metrics.jsonl")
    except ValueError as error:
        raise ConfigError(f"{folder / 'metrics.jsonl'} is damaged: {error}") from error
    require(bool(rows), f"{folder} was stopped before its first evaluation; leave it out")
    return RunFolder(folder, dict(_flatten(settings)), rows)


def _flatten(settings: dict, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


# --- grouping ----------------------------------------------------------------------------------------------------


def group_runs(runs: Sequence[RunFolder]) -> list[Group]:
    """Runs by environment, task and algorithm.

    Where runs on one task (or of one algorithm on a task) have different settings, the ones that differ become part
    of its name. Raises ConfigError where a seed of the same thing is there twice.
    """
    groups = []
    for (environment, base), alike in _by(runs, lambda run: (run.environment, run.base_task)).items():
        for task, on_task in _named(base, alike, lambda key: key.startswith("env.")).items():
            for algorithm, same in _by(on_task, lambda run: run.algorithm).items():
                for name, members in _named(algorithm, same, lambda key: not key.startswith("env.")).items():
                    groups.append(Group(environment, task, name, tuple(members)))
    for group in groups:
        _refuse_repeated_seeds(group)
    return groups


def _by(runs: Sequence[RunFolder], key) -> dict[Any, list[RunFolder]]:
    """The runs by a key, in the order in which keys are met."""
    found: dict[Any, list[RunFolder]] = {}
    for run in runs:
        found.setdefault(key(run), []).append(run)
    return found


def _named(name: str, runs: Sequence[RunFolder], counts) -> dict[str, list[RunFolder]]:
    """The runs by name and by those settings, of the ones that count, in which they differ."""
    keys = {key: None for run in runs for key in run.settings if counts(key) and not _is_no_difference(key)}
    differing = [key for key in keys if any(run.settings.get(key) != runs[0].settings.get(key) for run in runs)]

    def label(run: RunFolder) -> str:
        return " ".join([name, *(f"{key}={run.settings[key]}" for key in differing if key in run.settings)])

    return _by(runs, label)


def _is_no_difference(key: str) -> bool:
    return key.split(".")[0] in NO_DIFFERENCE


def _refuse_repeated_seeds(group: Group) -> None:
    owners: dict[int, Path] = {}
    for run in group.runs:
        for seed in run.seeds:
            if seed in owners:
                raise ConfigError(f"{owners[seed]} and {run.folder} both hold seed {seed} of the same; leave one out")
            owners[seed] = run.folder

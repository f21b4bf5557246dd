"""Run folders, read back."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from qmix_jax.config import Config
from qmix_jax.console import warn
from qmix_jax.deployed_agent import ArtifactError
from qmix_jax.files import read_json
from qmix_jax.import_path import title_of
from qmix_jax.records import ENVIRONMENT_NAN, FROZEN, SEEDS, metric_names, read_metrics
from qmix_jax.settings import ConfigError, defaults, flatten, require
from qmix_jax.untrusted import read_settings, require_folder

TASKS = ("map", "task", "id")
"""Settings of environments that name a task."""
JOB = "job.json"
"""What a sweep records of a job, in the folder of its run."""
UNFINISHED = ("waiting", "running")
"""The states of a job that may go on, or was killed with its machine."""
EARLY = dict.fromkeys(UNFINISHED, "has not ended, and is") | {"pruned": "was pruned by its search"}
"""The states of a job whose run is not whole -> what is told of it."""
MARKS = ("metrics.jsonl", ".hydra", JOB)
"""A folder with one of these is a run's; a job that failed early has no metrics."""

Result = TypeVar("Result")


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

    @property
    def end(self) -> int:
        """The environment step of its last evaluation."""
        return self.rows[-1]["env_steps"]

    def reaches(self, env_step: int | None) -> bool:
        """Whether it has an evaluation at or after that step."""
        return env_step is not None and self.end >= env_step

    def until(self, env_step: int) -> "RunFolder":
        """The run up to its first evaluation at or after that step."""
        later = [k for k, row in enumerate(self.rows) if row["env_steps"] >= env_step]
        return replace(self, rows=self.rows[: later[0] + 1]) if later else self


# --- reading -----------------------------------------------------------------------------------------------------


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run folders among and below the paths, but not the batches of a run's seeds; raises ConfigError for a path
    without any.
    """
    found: list[Path] = []
    for path in paths:
        require_folder(path)
        marks = [mark for name in MARKS for mark in path.rglob(name)]
        folders = {mark.parent for mark in marks if mark.parent.parent.name != "checkpoints"}
        folders = {each for each in folders if not (each.parent.name == SEEDS and each.parents[1] in folders)}
        require(bool(folders), f"{path} holds no run: there is no metrics.jsonl in it or below it")
        found += [folder for folder in sorted(folders, key=lambda each: natural(str(each))) if folder not in found]
    return found


def natural(text: str) -> tuple[str | int, ...]:
    """A key that sorts texts by the numbers in them: map 9 comes before map 10."""
    return tuple(int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text))


def read_runs(paths: Sequence[Path], until: int | None = None) -> tuple[list[RunFolder], list[str]]:
    """The runs among and below the paths, and the reasons why others were left out.

    With `until`, runs end at their first evaluation at or after this environment step. Runs that have not reached it
    (by default: their end) and whose job has not ended or was pruned are left out, unless that is true of all.

    Raises:
        ConfigError: a path does not exist, or no run is left.
    """
    finished: dict[Path, RunFolder] = {}
    early: dict[Path, RunFolder] = {}
    left_out: dict[str, None] = {}  # each reason once, in order
    for path in paths:
        require(path.exists(), f"there is no folder {path}")
        for folder in _attempt(lambda path=path: find_runs([path]), left_out) or []:
            run = _attempt(lambda folder=folder: read_run(folder), left_out)
            if run is not None:
                is_whole = str(_job(folder).get("state")) not in EARLY or run.reaches(until)
                (finished if is_whole else early)[folder] = run
    require(bool(finished or early), f"no run can be reported: {'; '.join(left_out)}")
    for run in early.values() if finished else ():
        how = EARLY[_job(run.folder)["state"]]
        step = f"step {run.end:,}; --at compares at a step that every run has reached"
        left_out[f"{run.folder}: its job {how} at {step}"] = None
    runs = [run if until is None else run.until(until) for run in (finished or early).values()]
    for run in runs:
        for number, why in run.left_out.items():
            left_out[f"{run.folder}: seed {run.settings['seed'] + number} {why}"] = None
    return runs, list(left_out)


def _attempt(action: Callable[[], Result], left_out: dict[str, None]) -> Result | None:
    """The result of an action; None after a ConfigError, whose message is added to `left_out`."""
    try:
        return action()
    except ConfigError as error:
        left_out[str(error)] = None
        return None


def _job(folder: Path) -> dict:
    """What a sweep says of the job of a run; empty where there is nothing."""
    job = read_json(folder / JOB)
    return job if isinstance(job, dict) else {}


def read_run(folder: Path) -> RunFolder:
    """A run, without the seeds that met NaN or lack an evaluation.

    Raises:
        ConfigError: its job failed, something is missing or damaged, or no seed is left.
    """
    path, job = folder / "metrics.jsonl", _job(folder)
    error = "".join(c if c.isprintable() else " " for c in str(job.get("error") or ""))[:300]
    require(job.get("state") != "failed", f"{folder}: its job failed{f': {error}' if error else ''}")
    early = "has not begun or ended, and is" if job.get("state") in UNFINISHED else "ended"
    require(path.exists(), f"{folder} has no metrics.jsonl: its job {early} before its first evaluation")
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
    """The settings by dotted name; raises ConfigError if they are missing or damaged.

    Those that an older version did not have, in a section that the run names, count as their defaults.
    """
    path, settings = folder / "config.yaml", read_settings(folder)
    sections = defaults(Config, leave_out=("env", "algorithm", "agent"))
    added = {name: values for name, values in sections.items() if isinstance(settings.get(name), dict)}
    flat: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value for name, value in flatten(added).items()
    }
    flat |= flatten(settings)
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

"""The jobs of a sweep on disk (sweep.json), and the state of each, read from files alone."""

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qmix_jax.build import from_file
from qmix_jax.config import Config
from qmix_jax.deployed_agent import ArtifactError
from qmix_jax.files import read_json, write_json
from qmix_jax.records import batch_folder, count_episodes, known, read_metrics, seed_batches
from qmix_jax.run.lock import is_held
from qmix_jax.settings import ConfigError, require
from qmix_jax.sweep.jobs import Job
from qmix_jax.sweep.record import YOUNG, JobRecord, State, metric_of, read_record, score_of
from qmix_jax.untrusted import read_settings, require_folder

NAME = "sweep.json"
OVER = ("done", "failed", "pruned")
"""States of jobs that do not go on."""


@dataclass(frozen=True)
class JobPlan:
    """A job of a sweep, as sweep.json names it."""

    folder: Path
    overrides: tuple[str, ...]
    differs: tuple[str, ...]
    """The overrides in which it differs from other jobs of the sweep; of a single job all."""
    env_steps: int
    """Environment steps of the whole run."""
    metric: str
    """`checkpoint.metric`."""
    how: str
    """`evaluation.score`."""
    seeds: str = "mean"
    """How seeds become one score: mean or iqm."""
    direction: str = "maximize"
    """Whether a large score is good or a small one: maximize or minimize."""
    number: int = 0
    """`Job.number`."""
    digest: str = ""
    """`Job.digest`; '' in a sweep of an older version."""

    @property
    def label(self) -> str:
        """What tells it from the other jobs, in one line."""
        return " ".join(self.differs) or self.folder.name


@dataclass(frozen=True)
class JobState:
    """What is known of a job."""

    plan: JobPlan
    state: State
    env_steps: int = 0
    metric: str = ""
    """The name of the score in rows; '' before the first evaluation."""
    score: float | None = None
    seconds: float = 0.0
    """In which it has trained, in all its starts."""
    error: str = ""
    starts: int = 0
    episodes: int | None = None
    """Of the last evaluation, where the score is a share of them and they are counted."""

    @property
    def share(self) -> float:
        """The part of its environment steps that is done."""
        return 1.0 if self.state == "done" else min(1.0, self.env_steps / self.plan.env_steps)


def numbered(
    lines: Sequence[Sequence[str]], before: Sequence[JobPlan], make: Callable[[int, Sequence[str]], Job]
) -> list[Job]:
    """The jobs with these overrides: those that the sweep had before, with their numbers, and then the new ones.

    `make` composes a job of a number and overrides. A job is that of a plan if it has what told the plan's from others,
    and the same folder; of several such jobs, the one with the most equal overrides.
    """
    left, jobs = list(lines), list[Job]()
    for plan in before:
        told = set(plan.differs) if len(before) > 1 else set()
        alike = [own for own in left if told <= set(own)]
        own = max(alike, key=lambda own: len({*own} & {*plan.overrides}), default=None)
        if own is not None and (job := make(plan.number, own)).folder == plan.folder:
            left.remove(own)
            jobs.append(job)
    first = max((plan.number + 1 for plan in before), default=0)
    return [*jobs, *(make(number, own) for number, own in enumerate(left, first))]


def plans_of(jobs: Sequence[Job], configs: Sequence[Config], before: Sequence[JobPlan] = ()) -> list[JobPlan]:
    """The plans of a sweep's jobs, and those of jobs that an earlier line began in its folder and this one lacks."""
    new = {job.folder: plan_of(job, config, ()) for job, config in zip(jobs, configs, strict=True)}
    begun = {plan.folder: plan for plan in before if plan.folder in new or plan.folder.exists()}
    plans = list((begun | new).values())
    different = differing([plan.overrides for plan in plans])
    return [replace(plan, differs=own) for plan, own in zip(plans, different, strict=True)]


def plan_of(job: Job, config: Config, differs: tuple[str, ...]) -> JobPlan:
    """The plan of a job."""
    metric, how = config.checkpoint.metric, config.evaluation.score
    own = {"number": job.number, "digest": job.digest}
    return JobPlan(job.folder, job.overrides, differs, config.trained_env_steps, metric, how, **own)


def differing(overrides: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Of the overrides of each job, those that not all jobs have; of a single job all."""
    common = set(overrides[0]).intersection(*overrides) if len(overrides) > 1 else set()
    return [tuple(line for line in own if line not in common) for own in overrides]


def write_sweep(folder: Path, plans: Sequence[JobPlan], about: dict[str, Any]) -> None:
    """Write sweep.json; a job's folder is named relative to it."""
    jobs = [
        {
            **asdict(plan),
            "folder": str(plan.folder.relative_to(folder)) if plan.folder.is_relative_to(folder) else str(plan.folder),
        }
        for plan in plans
    ]
    write_json(folder / NAME, {**about, "jobs": jobs}, indent=1)


def plans_before(folder: Path) -> list[JobPlan]:
    """The jobs of the sweep in a folder; none where it holds no sweep yet."""
    return read_sweep(folder) if (folder / NAME).exists() else []


def read_sweep(folder: Path) -> list[JobPlan]:
    """The jobs of the sweep in a folder, or the single run that it holds; raises ConfigError where it is neither."""
    require_folder(folder)
    if not (folder / NAME).exists():
        return [_plan_of_run(folder)]
    found = read_json(folder / NAME)
    try:
        return [
            JobPlan(
                folder / job["folder"],
                tuple(job["overrides"]),
                tuple(job["differs"]),
                *_numbers(job),
                number=int(job.get("number", place)),
                digest=str(job.get("digest", "")),
            )
            for place, job in enumerate(found["jobs"])
        ]
    except (TypeError, KeyError, ValueError) as error:
        raise ConfigError(f"{folder / NAME} is damaged: delete it, and the sweep's own line writes it again") from error


def _numbers(job: dict[str, Any]) -> tuple[int, str, str, str, str]:
    words = str(job["metric"]), str(job["how"]), str(job.get("seeds", "mean")), str(job.get("direction", "maximize"))
    return int(job["env_steps"]), *words


def _plan_of_run(folder: Path) -> JobPlan:
    is_run = (folder / "config.yaml").is_file()
    require(is_run, f"{folder} holds neither a run (config.yaml) nor a sweep ({NAME})")
    config = from_file(read_settings(folder), folder)
    return JobPlan(folder, (), (), config.trained_env_steps, config.checkpoint.metric, config.evaluation.score)


def state_of(plan: JobPlan) -> JobState:
    """The state of a job, by the files in its folder."""
    record, rows = read_record(plan.folder), _rows(plan.folder)
    state = _state(plan, record, rows)
    metric = metric_of(rows[-1], plan.metric) if rows else ""
    score = score_of(rows, plan.metric, plan.how, plan.seeds, plan.direction)
    error = record.error if record and state == "failed" else ""
    seconds = record.seconds if record else sum(known(rows[-1].get("wall_seconds"))) if rows else 0.0
    if record and state == "running":
        seconds += max(0.0, time.time() - record.began)
    starts, episodes = record.starts if record else 0, count_episodes(rows[-1], metric) if rows else None
    env_steps = _env_steps(plan.folder, rows)
    return JobState(plan, state, env_steps, metric, score, seconds, error, starts, episodes)


class Watch:
    """The states of jobs, looked at again and again; that of one that is over is read once."""

    def __init__(self, plans: Collection[JobPlan], left: Collection[Path] = ()):
        """`plans` may grow. Those whose folders are `left` to run wait until they begin, whatever they were before."""
        self._plans = plans
        self._over: dict[Path, JobState] = {}
        before = [state_of(plan) for plan in plans if plan.folder in left]
        self._before = {each.plan.folder: (each.state, each.starts) for each in before if each.state != "running"}

    def states(self) -> list[JobState]:
        """The state of each job."""
        found = [self._over.get(plan.folder) or self._look(plan) for plan in self._plans]
        self._over |= {each.plan.folder: each for each in found if each.state in OVER}
        return found

    def _look(self, plan: JobPlan) -> JobState:
        found = state_of(plan)
        waits = (found.state, found.starts) == self._before.get(plan.folder)
        return replace(found, state="waiting", error="") if waits else found


def _env_steps(folder: Path, rows: list[dict[str, Any]]) -> int:
    """Environment steps of each seed so far; where batches of them train one after the other, the mean."""
    done = {seeds: _rows(batch_folder(folder, seeds)) for seeds in seed_batches(folder)}
    trained = sum(len(seeds) * own[-1]["env_steps"] for seeds, own in done.items() if own)
    return trained // read_settings(folder)["num_seeds"] if trained else rows[-1]["env_steps"] if rows else 0


def _rows(folder: Path) -> list[dict[str, Any]]:
    try:
        return read_metrics(folder / "metrics.jsonl", lambda _: None)
    except ArtifactError:
        return []


def _state(plan: JobPlan, record: JobRecord | None, rows: list[dict[str, Any]]) -> State:
    """By the lock on the folder and its rows where no record tells more: a job that was killed leaves its record as it
    was, a run may have been resumed by itself, and a job that was over may be given other settings, such as more steps.
    """
    if record and record.state in OVER and plan.digest in ("", record.digest):
        return record.state
    if (record and record.is_running_here) or is_held(plan.folder) or (record and _may_start_elsewhere(record)):
        return "running"
    if rows and rows[-1]["env_steps"] >= plan.env_steps:
        return "done"
    return "stopped" if rows or record or seed_batches(plan.folder) else "waiting"


def _may_start_elsewhere(record: JobRecord) -> bool:
    """Whether its process may be one of another machine that has not locked its folder yet."""
    is_young = time.time() - record.began < YOUNG
    return record.state == "running" and is_young and not record.is_of_this_host


def seconds_left(states: Sequence[JobState], at_once: int | None) -> float:
    """About how long the sweep still takes: what is left of its jobs, by the speed of those that have run; NaN where
    none has.
    """
    begun = [each for each in states if each.share > 0 and each.seconds > 0]
    if not begun:
        return math.nan
    each = sum(job.seconds for job in begun) / sum(job.share for job in begun)
    left = [1 - job.share for job in states if job.state in ("waiting", "running", "stopped")]
    return max(each * sum(left) / max(1, min(at_once or len(left), len(left))), each * max(left, default=0.0))


def best(states: Sequence[JobState]) -> JobState | None:
    """The job with the best score; None while none has one, or where they are of different metrics."""
    scored = [(each.score, each) for each in states if each.score is not None]
    if len({each.metric for _, each in scored}) > 1:
        return None
    sign = -1 if scored and scored[0][1].plan.direction == "minimize" else 1
    return max(scored, key=lambda pair: sign * pair[0], default=(None, None))[1]

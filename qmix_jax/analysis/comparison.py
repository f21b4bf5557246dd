"""Groups of runs compared: scores by task and over all tasks, and probabilities of improvement."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, product
from typing import Any

import numpy as np

from qmix_jax.analysis.grouping import Group, is_of_task
from qmix_jax.records import is_share
from qmix_jax.settings import require
from qmix_jax.statistics import (
    Estimate,
    TaskScores,
    interquartile_mean_interval,
    performance_profile,
    probability_of_improvement,
)

THRESHOLDS = 51
"""The points of a performance profile."""


@dataclass(frozen=True)
class Entry:
    """One algorithm on one task, or on all tasks of its environment together."""

    task: str
    algorithm: str
    """With the settings in which groups differ, as `Group.algorithm`."""
    method: str
    """The algorithm alone."""
    settings: dict[str, Any]
    """The settings in which groups differ; of all tasks together, without those of the environment."""
    num_seeds: int
    """Of several tasks, the smallest number."""
    final: Estimate
    """Interquartile mean of the last evaluation."""
    mean: float
    seconds: float
    """From the start of a run to its last evaluation, with compilation and all its seeds: the mean over runs. Of all
    tasks together, the sum."""
    env_steps: list[int]
    curve: list[Estimate]
    """Interquartile mean at each of `env_steps`."""
    curve_seconds: list[float]
    """`seconds` up to each of `env_steps`."""


@dataclass(frozen=True)
class Improvement:
    """The probability that a run of one algorithm scores higher than a run of another."""

    algorithm: str
    other: str
    probability: Estimate


@dataclass(frozen=True)
class Profile:
    """The performance profile of an algorithm over all tasks of its environment."""

    algorithm: str
    thresholds: list[float]
    """Scores from 0 to 1."""
    shares: list[Estimate]
    """The share of runs whose last evaluation is above each threshold, averaged over tasks."""


@dataclass(frozen=True)
class Comparison:
    """The algorithms of one environment."""

    environment: str
    metric: str
    interval_method: str
    """How the intervals of scores are computed."""
    tasks: list[Entry]
    together: list[Entry]
    """The algorithms that ran on every one of several tasks; with normalised scores if `is_normalised`."""
    is_normalised: bool
    """Scores of several tasks without a common scale: 0 is the smallest and 1 the largest evaluation on the task, of
    any algorithm and seed."""
    improvements: list[Improvement]
    profiles: list[Profile]
    """Of the algorithms in `together`."""
    notes: list[str]

    @property
    def metric_name(self) -> str:
        """The metric in words."""
        return self.metric.replace("_", " ")


class _Results:
    """The scores of one environment at the evaluations that all runs on a task have (see `_common_steps`)."""

    def __init__(self, groups: Sequence[Group], metric: str | None, until: int | None):
        self.groups, self.until = groups, until
        self.metric = _common_metric(groups, metric)
        self.tasks = list(dict.fromkeys(group.task for group in groups))
        self.algorithms = list(dict.fromkeys(group.algorithm for group in groups))
        self.env_steps = {task: self._common_steps(task) for task in self.tasks}
        self.group = {(group.task, group.algorithm): group for group in groups}
        self.scores = {key: group.scores(self.metric, self.env_steps[group.task]) for key, group in self.group.items()}
        self.episodes = {key: group.episodes if is_share(self.metric) else None for key, group in self.group.items()}
        self.seconds = {
            key: [group.seconds(step) for step in self.env_steps[group.task]] for key, group in self.group.items()
        }

    @property
    def is_normalised(self) -> bool:
        """Shares of different tasks have a common scale, other scores have none."""
        return len(self.tasks) > 1 and not is_share(self.metric)

    @property
    def interval_method(self) -> str:
        """How the intervals of scores are computed, in words."""
        pooled = is_share(self.metric) and all(self.episodes.values())
        return "95 % stratified bootstrap interval" + ", no narrower than Wilson's over all episodes" * pooled

    @property
    def comparable(self) -> list[str]:
        """The tasks that count in the scores over all tasks: constant scores cannot be normalised."""
        return [task for task in self.tasks if not (self.is_normalised and self._is_constant(task))]

    def _is_constant(self, task: str) -> bool:
        low, high = self._range(task)
        return bool(np.isclose(low, high))

    def _range(self, task: str) -> tuple[float, float]:
        """The smallest and the largest evaluation on a task, of any algorithm and seed."""
        each = [scores for (other, _), scores in self.scores.items() if other == task]
        return min(float(scores.min()) for scores in each), max(float(scores.max()) for scores in each)

    @property
    def complete(self) -> list[str]:
        """The algorithms that ran on every task."""
        return [name for name in self.algorithms if all((task, name) in self.scores for task in self.tasks)]

    def _common_steps(self, task: str) -> list[int]:
        """The evaluations of the group with the fewest, as far as every other group has one since the previous one."""
        each = [group.env_steps for group in self.groups if group.task == task]
        fewest = min(each, key=len)
        spans = pairwise([-1, *fewest])
        common = [now for before, now in spans if all(any(before < s <= now for s in steps) for steps in each)]
        require(bool(common), f"the runs on {task} have no evaluations that could be compared; report them apart")
        return common

    def normalised(self, task: str, algorithm: str) -> np.ndarray:
        """Scores (seeds, points) on the common scale of all tasks."""
        scores = self.scores[task, algorithm]
        if not self.is_normalised:
            return scores
        low, high = self._range(task)
        return (scores - low) / (high - low)

    def notes(self) -> list[str]:
        """Notes on runs that were cut or left out."""
        notes = []
        for task in self.tasks:
            last, runs = self.env_steps[task][-1], [run for g in self.groups if g.task == task for run in g.runs]
            longest = max(run.end for run in runs)
            if self.until is not None and longest < self.until:
                notes.append(f"{task}: no run has reached step {self.until:,}; the last evaluations are compared")
            if last < longest:
                end = min(run.end for run in runs)
                first, *others = (run.folder for run in runs if run.end == end)
                who = f"{first} and {len(others)} more end at" if others else f"{first} ends at"
                at = f"{last:,} steps, the last evaluation that every run has"
                notes.append(f"{task}: compared at {at}; {who} {end:,}")
            if any(set(self.env_steps[task]) - set(g.env_steps) for g in self.groups if g.task == task):
                notes.append(f"{task}: not all evaluated at the same steps; a score is a run's last one up to a step")
            if task not in self.comparable:
                notes.append(f"{task}: every evaluation is {self._range(task)[0]:g}, so it has no normalised score")
        left_out = [name for name in self.algorithms if name not in self.complete]
        if left_out:
            notes.append(f"not on every task, so only in the table by task: {', '.join(left_out)}")
        return notes


def _common_metric(groups: Sequence[Group], wanted: str | None) -> str:
    """The metric to compare: `wanted`, or else the default one of all runs."""
    runs = [run for group in groups for run in group.runs]
    for run in runs:
        require(bool(run.metrics), f"{run.folder} has no metric that all its evaluations share")
        lack = f"{run.folder} has no eval/{wanted}; its evaluations have {', '.join(run.metrics)}"
        require(wanted is None or wanted in run.metrics, lack)
    default = runs[0].metrics[0]
    for run in runs:
        both = f"{run.folder} has eval/{run.metrics[0]}, but {runs[0].folder} eval/{default}"
        require(wanted is not None or run.metrics[0] == default, f"{both}; report them apart, or choose --metric")
    return wanted or default


def compare(groups: Sequence[Group], metric: str | None = None, until: int | None = None) -> list[Comparison]:
    """One comparison per environment, of `metric` or else of win_rate or return; raises ConfigError if runs cannot be
    compared. A note says so where no run on a task has reached the environment step `until`.
    """
    names = dict.fromkeys(group.environment for group in groups)
    results = {name: _Results([one for one in groups if one.environment == name], metric, until) for name in names}
    return [_compare(name, each) for name, each in results.items()]


def _compare(environment: str, results: _Results) -> Comparison:
    tasks, complete = results.tasks, results.complete
    final = {name: [results.scores[task, name][:, -1] for task in tasks] for name in complete}
    return Comparison(
        environment=environment,
        metric=results.metric,
        interval_method=results.interval_method,
        tasks=[
            _entry(
                key[0],
                results.group[key],
                [results.scores[key]],
                results.env_steps[key[0]],
                results.seconds[key],
                results.episodes[key],
            )
            for key in product(tasks, results.algorithms)
            if key in results.scores
        ],
        together=_together(results) if len(tasks) > 1 else [],
        is_normalised=results.is_normalised,
        improvements=[
            Improvement(x, y, probability_of_improvement(final[x], final[y])) for x, y in combinations(complete, 2)
        ],
        profiles=_profiles(results) if len(tasks) > 1 else [],
        notes=results.notes(),
    )


def _profiles(results: _Results) -> list[Profile]:
    """Of the algorithms that ran on every task, over all comparable tasks."""
    if not results.comparable:
        return []
    thresholds = np.linspace(0, 1, THRESHOLDS)
    scores = {name: [results.normalised(task, name)[:, -1] for task in results.comparable] for name in results.complete}
    return [Profile(name, thresholds.tolist(), performance_profile(each, thresholds)) for name, each in scores.items()]


def _together(results: _Results) -> list[Entry]:
    """The algorithms that ran on every task, over all comparable tasks."""
    tasks = results.comparable
    if not tasks:
        return []
    shared = sorted(set.intersection(*(set(results.env_steps[task]) for task in tasks)))
    entries = []
    for name in results.complete:
        scores = [results.normalised(task, name) for task in tasks]
        columns = [[results.env_steps[task].index(step) for step in shared] for task in tasks]
        curves = [each[:, chosen] for each, chosen in zip(scores, columns, strict=True)]
        counts = [results.episodes[task, name] for task in tasks]
        episodes = sum(filter(None, counts)) if all(counts) else None
        seconds = [results.seconds[task, name] for task in tasks]
        times = [sum(each[i] for each, i in zip(seconds, at, strict=True)) for at in zip(*columns, strict=True)]
        last = [each[:, -1] for each in scores]
        total = sum(each[-1] for each in seconds)
        group = results.group[tasks[0], name]
        entries.append(_entry(None, group, curves, shared, times, episodes, last, total))
    return entries


def _entry(
    task: str | None,
    group: Group,
    curves: list[np.ndarray],
    env_steps: list[int],
    seconds: Sequence[float],
    episodes: int | None,
    final: TaskScores | None = None,
    total_seconds: float | None = None,
) -> Entry:
    """The entry of the scores (seeds, len(env_steps)) of each task and the seconds at each of `env_steps`; `final` and
    `total_seconds` are those at the end, if tasks end at different steps. `task` is None for all tasks together.
    """
    final = [curve[:, -1] for curve in curves] if final is None else final
    return Entry(
        task=task or "all tasks",
        algorithm=group.algorithm,
        method=group.method,
        settings={key: value for key, value in group.settings.items() if task or not is_of_task(key)},
        num_seeds=min(len(scores) for scores in final),
        final=interquartile_mean_interval(final, episodes),
        mean=float(np.mean([scores.mean() for scores in final])),
        seconds=seconds[-1] if total_seconds is None else total_seconds,
        curve_seconds=list(seconds),
        env_steps=env_steps,
        curve=[interquartile_mean_interval([curve[:, k] for curve in curves], episodes) for k in range(len(env_steps))],
    )

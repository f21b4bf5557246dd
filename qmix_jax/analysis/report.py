"""What runs show together: runs -> groups -> comparisons -> a table, a picture, JSON, and marl-eval's JSON."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from qmix_jax.analysis.figure import draw_comparisons
from qmix_jax.analysis.runs import METRICS, Group, group_runs, read_runs
from qmix_jax.analysis.statistics import Estimate, Scores, interquartile_mean_interval, probability_of_improvement
from qmix_jax.console import say
from qmix_jax.records import to_json, write_text_atomically
from qmix_jax.reporters.display import duration
from qmix_jax.settings import require

IMPROVEMENT = (
    "How likely a run of one is better than a run of another [95 % stratified bootstrap interval, or where that has no "
    "width Wilson's for as many pairs as have no run in common]:"
)


@dataclass(frozen=True)
class Entry:
    """One algorithm on one task, or on all tasks of its environment together."""

    task: str
    algorithm: str
    num_seeds: int
    """The least of the tasks, where there are several."""
    final: Estimate
    """Interquartile mean of the last evaluation."""
    mean: float
    seconds: float
    """From a run's start to its last evaluation, compilation included and all its seeds together: the mean over runs;
    of all tasks together, their sum."""
    env_steps: list[int]
    curve: list[Estimate]
    """Interquartile mean at every one of `env_steps`."""


@dataclass(frozen=True)
class Improvement:
    """How likely a run of one algorithm is better than a run of another."""

    algorithm: str
    other: str
    probability: Estimate


@dataclass(frozen=True)
class Comparison:
    """The algorithms of one environment."""

    environment: str
    metric: str
    interval_method: str
    """How the intervals of scores were made."""
    tasks: list[Entry]
    together: list[Entry]
    """Algorithms that ran on every one of several tasks; scores are normalised where `is_normalised` says so."""
    is_normalised: bool
    """Returns of several tasks: 0 is the least, 1 the largest evaluation on the task, of any algorithm and seed."""
    improvements: list[Improvement]
    notes: list[str]


class _Results:
    """The scores of one environment, cut to the evaluations that all runs on a task have (see `_common_steps`)."""

    def __init__(self, groups: Sequence[Group]):
        self.groups = groups
        self.metric = _common_metric(groups)
        self.tasks = list(dict.fromkeys(group.task for group in groups))
        self.algorithms = list(dict.fromkeys(group.algorithm for group in groups))
        self.env_steps = {task: self._common_steps(task) for task in self.tasks}
        self.scores = {
            (group.task, group.algorithm): group.scores(self.metric, self.env_steps[group.task]) for group in groups
        }
        self.episodes = {
            (group.task, group.algorithm): group.episodes if self.metric == "win_rate" else None for group in groups
        }
        self.seconds = {
            (group.task, group.algorithm): group.seconds(self.env_steps[group.task][-1]) for group in groups
        }

    @property
    def is_normalised(self) -> bool:
        """Returns of different tasks have no common scale."""
        return len(self.tasks) > 1 and self.metric == "return"

    @property
    def interval_method(self) -> str:
        """How the intervals of scores are made, in words."""
        pooled = self.metric == "win_rate" and all(self.episodes.values())
        return "95 % stratified bootstrap interval" + ", no narrower than Wilson's over all episodes" * pooled

    @property
    def comparable(self) -> list[str]:
        """The tasks that count where all are taken together: scores that are all alike cannot be normalised."""
        return [task for task in self.tasks if not (self.is_normalised and self._is_constant(task))]

    def _is_constant(self, task: str) -> bool:
        low, high = self._range(task)
        return bool(np.isclose(low, high))

    def _range(self, task: str) -> tuple[float, float]:
        """The least and the largest evaluation on a task, of any algorithm and seed."""
        each = [scores for (other, _), scores in self.scores.items() if other == task]
        return min(float(scores.min()) for scores in each), max(float(scores.max()) for scores in each)

    @property
    def complete(self) -> list[str]:
        """The algorithms that ran on every task."""
        return [name for name in self.algorithms if all((task, name) in self.scores for task in self.tasks)]

    def _common_steps(self, task: str) -> list[int]:
        """The evaluations of the group that has fewest, as far as every other group has one since the one before."""
        each = [group.env_steps for group in self.groups if group.task == task]
        fewest = min(each, key=len)
        spans = pairwise([-1, *fewest])
        common = [now for before, now in spans if all(any(before < s <= now for s in steps) for steps in each)]
        require(bool(common), f"the runs on {task} have no evaluations that could be compared; report them apart")
        return common

    def normalised(self, task: str, algorithm: str) -> np.ndarray:
        """Scores (seeds, points) on a scale that all tasks share."""
        scores = self.scores[task, algorithm]
        if not self.is_normalised:
            return scores
        low, high = self._range(task)
        return (scores - low) / (high - low)

    def notes(self) -> list[str]:
        """What a reader must know of runs that were cut or left out."""
        notes = []
        for task in self.tasks:
            last, longest = self.env_steps[task][-1], max(g.env_steps[-1] for g in self.groups if g.task == task)
            if last < longest:
                notes.append(f"{task}: compared at {last:,} steps, the last evaluation that every run has")
            if any(set(self.env_steps[task]) - set(g.env_steps) for g in self.groups if g.task == task):
                notes.append(f"{task}: not all evaluated at the same steps; a score is a run's last one up to a step")
            if task not in self.comparable:
                notes.append(f"{task}: every evaluation is {self._range(task)[0]:g}, so it has no normalised score")
        left_out = [name for name in self.algorithms if name not in self.complete]
        if left_out:
            notes.append(f"not on every task, so only in the table by task: {', '.join(left_out)}")
        return notes


def _common_metric(groups: Sequence[Group]) -> str:
    runs = [run for group in groups for run in group.runs]
    for run in runs:
        require(bool(run.metrics), f"{run.folder} has no evaluation")
        if run.metrics != runs[0].metrics:
            has, others = " and ".join(run.metrics), " and ".join(runs[0].metrics)
            require(False, f"{run.folder} has eval/{has}, but {runs[0].folder} eval/{others}; report them apart")
    return runs[0].metrics[0]


def compare(groups: Sequence[Group]) -> list[Comparison]:
    """One comparison for each environment; raises ConfigError where runs cannot be compared."""
    environments = dict.fromkeys(group.environment for group in groups)
    return [_compare(name, _Results([group for group in groups if group.environment == name])) for name in environments]


def _compare(environment: str, results: _Results) -> Comparison:
    tasks, complete = results.tasks, results.complete
    final = {name: [results.scores[task, name][:, -1] for task in tasks] for name in complete}
    return Comparison(
        environment=environment,
        metric=results.metric,
        interval_method=results.interval_method,
        tasks=[
            _entry(*key, [scores], results.env_steps[key[0]], results.seconds[key], results.episodes[key])
            for key, scores in _by_task(results)
        ],
        together=_together(results) if len(tasks) > 1 else [],
        is_normalised=results.is_normalised,
        improvements=[
            Improvement(x, y, probability_of_improvement(final[x], final[y])) for x, y in combinations(complete, 2)
        ],
        notes=results.notes(),
    )


def _together(results: _Results) -> list[Entry]:
    """The algorithms that ran on every task, over all tasks that can be compared."""
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
        seconds = sum(results.seconds[task, name] for task in tasks)
        entries.append(_entry("all tasks", name, curves, shared, seconds, episodes, [each[:, -1] for each in scores]))
    return entries


def _by_task(results: _Results) -> list[tuple[tuple[str, str], np.ndarray]]:
    """The scores by task, and within each task in the same order of algorithms."""
    tasks, algorithms = results.tasks, results.algorithms
    return sorted(results.scores.items(), key=lambda item: (tasks.index(item[0][0]), algorithms.index(item[0][1])))


def _entry(
    task: str,
    algorithm: str,
    curves: list[np.ndarray],
    env_steps: list[int],
    seconds: float,
    episodes: int | None,
    final: Scores | None = None,
) -> Entry:
    """An entry of each task's scores (seeds, len(env_steps)); `final` are the last ones, where tasks share no step."""
    final = [curve[:, -1] for curve in curves] if final is None else final
    return Entry(
        task=task,
        algorithm=algorithm,
        num_seeds=min(len(scores) for scores in final),
        final=interquartile_mean_interval(final, episodes),
        mean=float(np.mean([scores.mean() for scores in final])),
        seconds=seconds,
        env_steps=env_steps,
        curve=[interquartile_mean_interval([curve[:, k] for curve in curves], episodes) for k in range(len(env_steps))],
    )


# --- what is written ---------------------------------------------------------------------------------------------


def write_report(paths: Sequence[Path], out: Path) -> str:
    """Compare the runs in and below the paths and write report.md, .png and .json and marl_eval.json to `out`.

    Returns:
        The table.

    Raises:
        ConfigError: where no run is left or runs cannot be compared; nothing is written then. Runs that are damaged,
            failed or without evaluations are left out with a warning.
    """
    runs, left_out = read_runs(paths)
    groups = group_runs(runs)
    comparisons = compare(groups)
    table = to_markdown(comparisons) + "".join(["\nLeft out:\n\n"] * bool(left_out) + [f"- {x}\n" for x in left_out])
    for each in left_out:
        say(f"warning: left out: {each}", sys.stderr)
    out.mkdir(parents=True, exist_ok=True)
    write_text_atomically(out / "report.md", table)
    write_text_atomically(out / "report.json", to_json([asdict(each) for each in comparisons], indent=1) + "\n")
    write_text_atomically(out / "marl_eval.json", to_json(to_marl_eval(groups), indent=1) + "\n")
    draw_comparisons(comparisons, out / "report.png")
    return table


def to_markdown(comparisons: Sequence[Comparison]) -> str:
    """The table of every environment."""
    return "\n\n".join(section for comparison in comparisons for section in _sections(comparison)) + "\n"


def _sections(comparison: Comparison) -> list[str]:
    percent = comparison.metric == "win_rate"
    scale = " (each task's least and largest evaluation as 0 and 1)" if comparison.is_normalised else ""
    name = METRICS[comparison.metric] + " %" * percent
    columns = ["seeds", "steps", f"IQM {name}", "mean", "wall clock"]
    parts = [
        f"## {comparison.environment}",
        f"Greedy {name} at the last evaluation: interquartile mean over seeds [{comparison.interval_method}].",
        _table(
            ["task", "algorithm", *columns],
            [_cells(entry, percent, entry.task) for entry in comparison.tasks],
        ),
    ]
    if comparison.together:
        rows = [_cells(entry, percent, None) for entry in comparison.together]
        parts += [f"All tasks together{scale}:", _table(["algorithm", *columns], rows)]
    if comparison.improvements:
        rows = [[f"{x} > {y}", show(p, percent=True)] for x, y, p in map(_fields, comparison.improvements)]
        parts += [IMPROVEMENT, _table(["", "probability %"], rows)]
    return parts + [f"- {note}" for note in comparison.notes]


def _fields(improvement: Improvement) -> tuple[str, str, Estimate]:
    return improvement.algorithm, improvement.other, improvement.probability


def _cells(entry: Entry, percent: bool, task: str | None) -> list[str]:
    mean = f"{100 * entry.mean:.1f}" if percent else f"{entry.mean:.2f}"
    steps = f"{entry.env_steps[-1]:,}" if entry.env_steps else "several"
    scores = [show(entry.final, percent), mean]
    return [*([task] if task else []), entry.algorithm, str(entry.num_seeds), steps, *scores, duration(entry.seconds)]


def show(estimate: Estimate, percent: bool) -> str:
    """`94.1 [91.6, 96.9]`."""
    texts = [f"{100 * x:.1f}" if percent else f"{x:.2f}" for x in estimate]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def to_marl_eval(groups: Sequence[Group]) -> dict[str, Any]:
    """The runs in marl-eval's layout (Gorsane et al. 2022): environment, task, algorithm, run, step, metric.

    Each metric is a list with one number, the mean over the evaluation's episodes. Runs are numbered, whatever their
    seeds, because marl-eval looks for the same names under every algorithm. `absolute_metrics` holds the last
    evaluation: runs do not keep their best policy to evaluate it at the end.
    """
    found: dict[str, Any] = {}
    for group in groups:
        runs = [(run, index) for run in group.runs for index in range(len(run.seeds))]
        named = {f"run_{number}": _marl_eval_run(group, *each) for number, each in enumerate(runs)}
        found.setdefault(group.environment, {}).setdefault(group.task, {})[group.algorithm] = named
    return found


def _marl_eval_run(group: Group, run: Any, index: int) -> dict[str, Any]:
    columns = {name: run.evaluations(name) for name in run.metrics}
    seconds = run.seconds()
    steps = {
        f"step_{number}": {
            "step_count": step,
            "elapsed_time": seconds[step],
            **{name: [column[step][index]] for name, column in columns.items()},
        }
        for number, step in enumerate(group.env_steps)
    }
    last = group.env_steps[-1]
    return {**steps, "absolute_metrics": {name: [column[last][index]] for name, column in columns.items()}}

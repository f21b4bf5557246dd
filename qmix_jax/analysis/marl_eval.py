"""Runs in the layout of marl-eval (Gorsane et al. 2022)."""

from collections.abc import Sequence
from typing import Any

from qmix_jax.analysis.grouping import Group
from qmix_jax.analysis.runs import RunFolder


def to_marl_eval(groups: Sequence[Group]) -> dict[str, Any]:
    """The runs by environment, task, algorithm, run, step and metric.

    A metric is a list with one number, the mean over the episodes of an evaluation. Runs are numbered, because
    marl-eval expects the same names under every algorithm. `absolute_metrics` is the last evaluation: runs do not
    evaluate their best policy once more at the end.
    """
    found: dict[str, Any] = {}
    for group in groups:
        runs = [(run, index) for run in group.runs for index in range(len(run.seeds))]
        named = {f"run_{number}": _marl_eval_run(group, *each) for number, each in enumerate(runs)}
        found.setdefault(group.environment, {}).setdefault(group.task, {})[group.algorithm] = named
    return found


def _marl_eval_run(group: Group, run: RunFolder, index: int) -> dict[str, Any]:
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

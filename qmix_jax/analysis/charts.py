"""The charts of a dashboard from run folders: a panel per metric, a line per group of runs."""

from collections.abc import Mapping, Sequence
from functools import partial, reduce
from typing import TYPE_CHECKING

import numpy as np

from qmix_jax.analysis.curve import Curve, panel_name, read_curve
from qmix_jax.analysis.drawing import draw_line, limit_to_lines
from qmix_jax.analysis.grid import Block, Panel, draw_grid
from qmix_jax.analysis.grouping import Group, by_key
from qmix_jax.analysis.looks import Look, looks_of
from qmix_jax.records import is_share, metric_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAINING = {
    "train/epsilon": "Epsilon",
    "train/loss": "Loss",
    "train/td_error": "TD error",
    "train/grad_norm": "Gradient norm",
    "train/q_mean": "Q_tot",
    "train/target_mean": "Target of Q_tot",
    "train/steps_per_second": "Environment steps a second",
}


def draw_charts(groups: Sequence[Group]) -> "Figure":
    """The panels of every environment: on each task one for every metric that any group has."""
    blocks = []
    for members in by_key(groups, lambda group: group.environment).values():
        looks, titles = looks_of(members), _titles(members)
        by_task = by_key(members, lambda group: group.task)
        is_alone = len(by_task) == 1 and len(members) == len(groups)
        panels = [
            Panel(title if is_alone else f"{task}: {title}", partial(_draw_panel, curves, looks))
            for task, on_task in by_task.items()
            for name, title in titles.items()
            if (curves := {each.algorithm: curve for each in on_task if (curve := curve_of(each, name)) is not None})
        ]
        blocks.append(Block(panels, [*looks.values()]))
    return draw_grid(blocks)


def _titles(groups: Sequence[Group]) -> dict[str, str]:
    """The title of each panel by metric: those of episodes, greedy and exploring, and those of training."""
    names = dict.fromkeys(name for group in groups for run in group.runs for name in metric_names(run.rows[-1]))
    titles = {}
    for prefix, play in {"eval": "greedy", "train": "exploring"}.items():
        for name in names:
            titles[f"{prefix}/{name}"] = f"{panel_name(name)}, {play}{' (%)' * is_share(name)}"
    return titles | TRAINING


def curve_of(group: Group, name: str) -> Curve | None:
    """The metric of all seeds of a group, at the steps that its runs share; None if they share none."""
    found = [curve for run in group.runs if (curve := read_curve(run.rows, name)) is not None]
    steps = reduce(np.intersect1d, [curve.env_steps for curve in found]) if found else np.empty(0)
    if not len(steps):
        return None
    shared = [np.isin(curve.env_steps, steps) for curve in found]
    values = np.concatenate([curve.values[:, here] for curve, here in zip(found, shared, strict=True)])
    counts = [curve.episodes[here] for curve, here in zip(found, shared, strict=True) if curve.episodes is not None]
    return Curve(steps, values, np.sum(counts, axis=0) if counts else None)


def _draw_panel(curves: dict[str, Curve], looks: Mapping[str, Look], axes: "Axes") -> None:
    """The mean over seeds of each group, with its interval."""
    for label, curve in curves.items():
        draw_line(axes, curve.env_steps, curve.interval(), looks[label].colour, looks[label].line, len(curves))
    if all(curve.episodes is None for curve in curves.values()):
        limit_to_lines(axes)

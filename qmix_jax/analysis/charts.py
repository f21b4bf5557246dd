"""The charts of a dashboard from run folders: a panel per metric, a line per group of runs."""

from collections.abc import Sequence
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qmix_jax.analysis.curve import Curve, panel_name, read_curve
from qmix_jax.analysis.drawing import COLOURS, INK, draw_grid, draw_line, in_rows, limit_to_lines, tidy
from qmix_jax.analysis.runs import Group
from qmix_jax.records import is_share, metric_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAINING = {
    "train/epsilon": "Epsilon",
    "train/loss": "Loss",
    "train/td_error": "TD error",
    "train/grad_norm": "Gradient norm",
    "train/q_mean": "Q_tot",
    "train/target_mean": "Target of Q_tot",
    "train/steps_per_second": "Environment steps a second",
}


def draw_charts(groups: Sequence[Group], path: Path) -> None:
    """One PNG with a panel for every metric that any group has."""
    panels = []
    for name, title in _titles(groups).items():
        curves = {label_of(group, groups): curve for group in groups if (curve := curve_of(group, name)) is not None}
        if curves:
            panels.append(partial(_draw_panel, title, curves, [label_of(group, groups) for group in groups]))
    draw_grid(in_rows(panels), path)


def _titles(groups: Sequence[Group]) -> dict[str, str]:
    """The title of each panel by metric: those of episodes, greedy and exploring, and those of training."""
    names = dict.fromkeys(name for group in groups for run in group.runs for name in metric_names(run.rows[-1]))
    titles = {}
    for prefix, play in {"eval": "greedy", "train": "exploring"}.items():
        for name in names:
            titles[f"{prefix}/{name}"] = f"{panel_name(name)}, {play}{' (%)' * is_share(name)}"
    return titles | TRAINING


def label_of(group: Group, groups: Sequence[Group]) -> str:
    """The name of a group's line."""
    several = len({(each.environment, each.task) for each in groups}) > 1
    return f"{group.task}: {group.algorithm}" if several else group.algorithm


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


def _draw_panel(title: str, curves: dict[str, Curve], labels: list[str], axes: "Axes") -> None:
    """The mean over seeds of each group, with its interval."""
    tidy(axes, title)
    for label, curve in curves.items():
        draw_line(axes, curve.env_steps, curve.interval(), COLOURS[labels.index(label) % len(COLOURS)], label)
    if all(curve.episodes is None for curve in curves.values()):
        limit_to_lines(axes)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)

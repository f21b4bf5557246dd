"""A dashboard's charts, drawn from run folders alone: one panel a metric, one line a group of runs that are alike.

python experiments/charts.py multirun/*                          # every run in and below a folder, to charts.png
python experiments/charts.py runs/3m-qmix runs/3m-vdn --out curves.png

Lines are means over seeds, with a 95 % bootstrap interval (of win rates no narrower than Wilson's over all episodes).
`qmix-jax report` groups runs in the same way and says who is better.
"""

import argparse
import math
import sys
from functools import reduce
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from qmix_jax.analysis.curve import INK, Curve, interval, read_curve, tidy, write_png
from qmix_jax.analysis.figure import COLOURS, COLUMNS, PANEL_HEIGHT, PANEL_WIDTH
from qmix_jax.analysis.runs import Group, find_runs, group_runs, read_run
from qmix_jax.settings import ConfigError

PANELS = {
    "eval/win_rate": "Win rate, greedy (%)",
    "eval/return": "Return, greedy",
    "eval/episode_length": "Episode length, greedy",
    "train/win_rate": "Win rate, exploring (%)",
    "train/return": "Return, exploring",
    "train/epsilon": "Epsilon",
    "train/loss": "Loss",
    "train/td_error": "TD error",
    "train/grad_norm": "Gradient norm",
    "train/q_mean": "Q_tot",
    "train/target_mean": "Target of Q_tot",
    "train/steps_per_second": "Environment steps a second",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="a run's folder, or one with runs below it")
    parser.add_argument("--out", type=Path, default=Path("charts.png"))
    arguments = parser.parse_args()
    try:
        groups = group_runs([read_run(folder) for folder in find_runs(arguments.runs)])
    except ConfigError as error:
        sys.exit(f"error: {error}")
    draw(groups, arguments.out)
    print(f"Written to {arguments.out}: {', '.join(label_of(group, groups) for group in groups)}")


def label_of(group: Group, groups: list[Group]) -> str:
    several = len({(each.environment, each.task) for each in groups}) > 1
    return f"{group.task}: {group.algorithm}" if several else group.algorithm


def curve_of(group: Group, metric: str) -> Curve | None:
    """The metric of all seeds of a group, at the steps that its runs share; None where they share none."""
    found = [curve for run in group.runs if (curve := read_curve(run.rows, metric)) is not None]
    steps = reduce(np.intersect1d, [curve.env_steps for curve in found]) if found else np.empty(0)
    if not len(steps):
        return None
    return Curve(steps, np.concatenate([curve.values[:, np.isin(curve.env_steps, steps)] for curve in found]))


def draw(groups: list[Group], path: Path) -> None:
    """One PNG with a panel for every metric that any group has."""
    curves = {metric: [curve_of(group, metric) for group in groups] for metric in PANELS}
    shown = [metric for metric, found in curves.items() if any(found)]
    rows = math.ceil(len(shown) / COLUMNS)
    size = (PANEL_WIDTH * COLUMNS, PANEL_HEIGHT * rows)
    figure = Figure(figsize=size, dpi=110, facecolor="white", layout="constrained")
    places = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    labels = [label_of(group, groups) for group in groups]
    for metric, axes in zip(shown, places, strict=False):
        tidy(axes, PANELS[metric], 10.5)
        for number, (label, curve) in enumerate(zip(labels, curves[metric], strict=True)):
            if curve is not None:
                plot(axes, curve, label, COLOURS[number % len(COLOURS)], *scale_of(groups[number], metric, curve))
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    for axes in places[len(shown) :]:
        axes.set_axis_off()
    write_png(FigureCanvasAgg(figure), path)


def scale_of(group: Group, metric: str, curve: Curve) -> tuple[float, np.ndarray | None]:
    """What the metric is multiplied by for the eye, and of a win rate the episodes of all seeds together."""
    if "win_rate" not in metric:
        return 1, None
    counts = curve_of(group, metric.replace("win_rate", "episodes"))
    if counts is None or len(counts.env_steps) != len(curve.env_steps):  # rows of an earlier version
        return 100, None
    return 100, counts.values.sum(0)


def plot(axes: Axes, curve: Curve, label: str, colour: str, factor: float, episodes: np.ndarray | None = None) -> None:
    low, high = interval(curve.values, episodes)
    marker = "o" if len(curve.env_steps) == 1 else None
    axes.fill_between(curve.env_steps, factor * low, factor * high, color=colour, alpha=0.15, linewidth=0)
    mean = factor * np.nanmean(curve.values, axis=0)
    axes.plot(curve.env_steps, mean, color=colour, linewidth=1.8, marker=marker, label=label)


if __name__ == "__main__":
    main()

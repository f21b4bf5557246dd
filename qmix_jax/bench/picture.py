"""The picture of a bench: speeds and bounds, shares of the time, and how the cost grows."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qmix_jax.analysis.drawing import FAINT, GRID, INK, MAIN, style
from qmix_jax.bench.report import AXES, SHARES, quantity, show
from qmix_jax.files import write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIGHT, TITLE = "#a9c9ec", 11
SHARE_COLOURS = ("#1f77d0", "#e2873b", "#4aa564", "#b4bcc9")
SPEEDS = {
    "training/env_steps_per_second": ("training", MAIN),
    "training_without_evaluation/env_steps_per_second": ("training without evaluation", MAIN),
    "rollout/env_steps_per_second": ("rollout alone", LIGHT),
    "environment/env_steps_per_second": ("environment alone", LIGHT),
    "learner/env_steps_per_second": ("learner alone", LIGHT),
    "learner/limit_env_steps_per_second": ("learner at the rate of a matrix product", LIGHT),
}
"""The bars from top to bottom: figure -> (label, colour)."""
UPPER, LOWER = 4.1, 3.4  # inches


def draw(results: dict, path: Path) -> None:
    """Write the PNG; without growth, only its upper half."""
    from matplotlib.figure import Figure

    height = UPPER + (LOWER if results["growth"] else 0)
    figure = Figure(figsize=(12, height), dpi=110, facecolor="white")
    _draw_head(figure, results)
    grid = figure.add_gridspec(
        1, 2, width_ratios=(1.7, 1), left=0.25, right=0.97, top=1 - 1.35 / height, bottom=1 - 3.75 / height, wspace=0.3
    )
    _draw_speeds(figure.add_subplot(grid[0]), results["figures"])
    _draw_shares(figure.add_subplot(grid[1]), results["figures"])
    if results["growth"]:
        _draw_all_growth(figure, results)
    write_figure(path, figure)


def _inches_down(figure: "Figure", inches: float) -> float:
    """The relative height in the figure at so many inches below its top."""
    return 1 - inches / figure.get_figheight()


def _draw_head(figure: "Figure", results: dict) -> None:
    machine = results["machine"]
    devices = machine["devices"]
    under = (
        f"{devices['count']} x {devices['kind']}  ·  {machine['cpu']}  ·  jax {machine['versions']['jax']}"
        "  ·  medians, and the range of all repeats"
    )
    figure.text(0.03, _inches_down(figure, 0.4), results["title"], fontsize=15, color=INK, va="center", weight="bold")
    figure.text(0.03, _inches_down(figure, 0.72), under, fontsize=10, color=FAINT, va="center")


class _Bar(NamedTuple):
    value: float
    colour: str
    text: str
    end: float
    """Where the text begins."""


def _draw_speeds(axes: "Axes", figures: dict[str, dict]) -> None:
    """A bar for each speed, with the range of its repeats."""
    bars = []
    for row, (name, (_, colour)) in enumerate(SPEEDS.items()):
        value, low, high = (figures[name][key] for key in ("median", "low", "high"))
        bars.append(_Bar(value, colour, quantity(value), max(value, high)))
        axes.plot([low, high], [row, row], color=INK, linewidth=1.2, solid_capstyle="butt", zorder=3)
    _draw_bars(axes, "Environment steps a second", [text for text, _ in SPEEDS.values()], bars)
    axes.set_xlim(0, 1.14 * max(figures[name]["high"] for name in SPEEDS))


def _draw_shares(axes: "Axes", figures: dict[str, dict]) -> None:
    """Each part's share of training's time."""
    shares = [figures[f"share_of_training/{share}"]["median"] for share in SHARES]
    each = zip(shares, SHARE_COLOURS, strict=True)
    bars = [_Bar(max(share, 0), colour, f"{share:z.0%}", max(share, 0)) for share, colour in each]
    _draw_bars(axes, "Share of training's time", SHARES, bars)
    axes.set_xlim(0, 1.1)


def _draw_bars(axes: "Axes", title: str, labels: Sequence[str], bars: Sequence[_Bar]) -> None:
    """Bars from top to bottom."""
    style(axes, title, TITLE)
    for row, (value, colour, text, end) in enumerate(bars):
        axes.barh(row, value, height=0.62, color=colour)
        axes.annotate(text, (end, row), (6, 0), textcoords="offset points", fontsize=9.5, color=INK, va="center")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _draw_all_growth(figure: "Figure", results: dict) -> None:
    growth = results["growth"]
    top = _inches_down(figure, UPPER + 0.1)
    figure.text(0.03, top, "How long an iteration of training takes, in ms", fontsize=11, color=INK, va="center")
    figure.text(0.335, top, "one setting enlarged; dashed: slope 1", fontsize=10, color=FAINT, va="center")
    highest, lowest = _inches_down(figure, UPPER + 0.75), 0.4 / figure.get_figheight()
    grid = figure.add_gridspec(1, len(growth), left=0.06, right=0.97, top=highest, bottom=lowest, wspace=0.12)
    panels = []
    for column, (axis, points) in enumerate(growth.items()):
        panels.append(figure.add_subplot(grid[column], sharey=panels[0] if panels else None))
        _draw_growth(panels[-1], results["figures"], axis, points)


def _draw_growth(axes: "Axes", figures: dict[str, dict], axis: str, points: list[dict]) -> None:
    """One panel: the points with their ranges, and a line of slope 1."""
    from matplotlib.ticker import LogLocator

    style(axes, AXES[axis], TITLE)
    if exponent := figures.get(f"{axis}/slope"):
        slope = f"slope {show('slope', exponent['median'])}"
        axes.text(0.04, 0.96, slope, transform=axes.transAxes, fontsize=9.5, color=FAINT, va="top")
    sizes = np.array([point["size"] for point in points])
    seconds = [figures[f"{axis}={point['label']}/seconds_per_iteration"] for point in points]
    low, mid, high = (1e3 * np.array([each[key] for each in seconds]) for key in ("low", "median", "high"))
    axes.loglog(sizes, mid[:1] * sizes / sizes[:1], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(sizes, mid, color=MAIN, linewidth=2, marker="o", markersize=5)
    axes.vlines(sizes, low, high, color=INK, linewidth=1.2)
    axes.minorticks_off()
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.label_outer()

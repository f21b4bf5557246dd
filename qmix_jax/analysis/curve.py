"""The learning curve of a run as a picture of its metrics.jsonl."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qmix_jax.analysis.drawing import FAINT, INK, MAIN, limit_to_lines, tidy
from qmix_jax.console import duration
from qmix_jax.files import write_figure
from qmix_jax.records import count_episodes, is_share, metric_names
from qmix_jax.statistics import mean_over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDE_PANELS = 3
"""A figure with more panels beside the score is higher."""
NAMES = {"train/loss": "Training loss"}
"""Titles of panels; other panels are titled by their metric."""


class Curve(NamedTuple):
    """One metric over a run; NaN where it is missing."""

    env_steps: np.ndarray
    """(points,)"""
    values: np.ndarray
    """(seeds, points)"""
    episodes: np.ndarray | None = None
    """(points,) of a share, the number of episodes of all seeds together; NaN where it is not known."""

    @property
    def scale(self) -> int:
        """Shares are drawn in percent."""
        return 1 if self.episodes is None else 100

    def interval(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean over seeds, low and high, as drawn: see `statistics.mean_over_seeds`."""
        mean, low, high = mean_over_seeds(self.values, self.episodes)
        return self.scale * mean, self.scale * low, self.scale * high


def read_curve(rows: Sequence[dict], name: str) -> Curve | None:
    """A metric, such as eval/return, of all rows that have a value of it; None if there are none."""
    found = [(row, _numbers(row.get(name))) for row in rows if row.get("env_steps") is not None]
    found = [(row, numbers) for row, numbers in found if np.isfinite(numbers).any()]
    if not found:
        return None
    values = np.full((max(len(numbers) for _, numbers in found), len(found)), np.nan)
    for point, (_, numbers) in enumerate(found):
        values[: len(numbers), point] = numbers
    values[~np.isfinite(values)] = np.nan
    episodes = np.array([count_episodes(row, name) or np.nan for row, _ in found]) if is_share(name) else None
    return Curve(np.array([float(row["env_steps"]) for row, _ in found]), values, episodes)


def _numbers(value: Any) -> list[float]:
    """A number or a list of them, with NaN for what is missing."""
    items = value if isinstance(value, list | tuple | np.ndarray) else [value]
    return [float("nan") if item is None else float(item) for item in items]


def draw_curve(rows: list[dict], path: Path, *, title: str) -> None:
    """Draw the score (the win rate if there is one, else the return) large, and the other metrics beside it."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(["return", "episode_length", *(name for row in rows for name in metric_names(row))]))
    score = "win_rate" if "win_rate" in names else "return"
    side = [f"eval/{name}" for name in names if name != score] + ["train/loss"]
    height = 5.2 + 1.6 * max(0, len(side) - SIDE_PANELS)
    figure = Figure(figsize=(11, height), dpi=110, facecolor="white")
    grid = figure.add_gridspec(
        len(side), 2, width_ratios=(2.3, 1), left=0.055, right=0.985, top=1 - 1.04 / height, bottom=0.546 / height,
        hspace=0.75, wspace=0.16,
    )  # fmt: skip
    large = figure.add_subplot(grid[:, 0])
    main = read_curve(rows, f"eval/{score}")
    tidy(large, f"{panel_name(score)} of greedy evaluation{' (%)' * is_share(score)}", 11.5)
    _plot(large, main, 2.6)
    large.set_xlim(*_span(rows))
    large.set_xlabel("environment steps", color=FAINT, fontsize=10)
    for row, name in enumerate(side):
        axes = figure.add_subplot(grid[row, 1])
        tidy(axes, NAMES.get(name, panel_name(name)) + " (%)" * is_share(name), 9.5)
        _plot(axes, read_curve(rows, name), 1.6)
        axes.set_xlim(*_span(rows))
    figure.text(0.055, 1 - 0.286 / height, title, fontsize=15, color=INK, va="center", weight="bold")
    figure.text(0.055, 1 - 0.546 / height, _subtitle(rows, main), fontsize=10, color=FAINT, va="center")
    write_figure(path, figure)


def panel_name(name: str) -> str:
    """`Win rate` for eval/win_rate."""
    return name.rpartition("/")[2].replace("_", " ").capitalize()


def _span(rows: Sequence[dict]) -> tuple[float, float]:
    """The range of environment steps of every panel."""
    steps = [float(row["env_steps"]) for row in rows if row.get("env_steps") is not None]
    return (0.0, max(steps, default=0.0) * 1.02 or 1.0)


def _plot(axes: "Axes", curve: Curve | None, width: float) -> None:
    """Each seed thin, the mean thick, its interval shaded."""
    if curve is None:
        axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", va="center", color=FAINT)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    steps, (mean, low, high) = curve.env_steps, curve.interval()
    marker = "o" if len(steps) == 1 else None
    if len(curve.values) > 1:
        axes.fill_between(steps, low, high, color=MAIN, alpha=0.2, linewidth=0)
        for seed in curve.scale * curve.values:
            axes.plot(steps, seed, color=MAIN, linewidth=0.7, alpha=0.35, marker=marker, markersize=3)
    axes.plot(steps, mean, color=MAIN, linewidth=width, marker=marker, solid_capstyle="round")
    if curve.episodes is None:
        limit_to_lines(axes)
    else:
        axes.set_ylim(-2, 102)


def _subtitle(rows: Sequence[dict], score: Curve | None) -> str:
    """The number of seeds, what is shaded, and the time."""
    parts = []
    if score is not None:
        seeds = len(score.values)
        parts.append("1 seed" if seeds == 1 else f"mean of {seeds} seeds, 95 % interval shaded")
    return "  ·  ".join([*parts, *filter(None, [_wall_clock(rows)])])


def _wall_clock(rows: Sequence[dict]) -> str:
    """How long the run took."""

    def last(key: str) -> float:
        return next((float(row[key]) for row in reversed(rows) if row.get(key) is not None), 0.0)

    if not last("wall_seconds"):
        return ""
    compiling = f"  ·  compiling {duration(last('compile_seconds'))}" if last("compile_seconds") else ""
    return f"{duration(last('wall_seconds'))} of wall-clock time{compiling}"

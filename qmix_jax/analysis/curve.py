"""The learning curve of a run as a picture: what `metrics.jsonl` says, for the eye."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qmix_jax.analysis.statistics import widen
from qmix_jax.records import known

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#1c2430"
FAINT = "#8a94a6"
MAIN = "#1f77d0"
RESAMPLES = 1000
SMALL_PANELS = {"eval/return": "Return", "eval/episode_length": "Episode length", "train/loss": "Training loss"}


class Curve(NamedTuple):
    """One measure over a run; NaN where it is missing."""

    env_steps: np.ndarray
    """(points,)"""
    values: np.ndarray
    """(seeds, points)"""


def _numbers(value: Any) -> list[float]:
    """A scalar or a list of a row, with NaN for what is missing."""
    items = value if isinstance(value, list | tuple | np.ndarray) else [value]
    return [float("nan") if item is None else float(item) for item in items]


def read_curve(rows: Sequence[dict], key: str) -> Curve | None:
    """The measure `key` of all rows that have any of it, or None."""
    found = [(float(row["env_steps"]), _numbers(row.get(key))) for row in rows if row.get("env_steps") is not None]
    found = [(step, numbers) for step, numbers in found if np.isfinite(numbers).any()]
    if not found:
        return None
    values = np.full((max(len(numbers) for _, numbers in found), len(found)), np.nan)
    for point, (_, numbers) in enumerate(found):
        values[: len(numbers), point] = numbers
    values[~np.isfinite(values)] = np.nan
    return Curve(np.array([step for step, _ in found]), values)


def _episodes(rows: Sequence[dict], env_steps: np.ndarray) -> np.ndarray:
    """(points,) the episodes of all seeds together in each evaluation; NaN where a row does not say."""
    counts = {
        row["env_steps"]: sum(known(row.get("eval/episodes"))) for row in rows if row.get("env_steps") is not None
    }
    return np.array([counts[step] or np.nan for step in env_steps])


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over the first axis of what is there; NaN where nothing is."""
    present = np.isfinite(values)
    total, count = np.where(present, values, 0.0).sum(0), present.sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def interval(values: np.ndarray, episodes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Low and high of the 95 % interval of the mean over seeds, for values (seeds, points).

    Whole seeds are drawn again and again (percentile bootstrap) with a fixed generator; NaN counts as missing.
    The interval always holds the mean, and is the mean where there is one seed. With `episodes` (points,), those of all
    seeds together (NaN: unknown), the values are shares of them, and the interval is no narrower than Wilson's: see
    `statistics.widen`.
    """
    values = np.asarray(values, np.float64)
    mean = _mean(values)
    if len(values) < 2:
        return mean, mean.copy()
    draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.empty_like(mean), np.empty_like(mean)
    for point in range(values.shape[1]):
        means = _mean(values[draws, point].T)
        means = means[np.isfinite(means)]
        low[point], high[point] = np.percentile(means, (2.5, 97.5)) if len(means) else (np.nan, np.nan)
    low, high = np.fmin(low, mean), np.fmax(high, mean)
    return (low, high) if episodes is None else widen(mean, low, high, episodes)


def _steps_text(value: float, _: object = None) -> str:
    """250k, 0.5M, 1M."""
    if abs(value) >= 1e9:
        return f"{value / 1e9:g}B"
    if abs(value) >= 5e5:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"


def tidy(axes: "Axes", title: str, size: float) -> None:
    """Only what is needed of an axes' furniture."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_title(title, loc="left", fontsize=size, color=INK, pad=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c9d0db")
    axes.tick_params(colors=FAINT, labelcolor=INK, labelsize=size - 2, length=3)
    axes.grid(axis="y", color="#e8ecf2", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(FuncFormatter(_steps_text))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def _span(rows: Sequence[dict]) -> tuple[float, float]:
    """The same stretch of environment steps for every panel."""
    steps = [float(row["env_steps"]) for row in rows if row.get("env_steps") is not None]
    return (0.0, max(steps, default=0.0) * 1.02 or 1.0)


def _plot(axes: "Axes", curve: Curve | None, width: float, episodes: np.ndarray | None = None) -> None:
    """Each seed thin, the mean thick, and its interval shaded; with `episodes` (see `interval`) in percent."""
    if curve is None:
        axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", va="center", color=FAINT)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    factor = 1 if episodes is None else 100
    steps, values = curve.env_steps, factor * curve.values
    marker = "o" if len(steps) == 1 else None
    if len(values) > 1:
        low, high = interval(curve.values, episodes)
        axes.fill_between(steps, factor * low, factor * high, color=MAIN, alpha=0.2, linewidth=0)
        for seed in values:
            axes.plot(steps, seed, color=MAIN, linewidth=0.7, alpha=0.35, marker=marker, markersize=3)
    axes.plot(steps, _mean(values), color=MAIN, linewidth=width, marker=marker, solid_capstyle="round")
    if episodes is not None:
        axes.set_ylim(-2, 102)


def _wall_clock(rows: Sequence[dict]) -> str:
    """How long the run took."""

    def last(key: str) -> float:
        return next((float(row[key]) for row in reversed(rows) if row.get(key) is not None), 0.0)

    def words(seconds: float) -> str:
        return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"

    if not last("wall_seconds"):
        return ""
    compiling = f"  ·  compiling {words(last('compile_seconds'))}" if last("compile_seconds") else ""
    return f"{words(last('wall_seconds'))} of wall-clock time{compiling}"


def _subtitle(rows: Sequence[dict], main: Curve | None) -> str:
    """Seeds, what is shaded, and the time."""
    parts = []
    if main is not None:
        seeds = len(main.values)
        parts.append("1 seed" if seeds == 1 else f"mean of {seeds} seeds, 95 % bootstrap interval shaded")
    return "  ·  ".join([*parts, *filter(None, [_wall_clock(rows)])])


def draw_curve(rows: list[dict], path: Path, *, title: str) -> None:
    """Draw the run's lines of `metrics.jsonl`: the main score large, other measures beside it; written whole."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    win_rate = read_curve(rows, "eval/win_rate")
    main = win_rate if win_rate is not None else read_curve(rows, "eval/return")
    score = "Win rate of greedy evaluation (%)" if win_rate is not None else "Return of greedy evaluation"
    small = {key: name for key, name in SMALL_PANELS.items() if win_rate is not None or key != "eval/return"}
    figure = Figure(figsize=(11, 5.2), dpi=110, facecolor="white")
    grid = figure.add_gridspec(
        len(small), 2, width_ratios=(2.3, 1), left=0.055, right=0.985, top=0.8, bottom=0.105, hspace=0.75, wspace=0.16
    )
    large = figure.add_subplot(grid[:, 0])
    tidy(large, score, 11.5)
    _plot(large, main, 2.6, None if win_rate is None else _episodes(rows, win_rate.env_steps))
    large.set_xlim(*_span(rows))
    large.set_xlabel("environment steps", color=FAINT, fontsize=10)
    for row, (key, name) in enumerate(small.items()):
        axes = figure.add_subplot(grid[row, 1])
        tidy(axes, name, 9.5)
        _plot(axes, read_curve(rows, key), 1.6)
        axes.set_xlim(*_span(rows))
    figure.text(0.055, 0.945, title, fontsize=15, color=INK, va="center", weight="bold")
    figure.text(0.055, 0.895, _subtitle(rows, main), fontsize=10, color=FAINT, va="center")
    write_png(FigureCanvasAgg(figure), Path(path))


def write_png(canvas, path: Path) -> None:
    """Write the PNG so that the file is never seen half-written."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        canvas.print_figure(scratch, format="png", dpi=canvas.figure.dpi)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)

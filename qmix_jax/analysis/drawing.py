"""What the figures share: colours, axes, a grid of panels."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qmix_jax.files import write_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#1c2430"
FAINT = "#8a94a6"
GRID = "#e8ecf2"
MAIN = "#1f77d0"
COLOURS = (
    "#1f77d0",
    "#e8710a",
    "#2a9d4a",
    "#c0392b",
    "#7d4fc4",
    "#8c6239",
    "#d6479b",
    "#5f6b7a",
    "#a3a81e",
    "#17a2b8",
    "#111111",
    "#f5c518",
    "#86bff0",
    "#7fd69b",
)
COLUMNS = 3
PANEL_WIDTH, PANEL_HEIGHT = 4.6, 3.4
PANEL_TITLE = 10.5

DrawPanel = Callable[["Axes"], None]


def draw_grid(rows: Sequence[Sequence[DrawPanel]], path: Path) -> None:
    """Write a PNG with rows of at most `COLUMNS` panels."""
    from matplotlib.figure import Figure

    size = (PANEL_WIDTH * COLUMNS, PANEL_HEIGHT * len(rows))
    figure = Figure(figsize=size, dpi=110, facecolor="white", layout="constrained")
    axes = figure.subplots(len(rows), COLUMNS, squeeze=False)
    for places, panels in zip(axes, rows, strict=True):
        for place, draw in zip(places, panels, strict=False):
            draw(place)
        for place in places[len(panels) :]:
            place.set_axis_off()
    write_png(path, figure)


def in_rows(panels: Sequence[DrawPanel]) -> list[Sequence[DrawPanel]]:
    """Panels in rows of `COLUMNS`."""
    return [panels[k : k + COLUMNS] for k in range(0, len(panels), COLUMNS)]


def style(axes: "Axes", title: str, size: float) -> None:
    """A title, few spines and small ticks."""
    axes.set_title(title, loc="left", fontsize=size, color=INK, pad=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c9d0db")
    axes.tick_params(colors=FAINT, labelcolor=INK, labelsize=size - 2, length=3)


def tidy(axes: "Axes", title: str, size: float = PANEL_TITLE) -> None:
    """Style axes over environment steps."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    style(axes, title, size)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(FuncFormatter(_steps_text))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def draw_line(axes: "Axes", env_steps: Any, estimates: Any, colour: str, label: str, alpha: float = 0.15) -> None:
    """A line of estimates (mean, low and high, each (points,)), its interval shaded; a single point as a dot."""
    mean, low, high = estimates
    axes.fill_between(env_steps, low, high, color=colour, alpha=alpha, linewidth=0)
    axes.plot(env_steps, mean, color=colour, linewidth=1.8, marker="o" if len(mean) == 1 else None, label=label)


def limit_to_lines(axes: "Axes") -> None:
    """Limit the y axis to three times the range of the lines: an interval of two seeds can be far wider."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    low, high = np.nanmin(values), np.nanmax(values)
    span, (bottom, top) = (high - low) or abs(high) or 1.0, axes.get_ylim()
    axes.set_ylim(max(bottom, low - span), min(top, high + span))


def _steps_text(value: float, _: object = None) -> str:
    """250k, 0.5M, 1M."""
    if abs(value) >= 1e9:
        return f"{value / 1e9:g}B"
    if abs(value) >= 5e5:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"


def draw_numbers(values: np.ndarray, text: str, axes: "Axes", colours: str, low: float, high: float) -> None:
    """A table with coloured cells; cells with NaN stay empty."""
    axes.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto")
    for row, column in np.argwhere(~np.isnan(values)):
        axes.text(column, row, text.format(values[row, column]), ha="center", va="center", fontsize=9, color=INK)

"""What the figures share: colours, axes, lines, tables."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

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
)
PANEL_TITLE = 10.5
MANY_CURVES = 6
"""More lines than this have fainter intervals."""


def style(axes: "Axes", title: str, size: float) -> "Text":
    """A title, which is returned, few spines and small ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c9d0db")
    axes.tick_params(colors=FAINT, labelcolor=INK, labelsize=size - 2, length=3)
    return axes.set_title(title, loc="left", fontsize=size, color=INK, pad=8)


def tidy(axes: "Axes", title: str, size: float = PANEL_TITLE) -> "Text":
    """Style axes over environment steps; returns the title."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(FuncFormatter(_steps_text))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter("{x:g}")
    return style(axes, title, size)


def draw_line(axes: "Axes", env_steps: Any, estimates: Any, colour: Any, line: str, count: int) -> None:
    """One of `count` lines of estimates (mean, low and high, each (points,)), its interval shaded; a single point as a
    dot.
    """
    mean, low, high = estimates
    alpha = 0.15 if count <= MANY_CURVES else 0.06
    axes.fill_between(env_steps, low, high, color=colour, alpha=alpha, linewidth=0)
    axes.plot(env_steps, mean, color=colour, linestyle=line, linewidth=1.8, marker="o" if len(mean) == 1 else None)


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


def draw_numbers(
    values: np.ndarray, text: str, axes: "Axes", colours: str, low: float, high: float, size: float = 9
) -> None:
    """A table with coloured cells; cells with NaN stay empty."""
    axes.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto")
    style = {"ha": "center", "va": "center", "fontsize": size, "color": INK, "in_layout": False}
    for row, column in np.argwhere(~np.isnan(values)):
        axes.text(column, row, text.format(values[row, column]), **style)

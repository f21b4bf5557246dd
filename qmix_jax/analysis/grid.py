"""Figures of any number of panels, with legends below them."""

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qmix_jax.analysis.drawing import tidy
from qmix_jax.analysis.looks import Look, draw_legend, legend_height

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

COLUMNS = 3
PANEL_WIDTH, PANEL_HEIGHT = 4.6, 3.4
TITLE_LETTERS = 46
"""A longer title of a panel is broken into lines."""


class Panel(NamedTuple):
    """A part of a figure."""

    title: str
    draw: Callable[["Axes"], None]
    columns: int = 1
    """Its width."""
    height: float = PANEL_HEIGHT
    """The least height, in inches."""


class Block(NamedTuple):
    """Panels, with a legend below them where they have looks."""

    panels: Sequence[Panel]
    looks: Sequence[Look] = ()


def draw_grid(blocks: Sequence[Block]) -> "Figure":
    """A figure of blocks, one below another, each with its panels in rows of `COLUMNS`."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = [_in_rows(block.panels) for block in blocks]
    columns = max(sum(panel.columns for panel in row) for each in rows for row in each)
    width, heights = PANEL_WIDTH * columns, []
    for block, each in zip(blocks, rows, strict=True):
        heights += [max(panel.height for panel in row) for row in each]
        heights += [legend_height(block.looks, width)] if block.looks else []
    with matplotlib.rc_context({"text.parse_math": False}):  # a $ in the name of a group is a $
        figure = Figure(figsize=(width, sum(heights)), dpi=110, facecolor="white")
        parts = iter(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
        titles: dict[Axes, Text] = {}
        for block, each in zip(blocks, rows, strict=True):
            for row in each:
                titles |= _draw_row(next(parts), row, columns)
            if block.looks:
                draw_legend(block.looks, next(parts), width)
        ConstrainedLayoutEngine().execute(figure)
        _align(titles)
    return figure


def _in_rows(panels: Sequence[Panel]) -> list[list[Panel]]:
    """Panels in rows of at most `COLUMNS`."""
    rows: list[list[Panel]] = [[]]
    for panel in panels:
        if sum(each.columns for each in rows[-1]) + panel.columns > COLUMNS:
            rows.append([])
        rows[-1].append(panel)
    return rows


def _draw_row(part: Any, row: Sequence[Panel], columns: int) -> dict["Axes", "Text"]:
    """Draw panels from the left; returns their titles."""
    grid, titles = part.add_gridspec(1, columns), {}
    starts = np.cumsum([0, *(panel.columns for panel in row)])
    for panel, start in zip(row, starts, strict=False):
        axes = part.add_subplot(grid[0, start : start + panel.columns])
        titles[axes] = tidy(axes, textwrap.fill(panel.title, TITLE_LETTERS * panel.columns))
        panel.draw(axes)
    for empty in range(starts[-1], columns):
        part.add_subplot(grid[0, empty]).set_axis_off()
    return titles


def _align(titles: dict["Axes", "Text"]) -> None:
    """Start every title at the left of its panel's labels, so that it has the whole width of the panel."""
    for axes, title in titles.items():
        box = axes.get_tightbbox(for_layout_only=True)
        if box is not None:
            title.set_x(axes.transAxes.inverted().transform((box.x0, 0))[0])

"""Heat maps: the scores of two settings that were swept together."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qmix_jax.analysis.comparison import Comparison, Entry
from qmix_jax.analysis.drawing import FAINT, draw_numbers
from qmix_jax.analysis.grid import PANEL_WIDTH, Block, Panel, draw_grid
from qmix_jax.analysis.grouping import by_key, is_of_task, short_names, value_labels, value_order
from qmix_jax.analysis.looks import cut
from qmix_jax.records import is_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL = 0.5
"""The width of a cell, in inches."""
LABEL = 20
"""The most characters of a value."""


class Grid(NamedTuple):
    """The scores of one algorithm on one task by two settings."""

    names: tuple[str, str]
    """Of the settings: down, across."""
    values: tuple[list[Any], list[Any]]
    """Of the settings, in order."""
    scores: np.ndarray
    """(down, across); NaN where nothing was tried."""


def draw_heat_maps(comparisons: Sequence[Comparison]) -> "Figure | None":
    """A panel for each algorithm on each task of which exactly two settings form a grid; None without any."""
    panels = []
    for comparison in comparisons:
        for entries in by_key(comparison.tasks, lambda entry: (entry.task, entry.method)).values():
            grid = grid_of(entries)
            if grid is not None:
                factor, form = (100, "{:.1f}") if is_share(comparison.metric) else (1, "{:.4g}")
                name = f"IQM {cut(comparison.metric_name, LABEL)}{' (%)' * is_share(comparison.metric)}"
                title = f"{entries[0].task}, {entries[0].method}: {name}"
                draw = partial(_draw, grid._replace(scores=factor * grid.scores), form)
                rows, columns = grid.scores.shape
                width = min(3, 1 + int((CELL * columns + 1) / PANEL_WIDTH))
                panels.append(Panel(title, draw, width, 1.6 + 0.34 * rows))
    return draw_grid([Block(panels)]) if panels else None


def grid_of(entries: Sequence[Entry]) -> Grid | None:
    """The scores by the two settings in which the entries differ; None if other than two differ, or if no value was
    tried with several of the other setting.
    """
    keys = dict.fromkeys(key for entry in entries for key in entry.settings if not is_of_task(key))
    values = {key: {value_order(entry.settings.get(key)): entry.settings.get(key) for entry in entries} for key in keys}
    swept = {key: sorted(each) for key, each in values.items() if len(each) > 1}
    if len(swept) != 2 or len(entries) <= max(map(len, swept.values())):
        return None
    (down, rows), (across, columns) = swept.items()
    scores = np.full((len(rows), len(columns)), np.nan)
    for entry in entries:
        place = [value_order(entry.settings.get(key)) for key in (down, across)]
        scores[rows.index(place[0]), columns.index(place[1])] = entry.final.value
    names = short_names(keys)
    shown = [values[down][row] for row in rows], [values[across][column] for column in columns]
    return Grid((names[down], names[across]), shown, scores)


def _draw(grid: Grid, form: str, axes: "Axes") -> None:
    low, high = float(np.nanmin(grid.scores)), float(np.nanmax(grid.scores))
    axes.grid(visible=False)
    draw_numbers(grid.scores, form, axes, "Greens", low, high + 0.6 * ((high - low) or 1), 8)
    down, across = [[cut(text, LABEL) for text in value_labels(each)] for each in grid.values]
    axes.set_xticks(range(len(across)), across, rotation=90 if max(map(len, across)) > 5 else 0)
    axes.set_yticks(range(len(down)), down)
    axes.tick_params(length=0, labelsize=8)
    axes.set_ylabel(cut(grid.names[0], 2 * LABEL), color=FAINT, fontsize=9)
    axes.set_xlabel(cut(grid.names[1], 2 * LABEL), color=FAINT, fontsize=9)

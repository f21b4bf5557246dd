"""A figure of episodes for papers: frames of each, and the team's values and each agent's credit over time."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qmix_jax.files import write_figure
from qmix_jax.film.canvas import SHADE, SIZE, WHITE, Colour, mix
from qmix_jax.film.credit import EpisodeValues, Series, agent_colours
from qmix_jax.film.recording import HEADER, Frame, Painter, Recording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

FRAMES = 5
"""Frames of an episode above the plots."""
MOST_LINES = 10
"""Larger teams get a heat map instead of a line for each agent."""
MOST_NAMES = 6
"""Agents named beside a heat map."""
INK, FAINT, FAINTEST = "#1c2430", "#6b7688", "#c9d0db"


def draw_figure(painter: Painter, recordings: Sequence[Recording], path: Path) -> None:
    """Write a PNG of the episodes, one below another; the file is never seen half-written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.4 * len(recordings)), dpi=160, facecolor="white")
    rows = figure.subfigures(len(recordings), 1, squeeze=False)[:, 0]
    for number, (part, recording) in enumerate(zip(rows, recordings, strict=True), 1):
        values = EpisodeValues(recording)
        name = f"  ·  episode {number}" if len(recordings) > 1 else ""
        part.text(0.06, 0.965, recording.title + name, fontsize=14, weight="bold", color=INK, va="center")
        part.text(0.985, 0.965, values.summary, fontsize=12, color=INK, va="center", ha="right")
        _draw_episode(part, list(_frames(painter, values)), values)
    write_figure(path, figure)


def _frames(painter: Painter, values: EpisodeValues) -> Iterator[Frame]:
    """Frames at equal distances through the episode, without the header."""
    frames = painter(values.recording._replace(colours=agent_colours(values.num_agents)))
    shown = [frame for frame in frames if frame.time <= values.steps]
    for time in np.unique(np.linspace(0, values.steps, FRAMES).round()):
        image, at = min(shown, key=lambda frame: abs(frame.time - time))
        yield Frame(image.crop((0, HEADER, SIZE, SIZE)), at)


class _Plot(NamedTuple):
    """One plot over time."""

    title: str
    height: float
    lines: list[tuple[Series, np.ndarray]]
    low: float | None = None
    """Where the axis begins; None: at the smallest value."""
    is_of_agents: bool = True
    """Whether there is a line for each agent, or of a large team a heat map."""


def _plots(values: EpisodeValues) -> Iterator[_Plot]:
    team, agents = values.team, values.agents
    if team is not None:
        yield _Plot("$Q_{tot}$", 0.7, [(team, team.height)], is_of_agents=False)
    yield _Plot("Q-value of each agent's chosen action", 1.0, [(agent, agent.number) for agent in agents])
    if values.credit is not None:
        title = r"Credit $\partial Q_{tot} / \partial Q_i$"
        yield _Plot(title, 1.3, [(agent, agent.height) for agent in agents], agents[0].low)


def _draw_episode(part: "SubFigure", frames: Sequence[Frame], values: EpisodeValues) -> None:
    plots = list(_plots(values))
    heights = [2.5, *(plot.height for plot in plots)]
    is_large = values.num_agents > MOST_LINES
    grid = part.add_gridspec(
        len(heights), len(frames), height_ratios=heights, hspace=0.38, wspace=0.05, left=0.06, top=0.855, bottom=0.075,
        right=0.945 if is_large else 0.985,  # heat maps have a scale at the right
    )  # fmt: skip
    for column, (image, time) in enumerate(frames):
        axes = part.add_subplot(grid[0, column])
        axes.imshow(np.asarray(image), interpolation="lanczos")
        axes.set_title(f"step {time:.0f}", fontsize=10, color=FAINT, pad=4)
        axes.set_axis_off()
    for row, plot in enumerate(plots, 1):
        axes = part.add_subplot(grid[row, :])
        _tidy(axes, values.steps, [time for _, time in frames])
        _draw_plot(axes, plot, is_large)
        if row < len(plots):
            axes.tick_params(labelbottom=False)
        else:
            axes.set_xlabel("step", fontsize=10, color=FAINT)
    if not is_large:
        handles, labels = part.axes[-1].get_legend_handles_labels()
        part.legend(handles, labels, loc="center left", bbox_to_anchor=(0.055, 0.915), ncols=MOST_LINES, frameon=False,
                    fontsize=10, handlelength=1.3, columnspacing=1.4, borderpad=0)  # fmt: skip


def _draw_plot(axes: "Axes", plot: _Plot, is_large: bool) -> None:
    axes.set_title(plot.title, loc="left", fontsize=10.5, color=INK, pad=5)
    if is_large and plot.is_of_agents:
        _draw_heat_map(axes, plot.lines)
        return
    for line, values in plot.lines:
        axes.stairs(values, baseline=None, color=_print_colour(line.colour), linewidth=1.9, label=line.name)
    axes.set_ylim(bottom=plot.low)


def _draw_heat_map(axes: "Axes", lines: Sequence[tuple[Series, np.ndarray]]) -> None:
    """Agents by steps."""
    values = np.array([values for _, values in lines])
    extent = (0, values.shape[1], len(values) - 0.5, -0.5)
    shown = axes.imshow(values, aspect="auto", cmap="viridis", extent=extent, interpolation="nearest")
    every = math.ceil(len(lines) / MOST_NAMES)
    axes.set_yticks(range(0, len(lines), every), [series.name for series, _ in lines[::every]], fontsize=7)
    axes.figure.colorbar(shown, cax=axes.inset_axes((1.01, 0.0, 0.01, 1.0)))


def _print_colour(colour: Colour) -> tuple[float, ...]:
    """The film's colour, darker for white paper; white becomes black."""
    return tuple(value / 255 for value in (SHADE if colour == WHITE else mix(colour, SHADE, 0.15)))


def _tidy(axes: "Axes", steps: int, times: Sequence[float]) -> None:
    """Few ticks and spines, and faint lines at the times of the frames."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    axes.set_xlim(0, steps)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINTEST)
    axes.tick_params(colors=FAINT, labelsize=9, length=3)
    for time in times:
        axes.axvline(time, color=FAINTEST, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)

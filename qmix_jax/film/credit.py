"""What the team made of what it did: Q-values and credit drawn under a film, and as a figure for papers. Host only.

Credit is dQ_tot / dQ_i: how much the team's value moves with each agent's, so that it shows who matters when.
Independent learners have no Q_tot; their lanes and lines show Q_i instead.
"""

import math
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from qmix_jax.files import replacing
from qmix_jax.film import film
from qmix_jax.film.film import DIM, GOLD, LINE, NIGHT, PANEL, SCALE, SHADE, SIZE, TEXT, WHITE, Canvas, Colour
from qmix_jax.film.mp4 import save_mp4

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

AGENTS: tuple[Colour, ...] = (
    (64, 205, 225),
    (240, 210, 70),
    (240, 110, 185),
    (75, 200, 110),
    (160, 130, 255),
    (200, 225, 235),
    (180, 225, 70),
    (225, 165, 155),
    (60, 130, 230),
    (30, 150, 140),
)
"""None is the orange of enemies; larger teams go through them again, paler."""


def agent_colours(count: int) -> tuple[Colour, ...]:
    """A colour for each agent."""
    return tuple(film.mix(AGENTS[i % len(AGENTS)], WHITE, 0.45 * math.tanh(i // len(AGENTS))) for i in range(count))


class Series(NamedTuple):
    """What one lane or line shows."""

    name: str
    colour: Colour
    number: np.ndarray
    """(L,) written at the left."""
    height: np.ndarray
    """(L,) drawn over time."""
    low: float
    high: float
    """The bounds of `height`."""


class Account:
    """An episode's values as series: Q_tot, then each agent."""

    def __init__(self, recording: film.Recording):
        values = recording.values
        if values is None:
            raise ValueError("this recording holds no values")
        self.recording = recording
        self.q = np.asarray(values.q, np.float64)
        self.q_tot = None if values.q_tot is None else np.asarray(values.q_tot, np.float64)
        self.credit = None if values.credit is None else np.asarray(values.credit, np.float64)
        self.steps, self.num_agents = self.q.shape
        everywhere = np.ones((self.steps, self.num_agents), bool)
        alive = recording.scene.get("alive", everywhere)
        self.alive = np.asarray(alive[: self.steps, : self.num_agents], bool)
        """(L, N) whether the agent lives, where agents can die."""

    @property
    def heading(self) -> str:
        """What the agents' lanes show."""
        return "Q_i over time (no Q_tot)" if self.credit is None else "credit dQ_tot / dQ_i"

    @cached_property
    def team(self) -> Series | None:
        """Q_tot."""
        if self.q_tot is None:
            return None
        low, high = float(self.q_tot.min()), float(self.q_tot.max())
        return Series("Q_tot", WHITE, self.q_tot, self.q_tot, low, high if high > low else low + 1.0)

    @property
    def names(self) -> tuple[str, ...]:
        """The agents' names."""
        return self.recording.agent_names or tuple(f"agent_{i}" for i in range(self.num_agents))

    @cached_property
    def agents(self) -> list[Series]:
        """Each agent's Q-value and credit, all on one scale."""
        heights = self.q if self.credit is None else self.credit
        low, high = _bounds(heights)
        return [
            Series(name, colour, self.q[:, i], heights[:, i], low, high)
            for i, (name, colour) in enumerate(zip(self.names, agent_colours(self.num_agents), strict=True))
        ]

    @property
    def verdict(self) -> str:
        """How it ended, in words."""
        outcome = {True: "won", False: "not won", None: ""}[self.recording.won]
        parts = [
            outcome,
            f"return {float(np.sum(self.recording.reward)):.2f}",
            f"{self.steps} step{'s' * (self.steps != 1)}",
        ]
        return "  ·  ".join(filter(None, parts))


def _bounds(values: np.ndarray) -> tuple[float, float]:
    """The range of the values, with zero in it, and never empty."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    return low, high if high > low else low + 1.0


# --- under the film ----------------------------------------------------------------------------------------------

TOP, FOOT = 26, 22  # heights of the panel's heading and of its time axis
LEFT, RIGHT = 150, SIZE - 58  # where the lanes begin and end
NOT_YET = 0.3  # opacity of what lies ahead
LONGEST_NAME = 10  # letters of an agent's name that a lane has room for
LOW_LANE = 16  # lanes of less height show values by brightness


class Panel:
    """The strip under the frames: for Q_tot and each agent a lane over time, with the numbers of the moment."""

    def __init__(self, account: Account):
        self.account = account
        self.series = [*filter(None, [account.team]), *account.agents]
        self.lane = max(12, min(30, 300 // len(self.series)))
        self.height = (TOP + self.lane * len(self.series) + FOOT) // 2 * 2  # films want even sizes
        self.ahead, self.behind = self._lanes(NOT_YET), self._lanes(1.0)

    def _x(self, time: float) -> float:
        return LEFT + (RIGHT - LEFT) * min(time / self.account.steps, 1.0)

    def _base(self, row: int) -> float:
        return TOP + self.lane * (row + 1) - 3

    def _lanes(self, alpha: float) -> Image.Image:
        """Everything that does not change, with the lanes at an opacity (SCALE times too large)."""
        canvas = Canvas(Image.new("RGB", (SIZE * SCALE, self.height * SCALE), NIGHT))
        canvas.box((0, 0, SIZE, TOP - 4), PANEL)
        canvas.text((14, 11), "agent", 11, DIM)
        canvas.text((LEFT - 12, 11), "Q now", 11, DIM, "rm")
        canvas.text((LEFT, 11), self.account.heading, 11, TEXT)
        if self.account.credit is not None:
            canvas.text((SIZE - 14, 11), "now", 11, DIM, "rm")
        for row, series in enumerate(self.series):
            self._lane(canvas, row, series, alpha)
        self._axis(canvas)
        return canvas.image

    def _lane(self, canvas: Canvas, row: int, series: Series, alpha: float) -> None:
        base, reach = self._base(row), self.lane - 6
        unit = reach / (series.high - series.low)
        zero, tops = base + series.low * unit, base - (series.height - series.low) * unit
        if series is self.account.team:
            corners = [(self._x(t + side), float(top)) for t, top in enumerate(tops) for side in (0, 1)]
            canvas.line(corners, series.colour, 1.5, alpha)
            return
        canvas.line([(LEFT, zero), (RIGHT, zero)], LINE, 1)
        for t, top in enumerate(tops):
            share, sides = (base - float(top)) / reach, (self._x(t), self._x(t + 1))
            if self.lane < LOW_LANE:
                canvas.box((sides[0], base - reach, sides[1], base), film.mix(NIGHT, series.colour, share * alpha))
            else:
                box = (sides[0], min(float(top), zero), sides[1], max(float(top), zero))
                canvas.box(box, film.mix(NIGHT, series.colour, alpha))

    def _axis(self, canvas: Canvas) -> None:
        """Steps under the lanes."""
        y, steps = self._base(len(self.series) - 1) + 12, self.account.steps
        every = next(gap for gap in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**9) if steps / gap <= 8)
        canvas.text((LEFT - 12, y), "step", 10, DIM, "rm")
        for step in range(0, steps + 1, every):
            canvas.text((self._x(step), y), str(step), 10, DIM, "mm")

    def paint(self, time: float) -> Image.Image:
        """The panel at a time of the episode."""
        now = min(int(min(time, self.account.steps)), self.account.steps - 1)
        image, x = self.ahead.copy(), round(self._x(time) * SCALE)
        image.paste(self.behind.crop((0, 0, x, self.height * SCALE)), (0, 0))
        canvas = Canvas(image)
        canvas.line([(x / SCALE, TOP), (x / SCALE, self._base(len(self.series) - 1) + 2)], GOLD, 1.5)
        for row in range(len(self.series)):
            self._numbers(canvas, row, now)
        return canvas.finish()

    def _numbers(self, canvas: Canvas, row: int, now: int) -> None:
        """A lane's name, and what it has come to."""
        series, account = self.series[row], self.account
        y, size = self._base(row) + 3 - self.lane / 2, min(12, self.lane - 3)
        if series is account.team:
            canvas.text((14, y), series.name, size, TEXT)
            canvas.text((LEFT - 12, y), f"{series.number[now]:.2f}", size, TEXT, "rm")
            return
        agent = row - (account.team is not None)
        shown = 1.0 if account.alive[now, agent] else 0.45
        canvas.disk((24, y), min(9.0, self.lane / 2 - 1.5), film.mix(NIGHT, series.colour, 0.65 * shown))
        canvas.text((24, y), str(agent), size - 2, WHITE, "mm", shown)
        canvas.text((38, y), series.name[:LONGEST_NAME], size - 2, DIM, alpha=shown)
        number = f"{series.number[now]:.2f}" if shown == 1 else "dead"
        canvas.text((LEFT - 12, y), number, size, series.colour, "rm", shown)
        if account.credit is not None:
            canvas.text((SIZE - 14, y), f"{series.height[now]:.2f}", size, series.colour, "rm", shown)


def write(kind: str, recordings: Sequence[film.Recording], path: Path) -> None:
    """A film of the episodes one after another (.gif, .mp4), or a figure of them one below another (.png)."""
    kind_of_file = path.suffix.lower()
    if kind_of_file == ".png":
        draw_figure(kind, recordings, path)
        return
    save = save_mp4 if kind_of_file == ".mp4" else film.save_gif
    frames = [frame.image for recording in recordings for frame in paint(kind, recording)]
    save(frames, path, seconds_per_frame=film.FRAME_SECONDS)


def paint(kind: str, recording: film.Recording) -> list[film.Frame]:
    """The frames of the film with the panel under each; a still stays one picture."""
    account = Account(recording)
    panel = Panel(account)
    made: dict[tuple[int, float], film.Frame] = {}
    frames = film.paint(kind, recording._replace(colours=agent_colours(account.num_agents)))
    for image, time in frames:
        if (id(image), time) not in made:
            whole = Image.new("RGB", (SIZE, SIZE + panel.height))
            whole.paste(image, (0, 0))
            whole.paste(panel.paint(time), (0, SIZE))
            made[id(image), time] = film.Frame(whole, time)
    return [made[id(image), time] for image, time in frames]


# --- for papers --------------------------------------------------------------------------------------------------

STRIP = 5
"""Moments of the episode that a figure shows."""
MOST_LINES = 10
"""Teams larger than this get a map of colours instead of a line for each agent."""
MOST_NAMES = 6
"""Of agents beside such a map."""
INK, FAINT = "#1c2430", "#6b7688"


def draw_figure(kind: str, recordings: Sequence[film.Recording], path: str | os.PathLike) -> None:
    """A PNG with an episode below another: moments of it, the team's values, and each agent's credit, over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.4 * len(recordings)), dpi=160, facecolor="white")
    rows = figure.subfigures(len(recordings), 1, squeeze=False)[:, 0]
    for number, (part, recording) in enumerate(zip(rows, recordings, strict=True), 1):
        account = Account(recording)
        name = f"  ·  episode {number}" if len(recordings) > 1 else ""
        part.text(0.06, 0.965, recording.title + name, fontsize=14, weight="bold", color=INK, va="center")
        part.text(0.985, 0.965, account.verdict, fontsize=12, color=INK, va="center", ha="right")
        _draw_episode(part, kind, account)
    with replacing(Path(path)) as scratch:
        figure.savefig(scratch, format="png")


def _draw_episode(part: "SubFigure", kind: str, account: Account) -> None:
    moments = list(_strip(kind, account))
    panels = list(_panels(account))
    heights = [2.5, *(panel.height for panel in panels)]
    is_large = account.num_agents > MOST_LINES
    right = 0.945 if is_large else 0.985  # room for the maps' scales
    grid = part.add_gridspec(
        len(heights), len(moments), height_ratios=heights, left=0.06, right=right, top=0.855, bottom=0.075,
        hspace=0.38, wspace=0.05,
    )  # fmt: skip
    for column, (image, time) in enumerate(moments):
        axes = part.add_subplot(grid[0, column])
        axes.imshow(np.asarray(image), interpolation="lanczos")
        axes.set_title(f"step {time:.0f}", fontsize=10, color=FAINT, pad=4)
        axes.set_axis_off()
    for row, panel in enumerate(panels, 1):
        axes = part.add_subplot(grid[row, :])
        _tidy(axes, account.steps, [time for _, time in moments])
        axes.set_title(panel.title, loc="left", fontsize=10.5, color=INK, pad=5)
        if panel.is_map and is_large:
            _draw_map(axes, panel.lines)
        else:
            for line, values in panel.lines:
                axes.stairs(values, baseline=None, color=_print_colour(line.colour), linewidth=1.9, label=line.name)
            axes.set_ylim(bottom=panel.low)
        if row < len(panels):
            axes.tick_params(labelbottom=False)
        else:
            axes.set_xlabel("step", fontsize=10, color=FAINT)
    if not is_large:
        handles, labels = part.axes[-1].get_legend_handles_labels()
        part.legend(handles, labels, loc="center left", bbox_to_anchor=(0.055, 0.915), ncols=MOST_LINES, frameon=False,
                    fontsize=10, handlelength=1.3, columnspacing=1.4, borderpad=0)  # fmt: skip


class _Panel(NamedTuple):
    """One of the figure's plots over time."""

    title: str
    height: float
    lines: list[tuple[Series, np.ndarray]]
    low: float | None = None
    """Where the axis begins; None: at the smallest value."""
    is_map: bool = False
    """Whether a large team is shown as a map of colours."""


def _panels(account: Account) -> Iterator[_Panel]:
    team, agents = account.team, account.agents
    if team is not None:
        yield _Panel("$Q_{tot}$", 0.7, [(team, team.height)])
    yield _Panel("Q-value of each agent's chosen action", 1.0, [(one, one.number) for one in agents], is_map=True)
    if account.credit is not None:
        title = r"Credit $\partial Q_{tot} / \partial Q_i$"
        yield _Panel(title, 1.3, [(one, one.height) for one in agents], agents[0].low, is_map=True)


def _strip(kind: str, account: Account) -> Iterator[film.Frame]:
    """Moments at equal distances through the episode, without the film's header."""
    colours = agent_colours(account.num_agents)
    frames = film.paint(kind, account.recording._replace(colours=colours))
    shown = [frame for frame in frames if frame.time <= account.steps]
    for time in np.unique(np.linspace(0, account.steps, STRIP).round()):
        image, at = min(shown, key=lambda frame: abs(frame.time - time))
        yield film.Frame(image.crop((0, film.HEADER, SIZE, SIZE)), at)


def _print_colour(colour: Colour) -> tuple[float, ...]:
    """The colour for white paper: as it is in the film, a little darker; white becomes black."""
    return tuple(value / 255 for value in (SHADE if colour == WHITE else film.mix(colour, SHADE, 0.15)))


def _draw_map(axes: "Axes", lines: Sequence[tuple[Series, np.ndarray]]) -> None:
    """Agents by steps, the value as the colour."""
    values = np.array([values for _, values in lines])
    extent = (0, values.shape[1], len(values) - 0.5, -0.5)
    shown = axes.imshow(values, aspect="auto", cmap="viridis", extent=extent, interpolation="nearest")
    every = math.ceil(len(lines) / MOST_NAMES)
    axes.set_yticks(range(0, len(lines), every), [series.name for series, _ in lines[::every]], fontsize=7)
    axes.figure.colorbar(shown, cax=axes.inset_axes((1.01, 0.0, 0.01, 1.0)))


def _tidy(axes: "Axes", steps: int, moments: Sequence[float]) -> None:
    """Only what is needed of an axes' furniture; faint lines at the strip's moments."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    axes.set_xlim(0, steps)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c9d0db")
    axes.tick_params(colors=FAINT, labelsize=9, length=3)
    for time in moments:
        axes.axvline(time, color="#c9d0db", linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)

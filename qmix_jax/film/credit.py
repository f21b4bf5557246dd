"""Q-values and credit of an episode, and the lanes under a film that show them over time. Host only.

Credit is dQ_tot / dQ_i: how much the team's value changes with each agent's. Independent learners have no Q_tot; Q_i
takes the place of their credit.
"""

import math
from functools import cached_property
from typing import NamedTuple

import numpy as np
from PIL import Image

from qmix_jax.film.canvas import DIM, GOLD, LINE, NIGHT, PANEL, SCALE, SIZE, TEXT, WHITE, Canvas, Colour, mix
from qmix_jax.film.recording import Frame, Painter, Recording

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
"""None is the orange of opponents; larger teams repeat them, paler."""


def agent_colours(count: int) -> tuple[Colour, ...]:
    """A colour for each agent."""
    return tuple(mix(AGENTS[i % len(AGENTS)], WHITE, 0.45 * math.tanh(i // len(AGENTS))) for i in range(count))


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


class EpisodeValues:
    """An episode's values as series: Q_tot, then each agent."""

    def __init__(self, recording: Recording):
        values = recording.values
        if values is None:
            raise ValueError("this recording holds no values")
        self.recording = recording
        self.q = np.asarray(values.q, np.float64)
        self.q_tot = None if values.q_tot is None else np.asarray(values.q_tot, np.float64)
        self.credit = None if values.credit is None else np.asarray(values.credit, np.float64)
        self.steps, self.num_agents = self.q.shape
        alive = np.asarray(recording.scene.get("alive", True), bool)
        is_of_agents = alive.ndim == 2 and alive.shape[1] >= self.num_agents  # any state can have an array of this name
        alive = alive[: self.steps, : self.num_agents] if is_of_agents else True
        self.alive = np.broadcast_to(alive, self.q.shape)
        """(L, N) whether the agent lives; always, where agents cannot die."""

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

    @cached_property
    def agents(self) -> list[Series]:
        """Each agent's Q-value and credit, all on one scale, which has zero in it."""
        heights = self.q if self.credit is None else self.credit
        low, high = min(0.0, float(heights.min())), max(0.0, float(heights.max()))
        high = high if high > low else low + 1.0
        names = self.recording.agent_names or [f"agent_{i}" for i in range(self.num_agents)]
        return [
            Series(name, colour, self.q[:, i], heights[:, i], low, high)
            for i, (name, colour) in enumerate(zip(names, agent_colours(self.num_agents), strict=True))
        ]

    @property
    def summary(self) -> str:
        """How the episode ended, in words."""
        parts = [
            {True: "won", False: "not won", None: ""}[self.recording.won],
            f"return {float(np.sum(self.recording.reward)):.2f}",
            f"{self.steps} step{'s' * (self.steps != 1)}",
        ]
        return "  ·  ".join(filter(None, parts))


TOP, FOOT = 26, 22  # heights of the heading above the lanes and of the time axis below them
LEFT, RIGHT = 150, SIZE - 58  # where the lanes begin and end
NOT_YET = 0.3  # opacity of what lies ahead
LONGEST_NAME = 10  # letters of an agent's name that a lane has room for
LOW_LANE = 16  # lanes of less height show values by brightness


class ValueLanes:
    """The strip under the frames: a lane over time for Q_tot and for each agent, with the current numbers."""

    def __init__(self, values: EpisodeValues):
        self.values = values
        self.series = [*filter(None, [values.team]), *values.agents]
        self.lane = max(12, min(30, 300 // len(self.series)))
        self.height = (TOP + self.lane * len(self.series) + FOOT) // 2 * 2  # MP4 needs even sizes
        self.ahead, self.behind = self._background(NOT_YET), self._background(1.0)

    def paint(self, time: float) -> Image.Image:
        """The strip at a time of the episode."""
        step = min(int(min(time, self.values.steps)), self.values.steps - 1)
        image, x = self.ahead.copy(), round(self._x(time) * SCALE)
        image.paste(self.behind.crop((0, 0, x, self.height * SCALE)), (0, 0))
        canvas = Canvas(image)
        canvas.line([(x / SCALE, TOP), (x / SCALE, self._base(len(self.series) - 1) + 2)], GOLD, 1.5)
        for row in range(len(self.series)):
            self._paint_numbers(canvas, row, step)
        return canvas.finish()

    def _x(self, time: float) -> float:
        return LEFT + (RIGHT - LEFT) * min(time / self.values.steps, 1.0)

    def _base(self, row: int) -> float:
        return TOP + self.lane * (row + 1) - 3

    def _background(self, alpha: float) -> Image.Image:
        """Everything that does not change, with the lanes at an opacity; SCALE times as large as the strip."""
        canvas = Canvas(Image.new("RGB", (SIZE * SCALE, self.height * SCALE), NIGHT))
        canvas.box((0, 0, SIZE, TOP - 4), PANEL)
        canvas.text((14, 11), "agent", 11, DIM)
        canvas.text((LEFT - 12, 11), "Q now", 11, DIM, "rm")
        canvas.text((LEFT, 11), self.values.heading, 11, TEXT)
        if self.values.credit is not None:
            canvas.text((SIZE - 14, 11), "now", 11, DIM, "rm")
        for row, series in enumerate(self.series):
            paint_lane = self._paint_team if series is self.values.team else self._paint_agent
            paint_lane(canvas, row, series, alpha)
        self._paint_axis(canvas)
        return canvas.image

    def _tops(self, row: int, series: Series) -> tuple[np.ndarray, float]:
        """Where the values of a lane lie, and where zero."""
        unit = (self.lane - 6) / (series.high - series.low)
        return self._base(row) - (series.height - series.low) * unit, self._base(row) + series.low * unit

    def _paint_team(self, canvas: Canvas, row: int, series: Series, alpha: float) -> None:
        tops, _ = self._tops(row, series)
        corners = [(self._x(t + side), float(top)) for t, top in enumerate(tops) for side in (0, 1)]
        canvas.line(corners, series.colour, 1.5, alpha)

    def _paint_agent(self, canvas: Canvas, row: int, series: Series, alpha: float) -> None:
        base, reach, (tops, zero) = self._base(row), self.lane - 6, self._tops(row, series)
        canvas.line([(LEFT, zero), (RIGHT, zero)], LINE, 1)
        for t, top in enumerate(tops.tolist()):
            left, right = self._x(t), self._x(t + 1)
            if self.lane < LOW_LANE:
                share = (base - top) / reach
                canvas.box((left, base - reach, right, base), mix(NIGHT, series.colour, share * alpha))
            else:
                canvas.box((left, min(top, zero), right, max(top, zero)), mix(NIGHT, series.colour, alpha))

    def _paint_axis(self, canvas: Canvas) -> None:
        """Steps under the lanes."""
        y, steps = self._base(len(self.series) - 1) + 12, self.values.steps
        every = next(gap for gap in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**9) if steps / gap <= 8)
        canvas.text((LEFT - 12, y), "step", 10, DIM, "rm")
        for step in range(0, steps + 1, every):
            canvas.text((self._x(step), y), str(step), 10, DIM, "mm")

    def _paint_numbers(self, canvas: Canvas, row: int, step: int) -> None:
        """A lane's name and current numbers."""
        series, values = self.series[row], self.values
        y, size = self._base(row) + 3 - self.lane / 2, min(12, self.lane - 3)
        if series is values.team:
            canvas.text((14, y), series.name, size, TEXT)
            canvas.text((LEFT - 12, y), f"{series.number[step]:.2f}", size, TEXT, "rm")
            return
        agent = row - (values.team is not None)
        shown = 1.0 if values.alive[step, agent] else 0.45
        canvas.disk((24, y), min(9.0, self.lane / 2 - 1.5), mix(NIGHT, series.colour, 0.65 * shown))
        canvas.text((24, y), str(agent), size - 2, WHITE, "mm", shown)
        canvas.text((38, y), series.name[:LONGEST_NAME], size - 2, DIM, alpha=shown)
        number = f"{series.number[step]:.2f}" if shown == 1 else "dead"
        canvas.text((LEFT - 12, y), number, size, series.colour, "rm", shown)
        if values.credit is not None:
            canvas.text((SIZE - 14, y), f"{series.height[step]:.2f}", size, series.colour, "rm", shown)


def paint_with_values(painter: Painter, recording: Recording) -> list[Frame]:
    """The frames of a film with the values under each; a still stays one object."""
    values = EpisodeValues(recording)
    lanes = ValueLanes(values)
    made: dict[tuple[int, float], Frame] = {}
    frames = painter(recording._replace(colours=agent_colours(values.num_agents)))
    for image, time in frames:
        if (id(image), time) not in made:
            whole = Image.new("RGB", (SIZE, SIZE + lanes.height))
            whole.paste(image, (0, 0))
            whole.paste(lanes.paint(time), (0, SIZE))
            made[id(image), time] = Frame(whole, time)
    return [made[id(image), time] for image, time in frames]

"""What every painter starts from and makes: the recording of an episode, its frames, header and end card. Host only.

Worlds that move get FRAMES_PER_STEP frames for each step, with positions in between; games of a few decisions hold
each picture long enough to be read.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from qmix_jax.film.canvas import DIM, GOLD, PANEL, SHADE, SIZE, TEXT, Box, Canvas, Colour, ease, fitted

if TYPE_CHECKING:
    from qmix_jax.types import TeamValues

FRAMES_PER_STEP = 3
FRAME_SECONDS = 0.07
"""How long a frame is shown."""
CARD_FRAMES = 26
"""Frames of the end card: about 1.8 seconds."""
HEADER = 66
"""Height of the strip above the scene."""
CARD_HALF = 46
"""Half the height of the end card."""
SCENE: Box = (0, HEADER, SIZE, SIZE)
"""The part of a frame below the header."""


class Recording(NamedTuple):
    """One greedy episode of L steps, as NumPy arrays."""

    scene: Mapping[str, np.ndarray]
    """The environment's `scene`, or else arrays of its state, each (L+1, ...): before each step, and at the end. Where
    agents can die, `alive` (L+1, U) says of each unit whether it lives, agents first.
    """
    reward: np.ndarray
    """(L,) the team's reward of each step."""
    won: bool | None
    """None where the environment has no wins."""
    title: str
    """Algorithm and environment."""
    values: "TeamValues | None" = None
    """(L, ...) Q-values and credit of each step's joint action; see `qmix_jax.film.credit`."""
    colours: tuple[Colour, ...] = ()
    """Each agent's colour in worlds that move; empty: the painter's own."""
    agent_names: tuple[str, ...] = ()
    """For legends; empty: agent_0, agent_1, ..."""
    actions: tuple[tuple[str, ...], ...] = ()
    """The name of each agent's action in each of the L steps; empty: not recorded."""
    terminated: bool | None = None
    """Whether the task itself ended the episode, and not a limit; None: not recorded."""

    @property
    def ending(self) -> str:
        """How the episode ended, in words."""
        won = {True: "won  ·  ", False: "not won  ·  ", None: ""}[self.won]
        end = {True: "terminated after ", False: "truncated after ", None: ""}[self.terminated]
        return f"{won}{end}{len(self.reward)} step{'s' * (len(self.reward) != 1)}"

    @property
    def returns(self) -> np.ndarray:
        """(L+1,) the return before each step, and at the end."""
        return np.concatenate([[0.0], np.cumsum(np.asarray(self.reward, np.float64))])


class Frame(NamedTuple):
    """A picture of a film."""

    image: Image.Image
    time: float
    """The time in steps that it shows; more than the episode's length: after the end."""


Painter = Callable[[Recording], list[Frame]]
"""Makes the frames of a film. A still is the same object several times."""


class Tween(NamedTuple):
    """A time between two steps: `share` of the way from `before` to `after`."""

    before: int
    after: int
    share: float

    @property
    def time(self) -> float:
        """The time in steps."""
        return self.before + self.share

    def of(self, values: np.ndarray) -> np.ndarray:
        """The values (L+1, ...), interpolated."""
        return values[self.before] * (1 - self.share) + values[self.after] * self.share


def tweens(steps: int, fading: int = 0) -> Iterator[Tween]:
    """The times of the frames of an episode: FRAMES_PER_STEP a step, the end, and `fading` more after it."""
    for t in range(steps):
        for k in range(FRAMES_PER_STEP):
            yield Tween(t, t + 1, k / FRAMES_PER_STEP)
    for k in range(fading + 1):
        yield Tween(steps, steps, k / FRAMES_PER_STEP)


def hold(canvas: Canvas, seconds: float, time: float) -> list[Frame]:
    """A still; a GIF stores it once."""
    return [Frame(canvas.finish(), time)] * max(1, round(seconds / FRAME_SECONDS))


def paint_header(canvas: Canvas, recording: Recording, step: int) -> None:
    """The strip on top: title, step and the return so far."""
    canvas.box((0, 0, SIZE, HEADER), PANEL)
    canvas.text((16, 20), fitted(recording.title, 15, 270), 15)
    canvas.text((SIZE - 16, 20), f"{recording.returns[step]:.2f}", 15, GOLD, "rm")
    canvas.text((SIZE - 66, 20), "return", 12, DIM, "rm")
    canvas.text((SIZE - 16, 46), f"step {step} of {len(recording.reward)}", 12, DIM, "rm")


def end_card(
    canvas: Canvas, words: str, below: str, colour: Colour, middle: float = HEADER + CARD_HALF + 24
) -> list[Frame]:
    """The end card, which fades in over the last picture around the height `middle`."""
    frames: list[Frame] = []
    for k in range(CARD_FRAMES):
        if k > 5:
            frames.append(frames[-1])
            continue
        shown = ease((k + 1) / 6)
        page, half = Canvas(canvas.image), CARD_HALF * shown
        page.box((0, middle - half, SIZE, middle + half), SHADE, alpha=0.86 * shown)
        for y in (middle - half, middle + half):
            page.line([(0, y), (SIZE, y)], colour, 1.5, shown)
        page.text((SIZE / 2, middle - 13), words, 36 if len(words) < 15 else 30, colour, "mm", shown)
        page.text((SIZE / 2, middle + 24), below, 15, TEXT, "mm", shown)
        frames.append(Frame(page.finish(), math.inf))
    return frames

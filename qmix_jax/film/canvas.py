"""Drawing on Pillow images: colours, brushes, text, and where positions of a world lie in a frame. Host only.

Lengths are in pixels of the frame, which is square. A `Canvas` is SCALE times as large and averaged down at the end.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 480
"""Width and height of a frame."""
SCALE = 2
"""How many times as large as the frame a canvas is."""

Colour = tuple[int, int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

NIGHT: Colour = (17, 21, 31)  # behind everything
PANEL: Colour = (26, 32, 46)
LINE: Colour = (38, 46, 64)
DIM: Colour = (128, 140, 163)
TEXT: Colour = (232, 237, 245)
WHITE: Colour = (255, 255, 255)
SHADE: Colour = (7, 9, 14)
BLUE: Colour = (70, 166, 255)  # the team, high values
ORANGE: Colour = (255, 143, 51)  # its opponents, low values
GOLD: Colour = (255, 214, 92)
MAIN_COLOURS = (NIGHT, PANEL, LINE, DIM, TEXT, WHITE, SHADE, BLUE, ORANGE, GOLD)


class Canvas:
    """A large picture with blending brushes; `alpha` is the opacity, from 0 to 1."""

    def __init__(self, image: Image.Image | None = None):
        size = (SIZE * SCALE, SIZE * SCALE)
        self.image = Image.new("RGB", size, NIGHT) if image is None else image.copy()
        self.draw = ImageDraw.Draw(self.image, "RGBA")

    def finish(self) -> Image.Image:
        """The picture in the size of the frame."""
        return self.image.reduce(SCALE)

    def line(self, points: Sequence[Point], colour: Colour, width: float = 1, alpha: float = 1.0) -> None:
        """A line through the points."""
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self.draw.line(scaled, fill=_paint(colour, alpha), width=max(1, round(width * SCALE)), joint="curve")

    def dashes(self, start: Point, end: Point, colour: Colour, alpha: float = 1.0) -> None:
        """A dashed line."""
        count = max(1, int(math.dist(start, end) / 9))
        for k in range(count):
            self.line([between(start, end, k / count), between(start, end, (k + 0.5) / count)], colour, 1.5, alpha)

    def polygon(self, corners: Sequence[Point], colour: Colour) -> None:
        """A filled polygon."""
        self.draw.polygon([(x * SCALE, y * SCALE) for x, y in corners], fill=colour)

    def disk(self, centre: Point, radius: float, colour: Colour, alpha: float = 1.0) -> None:
        """A filled circle."""
        self.draw.ellipse(_around(centre, radius), fill=_paint(colour, alpha))

    def ring(self, centre: Point, radius: float, colour: Colour, width: float = 1, alpha: float = 1.0) -> None:
        """The outline of a circle."""
        self.draw.ellipse(
            _around(centre, radius), outline=_paint(colour, alpha), width=int(max(1, round(width * SCALE)))
        )

    def arc(self, centre: Point, radius: float, share: float, colour: Colour, width: float) -> None:
        """A share of a circle, clockwise from the top."""
        if share > 0.004:
            end = -90 + 360 * min(share, 1.0)
            self.draw.arc(_around(centre, radius), -90, end, fill=colour, width=round(width * SCALE))

    def cross(self, centre: Point, radius: float, colour: Colour, width: float, alpha: float) -> None:
        """An x."""
        x, y = centre
        self.line([(x - radius, y - radius), (x + radius, y + radius)], colour, width, alpha)
        self.line([(x - radius, y + radius), (x + radius, y - radius)], colour, width, alpha)

    def box(
        self,
        corners: Box,
        fill: Colour | None = None,
        *,
        outline: Colour | None = None,
        width: float = 0,
        radius: float = 0,
        alpha: float = 1.0,
    ) -> None:
        """A rectangle with round corners."""
        left, top, right, bottom = (round(value * SCALE) for value in corners)
        inside, edge = (None if colour is None else _paint(colour, alpha) for colour in (fill, outline))
        corners_in = (left, top, max(left, right - 1), max(top, bottom - 1))
        self.draw.rounded_rectangle(corners_in, radius * SCALE, inside, edge, round(width * SCALE))

    def text(
        self, at: Point, words: str, size: int, colour: Colour = TEXT, anchor: str = "lm", alpha: float = 1.0
    ) -> None:
        """Words, faded towards the background. The anchor is Pillow's: lm is the left end, at half height."""
        place = (at[0] * SCALE, at[1] * SCALE)
        if alpha > 0:  # Pillow ignores the alpha of text
            self.draw.text(place, words, fill=mix(NIGHT, colour, alpha), font=font_of(size), anchor=anchor)


def _paint(colour: Colour, alpha: float) -> tuple[int, int, int, int]:
    return (*colour, round(255 * min(max(alpha, 0.0), 1.0)))


def _around(centre: Point, radius: float) -> Box:
    (x, y), r = centre, radius
    return ((x - r) * SCALE, (y - r) * SCALE, (x + r) * SCALE, (y + r) * SCALE)


@lru_cache(maxsize=64)
def font_of(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font for a canvas, with `size` in pixels of the frame."""
    return ImageFont.load_default(size=size * SCALE)


def text_width(words: str, size: int) -> float:
    """How wide the words are."""
    return font_of(size).getlength(words) / SCALE


def fitted(words: str, size: int, width: float) -> str:
    """The words, cut with an ellipsis where they would be wider."""
    if text_width(words, size) <= width:
        return words
    while words and text_width(words + "…", size) > width:
        words = words[:-1]
    return words.rstrip() + "…"


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """The colour `share` of the way from the first to the second."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))  # type: ignore[return-value]


def between(start: Point, end: Point, share: float) -> Point:
    """The point `share` of the way from start to end."""
    return (start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share)


def ease(share: float) -> float:
    """From 0 to 1 with a gentle start and end."""
    share = min(max(share, 0.0), 1.0)
    return share * share * (3 - 2 * share)


def grid_cell(box: Box, shape: tuple[int, int], row: int, column: int) -> Box:
    """One cell of a grid that fills the box, with a gap around it."""
    left, top, right, bottom = box
    width, height = (right - left) / shape[1], (bottom - top) / shape[0]
    gap = min(4.0, width * 0.06)
    x, y = left + column * width, top + row * height
    return (x + gap, y + gap, x + width - gap, y + height - gap)


class Camera(NamedTuple):
    """Maps positions in the world (y up) to points in the frame (y down)."""

    centre: Point
    """The position in the world that is shown at `middle`."""
    middle: Point
    scale: float
    """Pixels for a unit of the world."""

    @classmethod
    def over(cls, points: np.ndarray, box: Box, margin: float, least: float) -> "Camera":
        """The closest view of all points (..., 2) in the box, with a margin and at least `least` of the world."""
        flat = points.reshape(-1, 2)
        low, high = (flat.min(0), flat.max(0)) if len(flat) else (np.zeros(2), np.zeros(2))
        width, height = np.maximum(high - low + 2 * margin, least)
        left, top, right, bottom = box
        x, y = (low + high) / 2
        scale = min((right - left) / width, (bottom - top) / height)
        return cls((float(x), float(y)), ((left + right) / 2, (top + bottom) / 2), float(scale))

    def point(self, position: np.ndarray) -> Point:
        """Where a position lies in the frame."""
        x = self.middle[0] + (float(position[0]) - self.centre[0]) * self.scale
        return (x, self.middle[1] - (float(position[1]) - self.centre[1]) * self.scale)

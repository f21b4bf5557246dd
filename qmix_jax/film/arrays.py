"""Films of environments without a painter: arrays as pictures or numbers, actions by name, reward and end. Host only.

A page has, from top to bottom, the scalars as text, the vectors as bars, the matrices as heat maps, and the agents with
their last actions. What finds no place is named in one line.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from qmix_jax.film.canvas import (
    BLUE,
    DIM,
    GOLD,
    LINE,
    NIGHT,
    ORANGE,
    PANEL,
    SCALE,
    SIZE,
    TEXT,
    WHITE,
    Box,
    Canvas,
    Colour,
    fitted,
    text_width,
)  # fmt: skip
from qmix_jax.film.credit import agent_colours
from qmix_jax.film.recording import FRAMES_PER_STEP, HEADER, Frame, Recording, end_card, paint_header

EDGE = 14
"""Room at the left and right of a page."""
MOST_SCALARS, MOST_VECTORS, MOST_MATRICES, MOST_AGENTS = 9, 4, 6, 27
SCALAR_HEIGHT, VECTOR_HEIGHT, NAME_HEIGHT = 19, 28, 17
VECTOR_LEFT = 120
"""Where bars begin, to the right of their name."""
SHORT_FILM = 60
"""Frames of the steps of a short episode, which are shown longer."""
MOST_COLOURS = 24
"""Integers of at most so many values get a colour each, as in a grid world."""


def frames_per_step(steps: int) -> int:
    """How many frames show a step of an episode of so many."""
    return max(FRAMES_PER_STEP, min(12, SHORT_FILM // steps))


def paint_arrays(recording: Recording) -> list[Frame]:
    """The arrays at each step, with the actions and the reward that led there."""
    page, frames, canvas = _Page(recording), [], Canvas()
    for step in range(len(recording.returns)):
        canvas = page.paint(step)
        frames += [Frame(canvas.finish(), step)] * frames_per_step(len(recording.reward))
    return frames + end_card(canvas, f"return {recording.returns[-1]:.2f}", recording.ending, GOLD)


class _Matrix(NamedTuple):
    """A heat map: a matrix, or a slice of an array of three axes."""

    name: str
    values: np.ndarray
    """(L+1, R, C)"""
    colours: np.ndarray
    """(L+1, R, C, 3)"""

    def cell(self, width: float, height: float) -> tuple[float, float]:
        """The largest cells with room in such a box: square, or for real numbers wider or higher, to be read."""
        rows, columns = self.values.shape[1:]
        across, down = width / columns, min(height / rows, 60)
        wide, high = (3, 2) if self.values.dtype.kind == "f" else (1, 1)
        return min(across, down * wide), min(down, across * high)

    def area(self, width: float, height: float) -> float:
        """How much of such a box it fills."""
        return math.prod(self.cell(width, height)) * self.values[0].size


class _Page:
    """What stays the same through a film: what is shown, and where."""

    def __init__(self, recording: Recording):
        scene = {name: np.asarray(value) for name, value in recording.scene.items()}
        self.recording = recording
        self.scalars = {name: value for name, value in scene.items() if value.ndim == 1}
        self.vectors = {name: value for name, value in scene.items() if value.ndim == 2}
        self.matrices = [one for name, value in scene.items() if value.ndim in (3, 4) for one in _matrices(name, value)]
        self.agents = recording.agent_names or [f"agent_{i}" for i in range(len((recording.actions or [()])[0]))]
        self.colours = recording.colours or agent_colours(len(self.agents))
        self.left_out = [*list(self.scalars)[MOST_SCALARS:], *list(self.vectors)[MOST_VECTORS:]]
        self.left_out += [one.name for one in self.matrices[MOST_MATRICES:]]
        self.matrices = self.matrices[:MOST_MATRICES]

    def paint(self, step: int) -> Canvas:
        """The page at a step."""
        canvas = Canvas()
        paint_header(canvas, self.recording, step)
        if step:
            reward = float(self.recording.reward[step - 1])
            canvas.text((16, 46), f"reward {reward:.3f}", 12, GOLD if reward else DIM)
        bottom = self._paint_agents(canvas, step)
        if self.left_out:
            bottom -= NAME_HEIGHT
            words = f"not shown: {', '.join(self.left_out)}"
            canvas.text((EDGE, bottom + 7), fitted(words, 11, SIZE - 2 * EDGE), 11, DIM)
        top = self._paint_vectors(canvas, step, self._paint_scalars(canvas, step, HEADER + 8))
        self._paint_matrices(canvas, step, (EDGE, top, SIZE - EDGE, bottom))
        return canvas

    def _paint_agents(self, canvas: Canvas, step: int) -> float:
        """Each agent with its last action, at the bottom; returns where that begins."""
        count = min(len(self.agents), MOST_AGENTS)
        columns = 1 if count <= 3 else 2 if count <= 10 else 3
        rows = math.ceil(count / columns)
        height, size = (22, 13) if rows <= 5 else (14, 10)
        width, top = (SIZE - 2 * EDGE) / columns, SIZE - 8 - height * rows
        actions = self.recording.actions[step - 1] if step and self.recording.actions else ()
        if count:
            canvas.box((0, top - 6, SIZE, SIZE), PANEL)
        for agent in range(count):
            x, y = EDGE + width * (agent // rows), top + height * (agent % rows + 0.5)
            canvas.disk((x + 4, y), 4, self.colours[agent])
            canvas.text((x + 14, y), fitted(self.agents[agent], size, 0.45 * width - 18), size, DIM)
            if actions:
                canvas.text((x + 0.45 * width, y), fitted(actions[agent], size, 0.55 * width - 8), size, TEXT)
        if len(self.agents) > count:
            more = f"and {len(self.agents) - count} more"
            canvas.text((SIZE - EDGE, top - 14), more, 11, DIM, "rm")
        return top - 12 - NAME_HEIGHT * (len(self.agents) > count)

    def _paint_scalars(self, canvas: Canvas, step: int, top: float) -> float:
        """Three numbers a line; returns where the next thing begins."""
        shown, width = list(self.scalars.items())[:MOST_SCALARS], (SIZE - 2 * EDGE) / 3
        for k, (name, value) in enumerate(shown):
            x, y = EDGE + width * (k % 3), top + SCALAR_HEIGHT * (k // 3 + 0.5)
            number = _number(value[step])
            canvas.text((x + width - 16, y), number, 13, TEXT, "rm")
            canvas.text((x, y), _end_of(name, 12, width - 24 - text_width(number, 13)), 12, DIM)
        return top + SCALAR_HEIGHT * math.ceil(len(shown) / 3) + 4 * bool(shown)

    def _paint_vectors(self, canvas: Canvas, step: int, top: float) -> float:
        """A line of bars each; returns where the next thing begins."""
        for name, values in list(self.vectors.items())[:MOST_VECTORS]:
            canvas.text((EDGE, top + VECTOR_HEIGHT / 2), _end_of(name, 12, VECTOR_LEFT - EDGE - 8), 12, DIM)
            is_of_agents = values.shape[1] == len(self.agents)
            colours = self.colours if is_of_agents else (BLUE,) * values.shape[1]
            _paint_bars(canvas, values, step, (VECTOR_LEFT, top + 2, SIZE - EDGE, top + VECTOR_HEIGHT - 2), colours)
            top += VECTOR_HEIGHT
        return top

    def _paint_matrices(self, canvas: Canvas, step: int, box: Box) -> None:
        """The heat maps in rows and columns, as large as they can be."""
        if not self.matrices:
            return
        left, top, right, bottom = box

        def room(columns: int) -> tuple[float, float]:
            rows = math.ceil(len(self.matrices) / columns)
            return (right - left) / columns - 8, (bottom - top) / rows - NAME_HEIGHT - 6

        def filled(columns: int) -> float:
            return sum(one.area(*room(columns)) for one in self.matrices)

        columns = max(range(1, len(self.matrices) + 1), key=filled)
        width, height = room(columns)
        for k, one in enumerate(self.matrices):
            x, y = left + (width + 8) * (k % columns), top + (height + NAME_HEIGHT + 6) * (k // columns)
            canvas.text((x + 4 + width / 2, y + NAME_HEIGHT / 2), _end_of(one.name, 12, width), 12, DIM, "mm")
            _paint_heat_map(canvas, one, step, (x + 4, y + NAME_HEIGHT, x + 4 + width, y + NAME_HEIGHT + height))


def _matrices(name: str, values: np.ndarray) -> list[_Matrix]:
    """The array (L+1, ...) as heat maps on one scale; of three axes, one for each place on the shortest."""
    colours = _colours_of(values)
    if values.ndim == 3:
        return [_Matrix(name, values, colours)]
    axis = int(np.argmin(values.shape[1:]))
    return [
        _Matrix(f"{name}[{':, ' * axis}{k}]", np.take(values, k, axis + 1), np.take(colours, k, axis + 1))
        for k in range(values.shape[axis + 1])
    ]


def _colours_of(values: np.ndarray) -> np.ndarray:
    """A colour for each number: one for each of a few integers, or else orange below zero and blue above."""
    kinds = np.unique(values) if values.dtype.kind in "iu" else np.empty(0)
    if 0 < len(kinds) <= MOST_COLOURS:
        others = iter(agent_colours(len(kinds)))
        table = np.array([PANEL if kind == 0 else next(others) for kind in kinds])
        return table[np.searchsorted(kinds, values)].astype(np.uint8)
    real = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    share = (real / max(np.abs(real).max(), 1e-12))[..., None]
    ends = np.where(share < 0, np.array(ORANGE), np.array(BLUE))
    return (PANEL + (ends - PANEL) * np.abs(share)).round().astype(np.uint8)


def _paint_heat_map(canvas: Canvas, matrix: _Matrix, step: int, box: Box) -> None:
    """The matrix in the middle of the box, with its numbers where there is room; large ones are scaled down."""
    rows, columns = matrix.values.shape[1:]
    across, down = matrix.cell(box[2] - box[0], box[3] - box[1])
    width, height = across * columns, down * rows
    left, top = (box[0] + box[2] - width) / 2, (box[1] + box[3] - height) / 2
    size = (max(1, round(width * SCALE)), max(1, round(height * SCALE)))
    picture = Image.fromarray(matrix.colours[step]).resize(size, Image.Resampling.NEAREST)
    canvas.image.paste(picture, (round(left * SCALE), round(top * SCALE)))
    if min(across, down) >= 6:
        for row in range(1, rows):
            canvas.line([(left, top + row * down), (left + width, top + row * down)], NIGHT, 1)
        for column in range(1, columns):
            canvas.line([(left + column * across, top), (left + column * across, top + height)], NIGHT, 1)
    canvas.box((left - 1, top - 1, left + width + 1, top + height + 1), outline=LINE, width=1)
    font = int(min(14, down * 0.5))
    if matrix.values.dtype.kind == "b" or font < 8:
        return
    for (row, column), value in np.ndenumerate(matrix.values[step]):
        number, middle = _number(value), (left + (column + 0.5) * across, top + (row + 0.5) * down)
        if value and text_width(number, font) < across - 3:
            canvas.text(middle, number, font, _ink(matrix.colours[step, row, column]), "mm")


def _paint_bars(canvas: Canvas, values: np.ndarray, step: int, box: Box, colours: Sequence[Colour]) -> None:
    """The numbers of `values` (L+1, K) at a step as bars from zero, and where there is room as text."""
    real = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = min(0.0, float(real.min())), max(0.0, float(real.max()))
    left, top, right, bottom = box
    unit, width = (bottom - top) / max(high - low, 1e-12), (right - left) / values.shape[1]
    zero, gap = bottom + low * unit, min(2.0, 0.1 * width)
    for k, value in enumerate(real[step].tolist()):
        x, y = left + k * width, zero - value * unit
        canvas.box((x + gap, top, x + width - gap, bottom), PANEL)
        canvas.box((x + gap, min(y, zero), x + width - gap, max(y, zero)), colours[k], alpha=0.55)
        number = _number(values[step, k])
        if text_width(number, 12) < width - 4:
            canvas.text((x + width / 2, (top + bottom) / 2), number, 12, WHITE, "mm")


def _number(value: np.generic) -> str:
    """A number as text: three digits of a real one."""
    if value.dtype.kind == "b":
        return "yes" if value else "no"
    return f"{float(value):.3g}" if value.dtype.kind == "f" else str(int(value))


def _ink(colour: np.ndarray) -> Colour:
    """The colour of text that can be read on this one."""
    return NIGHT if colour @ np.array([0.3, 0.6, 0.1]) > 130 else WHITE


def _end_of(name: str, size: int, width: float) -> str:
    """A name, cut at its start where it is wider: the end of a path says most."""
    return fitted(name[::-1], size, width)[::-1]

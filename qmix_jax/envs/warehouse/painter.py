"""Films of the Robot Warehouse. Host only."""

from collections.abc import Mapping

import numpy as np

from qmix_jax.film.canvas import (
    BLUE,
    DIM,
    GOLD,
    LINE,
    NIGHT,
    ORANGE,
    PANEL,
    SIZE,
    WHITE,
    Box,
    Canvas,
    Colour,
    grid_cell,
    mix,
)
from qmix_jax.film.recording import HEADER, Frame, Recording, end_card, paint_header

WAYS = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Rows and columns of a step up, right, down and left."""


def paint_warehouse(recording: Recording) -> list[Frame]:
    """The floor, a frame a step."""
    scene = {name: np.asarray(value) for name, value in recording.scene.items()}
    shape = scene["is_path"].shape[1:]
    box, base, frames, canvas = _floor(shape), Canvas(), [], Canvas()
    for row, column in np.ndindex(*shape):
        base.box(grid_cell(box, shape, row, column), PANEL if scene["is_path"][0, row, column] else LINE, radius=3)
    for row, column in scene["goal"][0].tolist():
        base.box(grid_cell(box, shape, row, column), None, outline=GOLD, width=2, radius=3)
    words = [f"{count:.0f} shelves delivered" for count in recording.returns]
    for step, said in enumerate(words):
        canvas = Canvas(base.image)
        _paint_shelves(canvas, scene, step, box)
        _paint_robots(canvas, scene, step, box, recording.colours)
        paint_header(canvas, recording, step)
        canvas.text((16, 46), said, 12, GOLD if recording.returns[step] else DIM)
        frames.append(Frame(canvas.finish(), step))
    return frames + end_card(canvas, f"return {recording.returns[-1]:.0f}", words[-1], GOLD)


def _floor(shape: tuple[int, ...]) -> Box:
    """Where the grid lies in the frame, with square cells."""
    top, side = HEADER + 6.0, min((SIZE - HEADER - 12) / shape[0], (SIZE - 12) / shape[1])
    width = side * shape[1]
    return ((SIZE - width) / 2, top, (SIZE + width) / 2, top + side * shape[0])


def _paint_shelves(canvas: Canvas, scene: Mapping[str, np.ndarray], step: int, box: Box) -> None:
    """Requested shelves stand out."""
    shape = scene["is_path"].shape[1:]
    for shelf, (row, column) in enumerate(scene["shelf"][step].tolist()):
        colour = ORANGE if scene["is_requested"][step, shelf] else mix(DIM, NIGHT, 0.45)
        left, top, right, bottom = grid_cell(box, shape, row, column)
        edge = (right - left) * 0.1
        canvas.box((left + edge, top + edge, right - edge, bottom - edge), colour, radius=2)


def _paint_robots(
    canvas: Canvas, scene: Mapping[str, np.ndarray], step: int, box: Box, colours: tuple[Colour, ...]
) -> None:
    """Numbered disks with a line to where they face; a ring around those that carry a shelf."""
    shape = scene["is_path"].shape[1:]
    for robot, (row, column) in enumerate(scene["robot"][step].tolist()):
        left, top, right, bottom = grid_cell(box, shape, row, column)
        middle, radius = ((left + right) / 2, (top + bottom) / 2), (right - left) / 2
        down, across = WAYS[int(scene["direction"][step, robot])]
        tip = (middle[0] + across * radius * 1.2, middle[1] + down * radius * 1.2)
        canvas.line([middle, tip], WHITE, 3)
        canvas.disk(middle, radius * 0.7, mix(colours[robot] if colours else BLUE, NIGHT, 0.25))
        if scene["is_carrying"][step, robot]:
            canvas.ring(middle, radius * 0.8, GOLD, 2.5)
        canvas.text(middle, str(robot), round(radius * 0.8), WHITE, "mm")

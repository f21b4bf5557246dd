"""Films of Level-Based Foraging. Host only."""

from collections.abc import Mapping

import numpy as np

from qmix_jax.film.canvas import (
    BLUE,
    DIM,
    GOLD,
    NIGHT,
    ORANGE,
    PANEL,
    SIZE,
    WHITE,
    Canvas,
    Colour,
    grid_cell,
    mix,
)
from qmix_jax.film.recording import HEADER, Frame, Recording, end_card, paint_header

GRID_BOX = (34.0, HEADER + 2.0, SIZE - 34.0, float(SIZE))


def paint_foraging(recording: Recording) -> list[Frame]:
    """The grid, two frames a step."""
    scene = {name: np.asarray(value) for name, value in recording.scene.items()}
    eaten, size = scene["is_eaten"].sum(1), int(scene["size"][0])
    base, frames, canvas = Canvas(), [], Canvas()
    for row, column in np.ndindex(size, size):
        base.box(grid_cell(GRID_BOX, (size, size), row, column), PANEL, radius=4, alpha=0.6)
    words = [f"{count} of {scene['is_eaten'].shape[1]} foods eaten" for count in eaten]
    for step, said in enumerate(words):
        canvas = Canvas(base.image)
        _paint_things(canvas, scene, step, recording.colours)
        paint_header(canvas, recording, step)
        canvas.text((16, 46), said, 12, GOLD if eaten[step] else DIM)
        frames += [Frame(canvas.finish(), step)] * 2
    return frames + end_card(canvas, f"return {recording.returns[-1]:.2f}", words[-1], GOLD)


def _paint_things(canvas: Canvas, scene: Mapping[str, np.ndarray], step: int, colours: tuple[Colour, ...]) -> None:
    """Food as disks and agents as squares, both with their levels; a ring around agents that load."""
    size = int(scene["size"][0])
    for food, (row, column) in enumerate(scene["food"][step].tolist()):
        left, top, right, bottom = grid_cell(GRID_BOX, (size, size), row, column)
        middle, radius = ((left + right) / 2, (top + bottom) / 2), (right - left) / 2
        if scene["is_eaten"][step, food]:
            canvas.ring(middle, radius * 0.7, ORANGE, 1.5, 0.25)
            continue
        canvas.disk(middle, radius * 0.8, mix(ORANGE, NIGHT, 0.25))
        canvas.text(middle, str(scene["food_level"][step, food]), round(radius * 0.9), WHITE, "mm")
    for agent, (row, column) in enumerate(scene["agent"][step].tolist()):
        left, top, right, bottom = grid_cell(GRID_BOX, (size, size), row, column)
        middle, radius = ((left + right) / 2, (top + bottom) / 2), (right - left) / 2
        colour = colours[agent] if colours else BLUE
        canvas.box((left + 1, top + 1, right - 1, bottom - 1), mix(colour, NIGHT, 0.35), radius=radius * 0.4)
        canvas.text(middle, str(scene["agent_level"][step, agent]), round(radius * 0.9), WHITE, "mm")
        if scene["is_loading"][step, agent]:
            canvas.ring(middle, radius * 1.05, GOLD, 2.5)

"""Films of predator-prey. Host only."""

from collections.abc import Mapping

import numpy as np

from qmix_jax.film.canvas import BLUE, DIM, GOLD, NIGHT, ORANGE, PANEL, SIZE, WHITE, Canvas, grid_cell, mix
from qmix_jax.film.recording import HEADER, Frame, Recording, end_card, paint_header

CELLS = 10  # of the grid, along each side
GRID_BOX = (34.0, HEADER + 2.0, SIZE - 34.0, float(SIZE))


def paint_predator_prey(recording: Recording) -> list[Frame]:
    """The grid, two frames a step."""
    scene = {name: np.asarray(value) for name, value in recording.scene.items()}
    num_agents = scene["is_capturing"].shape[1]
    captured = (~scene["is_present"][:, num_agents:]).sum(1)
    base, frames, canvas = Canvas(), [], Canvas()
    for row, column in np.ndindex(CELLS, CELLS):
        base.box(grid_cell(GRID_BOX, (CELLS, CELLS), row, column), PANEL, radius=4, alpha=0.6)
    for step in range(len(captured)):
        canvas = Canvas(base.image)
        _paint_units(canvas, scene, step)
        paint_header(canvas, recording, step)
        canvas.text((16, 46), f"{captured[step]} prey captured", 12, GOLD if captured[step] else DIM)
        frames += [Frame(canvas.finish(), step)] * 2
    return frames + end_card(canvas, f"return {recording.returns[-1]:.2f}", f"{captured[-1]} prey captured", GOLD)


def _paint_units(canvas: Canvas, scene: Mapping[str, np.ndarray], step: int) -> None:
    """Agents as numbered squares, with a ring where they try to capture; prey as disks; a cross where one left."""
    num_agents = scene["is_capturing"].shape[1]
    before, now = scene["is_present"][max(0, step - 1)], scene["is_present"][step]
    for unit, (row, column) in enumerate(scene["position"][step].tolist()):
        left, top, right, bottom = grid_cell(GRID_BOX, (CELLS, CELLS), row, column)
        middle, radius = ((left + right) / 2, (top + bottom) / 2), (right - left) / 2
        colour = BLUE if unit < num_agents else ORANGE
        if not now[unit]:
            if before[unit]:
                canvas.cross(middle, radius * 0.5, colour, 3, 0.9)
        elif unit >= num_agents:
            canvas.disk(middle, radius * 0.75, colour)
        else:
            canvas.box((left + 3, top + 3, right - 3, bottom - 3), mix(colour, NIGHT, 0.35), radius=7)
            canvas.text(middle, str(unit), 14, WHITE, "mm")
            if scene["is_capturing"][step, unit]:
                canvas.ring(middle, radius, GOLD, 2.5)

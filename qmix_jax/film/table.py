"""Payoff tables of games of a few decisions: rows are the first agent's actions, columns the second's."""

from collections.abc import Sequence

import numpy as np

from qmix_jax.film.canvas import BLUE, DIM, GOLD, ORANGE, PANEL, WHITE, Box, Canvas, Colour, grid_cell, mix


def paint_table(
    canvas: Canvas,
    payoff: np.ndarray,
    box: Box,
    scale: tuple[float, float],
    *,
    chosen: Sequence[int] = (),
    alpha: float = 1.0,
) -> None:
    """A table in the box, coloured from the lowest to the highest payoff of `scale`.

    `chosen` holds the row, or the row and the column, that was played.
    """
    rows, columns = payoff.shape
    size = int(min(28, (box[2] - box[0]) / columns * 0.3, (box[3] - box[1]) / rows * 0.4))
    for (row, column), value in np.ndenumerate(payoff):
        is_open = tuple(chosen) == (row, column)[: len(chosen)]
        corners = grid_cell(box, (rows, columns), row, column)
        radius = min(8.0, (corners[2] - corners[0]) / 6)
        shown = alpha if is_open else alpha * 0.35
        canvas.box(corners, _tint(float(value), *scale), radius=radius, alpha=shown)
        if size >= 7:
            middle = ((corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2)
            canvas.text(middle, number(float(value)), size, WHITE, "mm", shown)
        if value == payoff.max() == scale[1] > scale[0]:
            canvas.text((corners[2] - 5, corners[1] + 9), "best", 10, GOLD, "rm", alpha if size >= 18 else 0.0)
            canvas.box(corners, outline=GOLD, width=1.5, radius=radius, alpha=alpha * 0.8)
        if is_open and len(chosen) == 2:
            grown = (corners[0] - 3, corners[1] - 3, corners[2] + 3, corners[3] + 3)
            canvas.box(grown, outline=WHITE, width=3, radius=radius + 2)


def paint_action_names(canvas: Canvas, box: Box, shape: tuple[int, int], chosen: Sequence[int], size: int) -> None:
    """The actions at the left of a table and above it."""
    for row in range(shape[0]):
        corners, is_played = grid_cell(box, shape, row, 0), len(chosen) > 0 and chosen[0] == row
        place = (box[0] - size, (corners[1] + corners[3]) / 2)
        canvas.text(place, action_name(row), size, WHITE if is_played else DIM, "mm")
    for column in range(shape[1]):
        corners, is_played = grid_cell(box, shape, 0, column), len(chosen) > 1 and chosen[1] == column
        place = ((corners[0] + corners[2]) / 2, box[1] - size)
        canvas.text(place, action_name(column), size, WHITE if is_played else DIM, "mm")


def action_name(action: int) -> str:
    """A letter, as far as there are letters."""
    return chr(ord("A") + action) if action < 26 else str(action)


def number(value: float) -> str:
    """A payoff as text."""
    return f"{value:.4g}"


def compared_with_best(value: float, best: float) -> tuple[str, Colour]:
    """The text and colour of an end card."""
    return ("the best there is", GOLD) if value >= best - 1e-6 else (f"the best is {number(best)}", ORANGE)


def _tint(value: float, low: float, high: float) -> Colour:
    """From orange for the lowest, dark in the middle, to blue for the highest."""
    share = 0.5 if high <= low else (value - low) / (high - low)
    return mix(PANEL, BLUE if share > 0.5 else ORANGE, 0.08 + 1.1 * abs(share - 0.5))

"""Films of the two-step game. Host only."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qmix_jax.film.canvas import BLUE, DIM, GOLD, LINE, NIGHT, PANEL, SIZE, TEXT, Canvas, Point, between
from qmix_jax.film.recording import CARD_HALF, HEADER, Frame, Recording, end_card, hold, paint_header
from qmix_jax.film.table import compared_with_best, number, paint_action_names, paint_table

ROOT: Point = (SIZE / 2, HEADER + 32)


class _Choices(NamedTuple):
    """What was chosen so far."""

    side: int | None = None
    """0: agent_0 chose A, 1: B."""
    action: tuple[int, ...] = ()
    """The joint action in the table."""


def paint_two_step(recording: Recording) -> list[Frame]:
    """Agent_0 picks a table, then both choose in it."""
    scene = recording.scene
    stages, actions = np.asarray(scene["stage"], int), np.asarray(scene["action"], int)
    tables = [np.asarray(scene[name], np.float64)[0] for name in ("payoff_a", "payoff_b")]
    choices = _Choices()
    page = _page(recording, tables, choices, 0)
    frames = hold(page, 1.2, 0)
    for t in range(1, len(stages)):
        if stages[t] in (1, 2):
            choices = _Choices(int(stages[t]) - 1)
        else:
            choices = choices._replace(action=tuple(actions[t].tolist()))
        page = _page(recording, tables, choices, t)
        frames += hold(page, 1.4, t)
    total = float(recording.returns[-1])
    below, colour = compared_with_best(total, max(float(table.max()) for table in tables))
    return frames + end_card(page, f"return {number(total)}", below, colour, SIZE - CARD_HALF - 4)


def _page(recording: Recording, tables: Sequence[np.ndarray], choices: _Choices, step: int) -> Canvas:
    """One picture: the first choice above the two tables."""
    canvas, both = Canvas(), np.stack(tables)
    paint_header(canvas, recording, step)
    scale = (float(both.min()), float(both.max()))
    for side, table in enumerate(tables):
        _paint_side(canvas, side, table, scale, choices)
    canvas.box((ROOT[0] - 92, ROOT[1] - 18, ROOT[0] + 92, ROOT[1] + 18), PANEL, outline=BLUE, width=2, radius=10)
    canvas.text(ROOT, "agent_0 chooses a side", 14, TEXT, "mm")
    return canvas


def _paint_side(canvas: Canvas, side: int, table: np.ndarray, scale: tuple[float, float], choices: _Choices) -> None:
    """The way to a table, and the table."""
    left = 42.0 + side * 226
    box = (left, 240.0, left + 186, 376.0)
    joint = ((box[0] + box[2]) / 2, 172.0)
    is_taken, shown = choices.side == side, 1.0 if choices.side in (None, side) else 0.28
    canvas.line([ROOT, joint], GOLD if is_taken else DIM, 4 if is_taken else 1.5, shown)
    sign = between(ROOT, joint, 0.58)
    canvas.disk(sign, 13, GOLD if is_taken else LINE)
    canvas.text(sign, "AB"[side], 15, NIGHT if is_taken else TEXT, "mm")
    corners = (joint[0] - 48, 158, joint[0] + 48, 186)
    canvas.box(corners, PANEL, outline=GOLD if is_taken else LINE, width=2, radius=8)
    canvas.text(joint, f"state 2{'AB'[side]}", 14, TEXT, "mm", max(shown, 0.5))
    canvas.text((joint[0], 205), "agent_1 plays", 11, DIM, "mm", shown)
    chosen = choices.action if is_taken else ()
    paint_table(canvas, table, box, scale, chosen=chosen, alpha=shown)
    paint_action_names(canvas, box, (table.shape[0], table.shape[1]), chosen, 14)

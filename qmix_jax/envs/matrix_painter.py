"""Films of matrix games. Host only."""

from collections.abc import Sequence

import numpy as np

from qmix_jax.film.canvas import BLUE, DIM, GOLD, NIGHT, PANEL, SIZE, TEXT, WHITE, Canvas, mix
from qmix_jax.film.recording import CARD_HALF, HEADER, Frame, Recording, end_card, hold, paint_header
from qmix_jax.film.table import action_name, compared_with_best, number, paint_action_names, paint_table


def paint_matrix(recording: Recording) -> list[Frame]:
    """The payoffs, then each agent's action, then the payoff of the joint action."""
    payoffs, actions = np.asarray(recording.scene["payoff"], np.float64), np.asarray(recording.scene["action"], int)
    page = _page(recording, payoffs[0], (), 0)
    frames = hold(page, 1.0, 0)
    for t in range(1, len(actions)):
        payoff, action = payoffs[t], actions[t].tolist()
        for made in range(1, payoff.ndim + 1):
            step = t if made == payoff.ndim else t - 1
            page = _page(recording, payoff, action[:made], step)
            frames += hold(page, 1.4 if made == payoff.ndim else 0.7, step)
    if len(actions) > 1:
        value = float(payoffs[-1][tuple(actions[-1].tolist())])
        below, colour = compared_with_best(value, float(payoffs[-1].max()))
        frames += end_card(page, f"payoff {number(value)}", below, colour, SIZE - CARD_HALF - 4)
    return frames


def _page(recording: Recording, payoff: np.ndarray, chosen: Sequence[int], step: int) -> Canvas:
    """One picture, with the actions of the first agents chosen."""
    canvas = Canvas()
    paint_header(canvas, recording, step)
    scale = (float(payoff.min()), float(payoff.max()))
    paint_game = _paint_two_agents if payoff.ndim == 2 else _paint_many_agents
    paint_game(canvas, payoff, chosen, scale)
    return canvas


def _paint_two_agents(canvas: Canvas, payoff: np.ndarray, chosen: Sequence[int], scale: tuple[float, float]) -> None:
    box = (84.0, HEADER + 66.0, SIZE - 34.0, SIZE - 108.0)
    canvas.text(((box[0] + box[2]) / 2, HEADER + 18), "agent_1 plays", 14, TEXT if len(chosen) == 1 else DIM, "mm")
    canvas.text((16, box[1] - 16), "agent_0", 14, TEXT if not len(chosen) else DIM, "lm")
    paint_table(canvas, payoff, box, scale, chosen=chosen)
    paint_action_names(canvas, box, (payoff.shape[0], payoff.shape[1]), chosen, 16)


def _paint_many_agents(canvas: Canvas, payoff: np.ndarray, chosen: Sequence[int], scale: tuple[float, float]) -> None:
    canvas.text((SIZE / 2, HEADER + 50), f"{payoff.ndim} agents choose at once", 18, TEXT, "mm")
    for agent in range(payoff.ndim):
        x, y = SIZE / 2 + (agent % 8 - (min(payoff.ndim, 8) - 1) / 2) * 54, HEADER + 120 + 60 * (agent // 8)
        made = agent < len(chosen)
        canvas.disk((x, y), 22, mix(BLUE, NIGHT, 0.3) if made else PANEL)
        canvas.text((x, y), action_name(chosen[agent]) if made else "?", 20, WHITE if made else DIM, "mm")
    if len(chosen) == payoff.ndim:
        value = float(payoff[tuple(chosen)])
        canvas.text((SIZE / 2, SIZE - 190), number(value), 56, GOLD if value == scale[1] else TEXT, "mm")
    canvas.text((SIZE / 2, SIZE - 140), f"payoffs from {number(scale[0])} to {number(scale[1])}", 14, DIM, "mm")

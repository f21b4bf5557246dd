"""Which painter an environment has, and the painter of those that have none."""

from importlib import import_module
from typing import Any

from qmix_jax.film.canvas import DIM, GOLD, TEXT, Canvas
from qmix_jax.film.recording import FRAMES_PER_STEP, HEADER, Frame, Painter, Recording, end_card, paint_header

ROWS = 16
"""Steps that a page of text has room for."""


def painter_of(env: Any) -> Painter:
    """The function that the environment's `painter` names, or else `paint_text`."""
    if env.painter is None:
        return paint_text
    module, _, name = env.painter.partition(":")
    return getattr(import_module(module), name)


def paint_text(recording: Recording) -> list[Frame]:
    """Steps, rewards and returns as text."""
    frames, canvas = [], Canvas()
    for step in range(len(recording.returns)):
        canvas = _page(recording, step)
        frames += [Frame(canvas.finish(), step)] * FRAMES_PER_STEP
    below = {True: "won", False: "not won", None: f"{len(recording.reward)} steps"}[recording.won]
    return frames + end_card(canvas, f"return {recording.returns[-1]:.2f}", below, GOLD)


def _page(recording: Recording, step: int) -> Canvas:
    """The last rows up to a step."""
    canvas, returns = Canvas(), recording.returns
    paint_header(canvas, recording, step)
    for place, words in ((110, "step"), (250, "reward"), (400, "return")):
        canvas.text((place, HEADER + 26), words, 14, DIM, "rm")
    for row, t in enumerate(range(max(0, step - ROWS), step)):
        y, ink = HEADER + 50 + 22 * row, TEXT if t == step - 1 else DIM
        canvas.text((110, y), str(t + 1), 14, ink, "rm")
        canvas.text((250, y), f"{float(recording.reward[t]):.3f}", 14, ink, "rm")
        canvas.text((400, y), f"{returns[t + 1]:.3f}", 14, ink, "rm")
    return canvas

"""Films of Connector. Host only."""

import numpy as np

from qmix_jax.film.canvas import DIM, GOLD, NIGHT, PANEL, SIZE, WHITE, Canvas, Point, mix
from qmix_jax.film.credit import agent_colours
from qmix_jax.film.recording import HEADER, Frame, Recording, Tween, end_card, paint_header, tweens

MARGIN = 16
"""Room above and below the board."""


class _Board:
    """What stays the same through a film."""

    def __init__(self, recording: Recording):
        scene = {name: np.asarray(value) for name, value in recording.scene.items()}
        self.head, self.target = scene["head"].astype(float), scene["target"][0].astype(float)
        self.connected = scene["connected"].astype(bool)
        self.agents, size = len(self.target), int(scene["grid_size"][0])
        self.colours = recording.colours or agent_colours(self.agents)
        self.cell = (SIZE - HEADER - 2 * MARGIN) / size
        self.background = Canvas()
        for row, column in np.ndindex(size, size):
            (x, y), half = self.point(np.array([row, column])), self.cell / 2 - 1.5
            self.background.box((x - half, y - half, x + half, y + half), PANEL, radius=0.12 * self.cell, alpha=0.8)

    def point(self, place: np.ndarray) -> Point:
        """Where a row and column lie in the frame."""
        row, column = (np.asarray(place, float) + 0.5) * self.cell
        return (float(column) + HEADER / 2 + MARGIN, float(row) + HEADER + MARGIN)

    def score(self, step: int) -> str:
        """How many agents reached their target."""
        return f"{int(self.connected[step].sum())} of {self.agents} connected"


def paint_connector(recording: Recording) -> list[Frame]:
    """Numbered heads that lay paths to rings, which turn gold when they are reached."""
    board, frames, canvas = _Board(recording), [], Canvas()
    for tween in tweens(len(recording.reward)):
        canvas = Canvas(board.background.image)
        for agent in range(board.agents):
            _paint_agent(canvas, board, agent, tween)
        paint_header(canvas, recording, tween.after)
        connected = board.connected[tween.before].any()
        canvas.text((16, 46), board.score(tween.before), 12, GOLD if connected else DIM)
        frames.append(Frame(canvas.finish(), tween.time))
    return frames + end_card(canvas, board.score(-1), recording.ending, GOLD)


def _paint_agent(canvas: Canvas, board: _Board, agent: int, tween: Tween) -> None:
    """The target, the path so far and the head."""
    colour, cell = board.colours[agent], board.cell
    head, is_connected = tween.of(board.head[:, agent]), bool(board.connected[tween.before, agent])
    target = board.point(board.target[agent])
    canvas.ring(target, 0.38 * cell, colour, max(1.5, 0.06 * cell))
    canvas.disk(target, 0.12 * cell, colour)
    way = [board.point(place) for place in [*board.head[: tween.before + 1, agent], head]]
    for point in way:
        canvas.disk(point, 0.12 * cell, mix(colour, NIGHT, 0.35))
    canvas.line(way, mix(colour, NIGHT, 0.35), 0.26 * cell)
    middle = board.point(head)
    canvas.disk(middle, 0.34 * cell, mix(colour, NIGHT, 0.35))
    canvas.ring(middle, 0.38 * cell, GOLD if is_connected else mix(colour, WHITE, 0.2), max(1.5, 0.06 * cell))
    canvas.text(middle, str(agent), max(8, round(0.3 * cell)), WHITE, "mm")

"""Films of JaxNav. Host only."""

import math

import numpy as np

from qmix_jax.film.canvas import BLUE, DIM, GOLD, LINE, NIGHT, ORANGE, WHITE, Camera, Canvas, Colour, mix
from qmix_jax.film.credit import agent_colours
from qmix_jax.film.recording import SCENE, Frame, Recording, Tween, end_card, paint_header, tweens

HALF = 0.25  # of a robot's side, in metres
GOAL_RADIUS = 0.5


def paint_jaxnav(recording: Recording) -> list[Frame]:
    """Walls, numbered robots with their heading, and a ring for each goal, which is full once it is reached."""
    scene = {name: np.asarray(value) for name, value in recording.scene.items()}
    walls, num_agents = scene["walls"][0], scene["position"].shape[1]
    corners = np.array([[0.0, 0.0], walls.shape[::-1]])
    camera = Camera.over(corners, SCENE, margin=0.1, least=1.0)
    colours = recording.colours or agent_colours(num_agents)
    background, canvas, frames = Canvas(), Canvas(), []
    for y, x in np.argwhere(walls).tolist():
        (left, bottom), (right, top) = (camera.point(np.array([x + side, y + side])) for side in (0, 1))
        background.box((left, top, right, bottom), LINE)
    for tween in tweens(len(recording.reward)):
        canvas = Canvas(background.image)
        for agent in range(num_agents):
            _paint_goal(canvas, camera, scene, tween, agent, colours[agent])
        for agent in range(num_agents):
            _paint_robot(canvas, camera, scene, tween, agent, colours[agent])
        paint_header(canvas, recording, tween.after)
        canvas.text((16, 46), _score(scene, tween.after), 12, GOLD if scene["reached"][tween.after].all() else DIM)
        frames.append(Frame(canvas.finish(), tween.time))
    colour = GOLD if recording.won else BLUE if scene["alive"][-1].all() else ORANGE
    words = "all at their goals" if recording.won else f"return {recording.returns[-1]:.2f}"
    return frames + end_card(canvas, words, _score(scene, -1), colour)


def _score(scene: dict[str, np.ndarray], step: int) -> str:
    reached, alive = scene["reached"][step], scene["alive"][step]
    return f"{int(reached.sum())} of {len(reached)} goals reached, {int((~alive).sum())} crashed"


def _paint_goal(
    canvas: Canvas, camera: Camera, scene: dict[str, np.ndarray], tween: Tween, agent: int, colour: Colour
) -> None:
    place, radius = camera.point(scene["goal"][0, agent]), GOAL_RADIUS * camera.scale
    canvas.disk(place, radius, colour, 0.35 if scene["reached"][tween.after, agent] else 0.08)
    canvas.ring(place, radius, colour, 2, 0.8)
    canvas.text(place, str(agent), max(10, round(radius * 0.6)), colour, "mm", 0.8)


def _paint_robot(
    canvas: Canvas, camera: Camera, scene: dict[str, np.ndarray], tween: Tween, agent: int, colour: Colour
) -> None:
    position = tween.of(scene["position"])[agent]
    heading, alive = float(scene["heading"][tween.before, agent]), scene["alive"][tween.after, agent]
    ahead = HALF * np.array([math.cos(heading), math.sin(heading)])
    aside = ahead[::-1] * [-1, 1]
    corners = [camera.point(position + a * ahead + b * aside) for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))]
    place, front, radius = camera.point(position), camera.point(position + ahead), HALF * camera.scale
    canvas.polygon(corners, mix(colour, NIGHT, 0.35 if alive else 0.75))
    canvas.line([*corners, corners[0]], mix(colour, WHITE, 0.2) if alive else ORANGE, 2.5)
    canvas.line([place, front], WHITE, 2.5)
    canvas.text(place, str(agent), max(9, round(radius * 0.8)), WHITE, "mm")
    if not alive:
        canvas.cross(place, radius * 0.8, ORANGE, 3, 0.9)

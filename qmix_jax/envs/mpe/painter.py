"""Films of particle worlds. Host only."""

import numpy as np
from PIL import Image

from qmix_jax.film.canvas import DIM, GOLD, LINE, NIGHT, SIZE, TEXT, WHITE, Camera, Canvas, Colour, mix
from qmix_jax.film.recording import HEADER, SCENE, Frame, Recording, Tween, end_card, paint_header, tweens

COVERED = 0.15  # an agent this near to a landmark covers it
TRAIL_STEPS = 4.0
FARTHEST = 3.0  # the camera does not follow entities farther out


class _Particles:
    """What stays the same through a film."""

    def __init__(self, recording: Recording):
        scene = recording.scene
        self.position = np.asarray(scene["position"], np.float64)
        is_agent = np.asarray(scene["is_agent"], bool)[0]
        self.agents, self.landmarks = np.flatnonzero(is_agent).tolist(), np.flatnonzero(~is_agent).tolist()
        self.colour = [_bright(colour) for colour in np.asarray(scene["colour"], np.float64)[0]]
        self.colour[: len(recording.colours)] = recording.colours
        self.goal = np.asarray(scene["goal"], int)
        self.message = np.asarray(scene["message"], int)
        near = np.clip(self.position, -FARTHEST, FARTHEST)
        self.camera = Camera.over(near, SCENE, margin=0.32, least=2.2)
        self.radius = np.asarray(scene["radius"], np.float64)[0] * self.camera.scale
        self.background = self._background()

    def _background(self) -> Image.Image:
        canvas = Canvas()
        for k in np.arange(-5.0, 5.25, 0.25):
            x, y = self.camera.point(np.array([k, k]))
            strength = 0.8 if k % 1 == 0 else 0.3
            canvas.line([(x, HEADER), (x, SIZE)], LINE, 1, strength)
            canvas.line([(0, y), (SIZE, y)], LINE, 1, strength)
        return canvas.image

    def covered(self, positions: np.ndarray) -> list[int]:
        """The landmarks with an agent on them."""
        gaps = np.linalg.norm(positions[self.landmarks, None] - positions[None, self.agents], axis=-1)
        return np.array(self.landmarks)[(gaps < COVERED).any(1)].tolist()

    def score(self, positions: np.ndarray) -> str:
        """How many landmarks are covered."""
        return f"{len(self.covered(positions))} of {len(self.landmarks)} landmarks covered"


def paint_mpe(recording: Recording) -> list[Frame]:
    """Numbered agents with trails; landmarks are targets that light up when an agent covers them."""
    particles = _Particles(recording)
    frames, canvas = [], Canvas(particles.background)
    for tween in tweens(len(recording.reward)):
        canvas, positions = Canvas(particles.background), tween.of(particles.position)
        _paint_trails(canvas, particles, tween)
        _paint_landmarks(canvas, particles, positions)
        _paint_agents(canvas, particles, tween, positions)
        _paint_messages(canvas, particles, tween, positions)
        paint_header(canvas, recording, tween.after)
        colour = GOLD if particles.covered(positions) else DIM
        canvas.text((16, 46), particles.score(positions), 12, colour)
        frames.append(Frame(canvas.finish(), tween.time))
    score = particles.score(particles.position[-1])
    return frames + end_card(canvas, f"return {recording.returns[-1]:.2f}", score, GOLD)


def _bright(colour: np.ndarray) -> Colour:
    """The colour, light enough for the dark background."""
    red, green, blue = (int(value) for value in np.clip(colour, 0, 255))
    lightness = 0.3 * red + 0.59 * green + 0.11 * blue
    return mix((red, green, blue), WHITE, max(0.0, (140 - lightness) / 255))


def _paint_landmarks(canvas: Canvas, particles: _Particles, positions: np.ndarray) -> None:
    covered, reach = particles.covered(positions), COVERED * particles.camera.scale
    for entity in particles.landmarks:
        place, colour = particles.camera.point(positions[entity]), particles.colour[entity]
        if entity in covered:
            canvas.disk(place, reach * 1.35, GOLD, 0.13)
            canvas.disk(place, reach, GOLD, 0.28)
            canvas.ring(place, reach, GOLD, 2.5)
        canvas.ring(place, reach, colour, 1.5, 0.0 if entity in covered else 0.55)
        canvas.ring(place, reach * 0.55, colour, 2, 0.9)
        canvas.disk(place, max(4.0, reach * 0.18), colour)


def _paint_trails(canvas: Canvas, particles: _Particles, tween: Tween) -> None:
    last = len(particles.position) - 1
    times = np.linspace(max(0.0, tween.time - TRAIL_STEPS), tween.time, 25)
    low = np.minimum(times.astype(int), last)
    high, share = np.minimum(low + 1, last), (times - low)[:, None]
    for entity in particles.agents:
        way = particles.position[low, entity] * (1 - share) + particles.position[high, entity] * share
        for k in range(24):
            width = 2 + (particles.radius[entity] * 0.8) * k / 24
            canvas.disk(particles.camera.point(way[k]), width, particles.colour[entity], 0.02 + 0.07 * k / 24)


def _paint_agents(canvas: Canvas, particles: _Particles, tween: Tween, positions: np.ndarray) -> None:
    """With a dashed line to the agent's goal, where it has one."""
    for agent, entity in enumerate(particles.agents):
        place, colour = particles.camera.point(positions[entity]), particles.colour[entity]
        radius = max(8.0, float(particles.radius[entity]))
        goal = int(particles.goal[tween.before, entity])
        if goal >= 0:
            canvas.dashes(place, particles.camera.point(positions[goal]), particles.colour[goal], 0.6)
        canvas.disk(place, radius, mix(colour, NIGHT, 0.35), 0.82)
        canvas.ring(place, radius, mix(colour, WHITE, 0.2), 2.5)
        canvas.text(place, str(agent), max(10, round(radius * 0.7)), WHITE, "mm")


def _paint_messages(canvas: Canvas, particles: _Particles, tween: Tween, positions: np.ndarray) -> None:
    """Speech bubbles with the letter of the symbol."""
    for entity in particles.agents:
        symbol = int(particles.message[tween.after, entity])
        if symbol < 0:
            continue
        x, y = particles.camera.point(positions[entity])
        reach = max(8.0, float(particles.radius[entity])) * 0.75
        x, y = min(x + reach, SIZE - 30), max(y - reach, HEADER + 34)
        canvas.polygon([(x, y), (x + 5, y - 12), (x + 13, y - 8)], TEXT)
        canvas.box((x + 1, y - 31, x + 27, y - 7), TEXT, radius=8)
        canvas.text((x + 14, y - 19), chr(ord("A") + symbol % 26), 15, NIGHT, "mm")

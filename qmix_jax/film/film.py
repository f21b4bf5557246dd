"""Films: a recorded greedy episode as an animated GIF. Host only: numpy and Pillow.

A painter turns a `Recording` into frames. Worlds that move (SMAX, MPE) get TWEEN frames for each step, with
positions in between; games of a few decisions hold each moment long enough to be read. Every film ends with a card.
Lengths are in pixels of the final frame: a `Canvas` draws at SCALE times that and averages it down.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from qmix_jax.learning.evaluate import RecordedEpisodes
    from qmix_jax.types import TeamValues

SIZE = 480
"""Size and height of every frame."""
SCALE = 2
"""Drawing is this much larger than the frame, and averaged down."""
TWEEN = 3
"""Frames for each environment step."""
FRAME_SECONDS = 0.07
"""How long a frame is shown."""
CARD_FRAMES = 26
"""Frames of the end card: about 1.8 seconds."""

Colour = tuple[int, int, int]
Point = tuple[float, float]

NIGHT: Colour = (17, 21, 31)  # behind everything
PANEL: Colour = (26, 32, 46)
LINE: Colour = (38, 46, 64)
DIM: Colour = (128, 140, 163)
TEXT: Colour = (232, 237, 245)
WHITE: Colour = (255, 255, 255)
SHADE: Colour = (7, 9, 14)
BLUE: Colour = (70, 166, 255)  # allies, large payoffs
ORANGE: Colour = (255, 143, 51)  # enemies, small payoffs
GOLD: Colour = (255, 214, 92)
MAIN_COLOURS = (NIGHT, PANEL, LINE, DIM, TEXT, WHITE, SHADE, BLUE, ORANGE, GOLD)
TEAMS = (BLUE, ORANGE)

HEADER = 66  # height of the strip above the scene
CARD_HALF = 46  # half the height of the end card


class Recording(NamedTuple):
    """One greedy episode of L steps, as numpy arrays."""

    scene: dict[str, np.ndarray]
    """What the painter needs, each (L+1, ...): the moment before each step, and the last."""
    reward: np.ndarray
    """(L,) the team's reward of each step."""
    won: bool | None
    """None where the environment has no wins."""
    title: str
    """What the film shows, such as `QMIX on SMAX 2s3z`."""
    values: "TeamValues | None" = None
    """(L, ...) what the team made of each step's joint action; see `qmix_jax.film.credit`."""
    colours: tuple[Colour, ...] = ()
    """Each agent's colour in worlds that move; empty: the painter's own."""
    agent_names: tuple[str, ...] = ()
    """As everywhere (`TeamSpec.agent_names`), for legends; empty: agent_0, agent_1, ..."""

    @classmethod
    def cut(
        cls, record: "RecordedEpisodes", episode: int, *, has_wins: bool, title: str, agent_names: tuple[str, ...] = ()
    ) -> "Recording":
        """One episode out of a record (of NumPy arrays)."""
        length = int(record.episodes.length[episode])
        q, q_tot, credit = (None if part is None else part[:length, episode] for part in record.values)
        return cls(
            scene={name: np.asarray(value[: length + 1, episode]) for name, value in record.scene.items()},
            reward=np.asarray(record.reward[:length, episode]),
            won=bool(record.episodes.metrics["win_rate"][episode]) if has_wins else None,
            title=title,
            values=record.values._replace(q=q, q_tot=q_tot, credit=credit),
            agent_names=agent_names,
        )


class Frame(NamedTuple):
    """A picture of a film, and the time in steps that it shows (past the episode's length: after the end)."""

    image: Image.Image
    time: float


# --- drawing -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size * SCALE)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """The colour `share` of the way from the first to the second."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))  # type: ignore[return-value]


def _ease(share: float) -> float:
    """0 to 1 with a gentle start and end."""
    share = min(max(share, 0.0), 1.0)
    return share * share * (3 - 2 * share)


class Canvas:
    """A large picture with blending brushes; `alpha` is opacity from 0 to 1 everywhere."""

    def __init__(self, image: Image.Image | None = None):
        size = (SIZE * SCALE, SIZE * SCALE)
        self.image = Image.new("RGB", size, NIGHT) if image is None else image.copy()
        self.draw = ImageDraw.Draw(self.image, "RGBA")

    def finish(self) -> Image.Image:
        """The frame."""
        return self.image.reduce(SCALE)

    def line(self, points: Sequence[Point], colour: Colour, width: float = 1, alpha: float = 1.0) -> None:
        """A line through the points."""
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self.draw.line(scaled, fill=_paint(colour, alpha), width=max(1, round(width * SCALE)), joint="curve")

    def dashes(self, start: Point, end: Point, colour: Colour, alpha: float = 1.0) -> None:
        """A dashed line."""
        count = max(1, int(math.dist(start, end) / 9))
        for k in range(count):
            self.line([_between(start, end, k / count), _between(start, end, (k + 0.5) / count)], colour, 1.5, alpha)

    def disk(self, centre: Point, radius: float, colour: Colour, alpha: float = 1.0) -> None:
        """A filled circle."""
        self.draw.ellipse(_around(centre, radius), fill=_paint(colour, alpha))

    def ring(self, centre: Point, radius: float, colour: Colour, width: float = 1, alpha: float = 1.0) -> None:
        """A circle's outline."""
        width = max(1, round(width * SCALE))
        self.draw.ellipse(_around(centre, radius), outline=_paint(colour, alpha), width=int(width))

    def arc(self, centre: Point, radius: float, share: float, colour: Colour, width: float) -> None:
        """A share of a circle, clockwise from the top."""
        if share > 0.004:
            end = -90 + 360 * min(share, 1.0)
            self.draw.arc(_around(centre, radius), -90, end, fill=colour, width=round(width * SCALE))

    def cross(self, centre: Point, radius: float, colour: Colour, width: float, alpha: float) -> None:
        """An x."""
        x, y = centre
        self.line([(x - radius, y - radius), (x + radius, y + radius)], colour, width, alpha)
        self.line([(x - radius, y + radius), (x + radius, y - radius)], colour, width, alpha)

    def box(
        self,
        corners: tuple[float, float, float, float],
        fill: Colour | None = None,
        *,
        outline: Colour | None = None,
        width: float = 0,
        radius: float = 0,
        alpha: float = 1.0,
    ) -> None:
        """A rectangle from (left, top) to (right, bottom), with round corners."""
        left, top, right, bottom = (round(value * SCALE) for value in corners)
        paints = (None if colour is None else _paint(colour, alpha) for colour in (fill, outline))
        inside, edge = paints
        corners_in = (left, top, max(left, right - 1), max(top, bottom - 1))
        self.draw.rounded_rectangle(corners_in, radius * SCALE, inside, edge, round(width * SCALE))

    def text(
        self, at: Point, words: str, size: int, colour: Colour = TEXT, anchor: str = "lm", alpha: float = 1.0
    ) -> None:
        """Words, faded towards the background; the anchor is Pillow's, such as lm: left of it, at half height."""
        place = (at[0] * SCALE, at[1] * SCALE)
        if alpha > 0:  # Pillow writes text opaque whatever its alpha
            self.draw.text(place, words, fill=mix(NIGHT, colour, alpha), font=_font(size), anchor=anchor)


def _paint(colour: Colour, alpha: float) -> tuple[int, int, int, int]:
    return (*colour, round(255 * min(max(alpha, 0.0), 1.0)))


def _around(centre: Point, radius: float) -> tuple[float, float, float, float]:
    (x, y), r = centre, radius
    return ((x - r) * SCALE, (y - r) * SCALE, (x + r) * SCALE, (y + r) * SCALE)


def _between(start: Point, end: Point, share: float) -> Point:
    return (start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share)


def _fitted(words: str, size: int, width: float) -> str:
    """The words, cut with an ellipsis where they would be wider."""
    font = _font(size)
    if font.getlength(words) <= width * SCALE:
        return words
    while words and font.getlength(words + "…") > width * SCALE:
        words = words[:-1]
    return words.rstrip() + "…"


class Camera(NamedTuple):
    """Where world coordinates (y up) fall on the frame (y down)."""

    centre: Point
    middle: Point
    scale: float
    """Pixels for a unit of the world."""

    @classmethod
    def over(cls, points: np.ndarray, box: tuple[float, float, float, float], margin: float, least: float) -> "Camera":
        """The closest view of all points (..., 2) in the box, with a margin and at least `least` of the world."""
        flat = points.reshape(-1, 2)
        low, high = (flat.min(0), flat.max(0)) if len(flat) else (np.zeros(2), np.zeros(2))
        width, height = np.maximum(high - low + 2 * margin, least)
        left, top, right, bottom = box
        x, y = (low + high) / 2
        scale = min((right - left) / width, (bottom - top) / height)
        return cls((float(x), float(y)), ((left + right) / 2, (top + bottom) / 2), float(scale))

    def spot(self, position: np.ndarray) -> Point:
        """The place of one position on the frame."""
        x = self.middle[0] + (float(position[0]) - self.centre[0]) * self.scale
        return (x, self.middle[1] - (float(position[1]) - self.centre[1]) * self.scale)


class Moment(NamedTuple):
    """A time in the episode: `share` of the way from moment `now` to moment `then`."""

    now: int
    then: int
    share: float

    @property
    def time(self) -> float:
        """The time in steps."""
        return self.now + self.share

    def of(self, values: np.ndarray) -> np.ndarray:
        """The values (L+1, ...) at this time."""
        return values[self.now] * (1 - self.share) + values[self.then] * self.share


def _moments(steps: int, after: int = 0) -> Iterator[Moment]:
    """TWEEN moments for each step, the last, and `after` more in which only effects fade."""
    for t in range(steps):
        for k in range(TWEEN):
            yield Moment(t, t + 1, k / TWEEN)
    for k in range(after + 1):
        yield Moment(steps, steps, k / TWEEN)


def _returns(recording: Recording) -> np.ndarray:
    """(L+1,) the return so far at each moment."""
    return np.concatenate([[0.0], np.cumsum(np.asarray(recording.reward, np.float64))])


def _header(canvas: Canvas, recording: Recording, step: int, value: float) -> None:
    """The strip on top: title, step and return so far."""
    canvas.box((0, 0, SIZE, HEADER), PANEL)
    canvas.text((16, 20), _fitted(recording.title, 15, 270), 15)
    canvas.text((SIZE - 16, 20), f"{value:.2f}", 15, GOLD, "rm")
    canvas.text((SIZE - 66, 20), "return", 12, DIM, "rm")
    canvas.text((SIZE - 16, 46), f"step {step} of {len(recording.reward)}", 12, DIM, "rm")


def _card(
    canvas: Canvas, words: str, below: str, colour: Colour, middle: float = HEADER + CARD_HALF + 24
) -> list[Frame]:
    """The end card, which fades in over the finished scene at a height where it hides little."""
    frames: list[Frame] = []
    for k in range(CARD_FRAMES):
        if k > 5:
            frames.append(frames[-1])
            continue
        shown = _ease((k + 1) / 6)
        page, half = Canvas(canvas.image), CARD_HALF * shown
        page.box((0, middle - half, SIZE, middle + half), SHADE, alpha=0.86 * shown)
        for y in (middle - half, middle + half):
            page.line([(0, y), (SIZE, y)], colour, 1.5, shown)
        page.text((SIZE / 2, middle - 13), words, 36 if len(words) < 15 else 30, colour, "mm", shown)
        page.text((SIZE / 2, middle + 24), below, 15, TEXT, "mm", shown)
        frames.append(Frame(page.finish(), math.inf))
    return frames


# --- SMAX: battles -----------------------------------------------------------------------------------------------

MAP_SIZE = 32.0
LETTERS = ("m", "M", "s", "Z", "z", "h")
UNIT_NAMES = ("marine", "marauder", "stalker", "zealot", "zergling", "hydralisk")
MELEE = (3, 4)
CAMERA_REACH = 4  # steps that the camera looks back and ahead
WALL: Colour = (92, 104, 130)
SPLASH_STEPS = 2.0  # how long a death is seen


class _Battle:
    """What stays the same through a battle's film."""

    def __init__(self, recording: Recording):
        scene = recording.scene
        self.recording = recording
        self.position = np.asarray(scene["position"], np.float64)
        self.alive = np.asarray(scene["alive"], bool)
        self.health = np.clip(np.where(self.alive, scene["health"], 0.0), 0.0, 1.0)
        self.team = np.asarray(scene["team"], int)[0]
        self.kind = np.asarray(scene["unit_type"], int)[0]
        self.colour = [TEAMS[team] for team in self.team]  # allies, then enemies
        self.colour[: len(recording.colours)] = recording.colours
        self.target = np.asarray(scene["target"], int)
        self.returns = _returns(recording)
        everlasting = np.where(self.alive[-1], np.inf, np.argmin(self.alive, axis=0))
        self.death = np.where(self.alive.any(0), everlasting, -np.inf)
        self.radius = np.asarray(scene["radius"], np.float64)[0]
        self.low, self.high = self._view()

    def _view(self) -> tuple[np.ndarray, np.ndarray]:
        """(L+1, 2) the corners of what the camera shows at each moment: a smooth box that holds all the living.

        The mean, over a window, of the extremes over the same window never leaves a unit outside.
        """
        shown = self.alive | ~self.alive.any(1, keepdims=True)
        boxes = []
        for reach, fill in ((np.minimum, np.inf), (np.maximum, -np.inf)):
            edge = reach.reduce(np.where(shown[..., None], self.position, fill), axis=1)
            extreme = _windows(edge)
            boxes.append(_windows(reach.reduce(extreme, axis=1)).mean(1))
        return boxes[0], boxes[1]

    def camera(self, moment: Moment) -> Camera:
        """The view at a moment."""
        corners = np.stack([moment.of(self.low), moment.of(self.high)])
        least = min(22.0, 12.0 + 0.2 * len(self.team))  # crowds from farther away: a smaller file
        return Camera.over(corners, (0, HEADER, SIZE, SIZE), margin=1.9, least=least)

    def places(self, moment: Moment) -> np.ndarray:
        """(U, 2) where each unit is; fighters at close quarters lunge at their target."""
        positions = moment.of(self.position)
        if moment.then > moment.now:
            for unit in np.flatnonzero(np.isin(self.kind, MELEE) & (self.target[moment.then] >= 0)):
                towards = positions[self.target[moment.then, unit]] - positions[unit]
                length = max(float(np.linalg.norm(towards)), 1e-6)
                positions[unit] += towards / length * 0.28 * math.sin(math.pi * moment.share)
        return positions


def _windows(values: np.ndarray) -> np.ndarray:
    """(T, 2 CAMERA_REACH + 1, ...) for each time the values around it; the ends repeat."""
    times = np.arange(len(values))[:, None] + np.arange(-CAMERA_REACH, CAMERA_REACH + 1)
    return values[np.clip(times, 0, len(values) - 1)]


class _Shot(NamedTuple):
    """One frame of a battle in the making."""

    canvas: Canvas
    battle: _Battle
    moment: Moment
    places: list[Point]
    radius: np.ndarray


def _paint_map(canvas: Canvas, camera: Camera) -> None:
    """A faint grid within walls, darkness outside."""
    left, top = camera.spot(np.array([0.0, MAP_SIZE]))
    right, bottom = camera.spot(np.array([MAP_SIZE, 0.0]))
    if left > 0 or right < SIZE or top > HEADER or bottom < SIZE:
        canvas.box((0, HEADER, SIZE, SIZE), SHADE)
        canvas.box((left, top, right, bottom), NIGHT)
        canvas.box((left - 4, top - 4, right + 4, bottom + 4), outline=WALL, width=4, radius=3)
    for k in np.arange(2.0, MAP_SIZE, 2.0):
        x, y = camera.spot(np.array([k, k]))
        strength = 0.9 if k % 8 == 0 else 0.45
        canvas.line([(x, top), (x, bottom)], LINE, 1, strength)
        canvas.line([(left, y), (right, y)], LINE, 1, strength)


def _paint_legend(canvas: Canvas, battle: _Battle) -> None:
    """The letters of the unit types, and the colours of the teams."""
    x = 12.0
    for kind in sorted(set(battle.kind.tolist())):
        canvas.text((x, SIZE - 13), LETTERS[kind], 12, TEXT)
        canvas.text((x + 15, SIZE - 13), UNIT_NAMES[kind], 11, DIM)
        x += 15 + _font(11).getlength(UNIT_NAMES[kind]) / SCALE + 14
    y = SIZE - 13 if x < SIZE - 104 else SIZE - 30
    allies = DIM if battle.recording.colours else BLUE
    for right, words, colour in ((SIZE - 68, "allies", allies), (SIZE - 12, "enemies", ORANGE)):
        canvas.text((right, y), words, 11, colour, "rm")


@lru_cache(maxsize=1024)
def _token(radius: float, colour: Colour, letter: str, flash: float) -> Image.Image:
    """A unit's disk with its letter, seen from above."""
    half = math.ceil(radius * SCALE) + 4
    image = Image.new("RGBA", (2 * half, 2 * half), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    body = mix(mix(colour, NIGHT, 0.42), WHITE, flash)
    reach = radius * SCALE
    draw.ellipse((half - reach, half - reach, half + reach, half + reach), fill=(*SHADE, 255))
    reach -= SCALE
    draw.ellipse((half - reach, half - reach, half + reach, half + reach), fill=(*body, 255))
    ink = SHADE if flash > 0.5 else WHITE
    draw.text((half, half), letter, fill=ink, font=_font(max(8, round(radius * 1.15))), anchor="mm")
    return image


def _paint_units(shot: _Shot) -> None:
    canvas, battle, moment, places, sizes = shot
    targets = battle.target[moment.then]
    struck = moment.then > moment.now and moment.share > 0.4
    hit = set(targets[targets >= 0].tolist()) if struck else set()
    health = moment.of(battle.health)
    for unit in sorted(np.flatnonzero(battle.death > moment.time).tolist(), key=lambda u: places[u][1]):
        radius, colour = round(float(sizes[unit]) * 2) / 2, battle.colour[unit]
        letter = LETTERS[battle.kind[unit] % len(LETTERS)]
        token = _token(radius, colour, letter, 0.28 if unit in hit else 0.0)
        x, y = (round(value * SCALE) - token.width // 2 for value in places[unit])
        canvas.image.paste(token, (x, y), token)
        canvas.arc(places[unit], radius + 1.5, 1.0, mix(colour, SHADE, 0.78), 3)
        canvas.arc(places[unit], radius + 1.5, float(health[unit]), mix(colour, WHITE, 0.25), 3)


def _paint_badges(shot: _Shot) -> None:
    """The numbers, from 0, of agents that have colours of their own."""
    canvas, battle, moment, places, sizes = shot
    for agent, colour in enumerate(battle.recording.colours):
        if battle.death[agent] > moment.time:
            (x, y), away = places[agent], float(sizes[agent]) + 3
            canvas.disk((x - away, y - away), 8, SHADE, 0.8)
            canvas.text((x - away, y - away), str(agent), 11, mix(colour, WHITE, 0.3), "mm")


def _paint_deaths(shot: _Shot) -> None:
    """A splash that widens and fades, and a cross that stays faintly."""
    canvas, battle, moment, places, sizes = shot
    for unit in np.flatnonzero((battle.death <= moment.time) & (battle.death >= 0)).tolist():
        age = (moment.time - battle.death[unit]) / SPLASH_STEPS
        colour, radius = battle.colour[unit], float(sizes[unit])
        fade = max(0.0, 1.0 - age)
        canvas.cross(places[unit], radius * 0.55, mix(colour, WHITE, 0.3 * fade), 2, 0.28 + 0.6 * fade)
        if fade:
            canvas.disk(places[unit], radius * (1 + 0.4 * age), mix(colour, WHITE, 0.5), 0.5 * fade**2)
            canvas.ring(places[unit], radius * (1 + 1.6 * _ease(age)), colour, 1 + 2 * fade, fade)


def _paint_shots(shot: _Shot) -> None:
    """Tracers on their way, or the spark where a blow lands."""
    canvas, battle, moment, places, sizes = shot
    if moment.then == moment.now:
        return
    targets = battle.target[moment.then]
    for unit in np.flatnonzero((targets >= 0) & battle.alive[moment.now]).tolist():
        start, end = places[unit], places[targets[unit]]
        colour = mix(battle.colour[unit], WHITE, 0.45)
        distance = max(math.dist(start, end), 1e-6)
        muzzle = _between(start, end, min(0.5, float(sizes[unit]) / distance))
        edge = _between(start, end, max(0.5, 1 - float(sizes[targets[unit]]) / distance))
        if battle.kind[unit] in MELEE:
            if moment.share > 0.4:
                canvas.disk(edge, 4, colour, 0.9)
            continue
        head = _between(muzzle, edge, min(1.0, moment.share * 1.2 + 0.25))
        tail = _between(muzzle, edge, max(0.0, moment.share * 1.2 - 0.3))
        canvas.line([muzzle, edge], colour, 1, 0.22)
        canvas.line([tail, head], colour, 1.5, 0.75)
        canvas.line([_between(tail, head, 0.55), head], WHITE, 2, 0.95)
        if moment.share < 0.1:
            canvas.disk(muzzle, 3.5, colour, 0.9)
        if moment.share > 0.6:
            canvas.disk(edge, 4.5, WHITE, 0.7)


def _paint_scores(canvas: Canvas, battle: _Battle, moment: Moment) -> None:
    """Title, return, and the two teams' health as bars that meet in the middle."""
    recording, health = battle.recording, moment.of(battle.health)
    before = battle.health[min(max(0, int(moment.time) - 2), len(battle.health) - 1)]
    canvas.text((16, 20), _fitted(recording.title, 15, 218), 15)
    canvas.text((SIZE - 16, 20), f"{battle.returns[moment.then]:.2f}", 15, GOLD, "rm")
    canvas.text((SIZE - 56, 20), "return", 12, DIM, "rm")
    canvas.text((SIZE - 112, 20), f"step {moment.then} / {len(recording.reward)}", 12, DIM, "rm")
    standing = battle.death > moment.time
    for side, (team, edge, inner) in enumerate(((0, 44, 236), (1, SIZE - 44, SIZE - 236))):
        members = battle.team == team
        colour = TEAMS[team]
        outer = 16 if side == 0 else SIZE - 16
        canvas.text((outer, 47), str(int(standing[members].sum())), 18, colour, "lm" if side == 0 else "rm")
        total = max(1, int(members.sum()))
        for share, paint in (
            (1.0, LINE),
            (before[members].sum() / total, mix(colour, WHITE, 0.65)),
            (health[members].sum() / total, colour),
        ):
            end = inner + (edge - inner) * float(share)
            if abs(end - inner) >= 1:
                canvas.box((min(inner, end), 41, max(inner, end), 53), paint, radius=2)


def _verdict(battle: _Battle) -> tuple[str, Colour, str]:
    """The end card's word, its colour, and why."""
    allies, enemies = (int(battle.alive[-1][battle.team == team].sum()) for team in (0, 1))
    of_allies, of_enemies = (int((battle.team == team).sum()) for team in (0, 1))
    left = f"{allies} of {of_allies} allies left"
    if battle.recording.won:
        return "VICTORY", BLUE, left
    if allies and enemies:
        return "DRAW - time is up", GOLD, f"{allies} allies against {enemies} enemies"
    if enemies:
        return "DEFEAT", ORANGE, f"{enemies} of {of_enemies} enemies left"
    return "DRAW", GOLD, "nobody is left" if not allies else left


def paint_smax(recording: Recording) -> list[Frame]:
    """A battle: allies blue, enemies orange, health as the ring around each unit."""
    battle = _Battle(recording)
    frames, canvas = [], Canvas()
    for moment in _moments(len(recording.reward), round(SPLASH_STEPS * TWEEN)):
        canvas, camera = Canvas(), battle.camera(moment)
        places = [camera.spot(position) for position in battle.places(moment)]
        shot = _Shot(canvas, battle, moment, places, np.maximum(battle.radius * camera.scale * 1.05, 7.0))
        _paint_map(canvas, camera)
        _paint_deaths(shot)
        _paint_units(shot)
        _paint_badges(shot)
        _paint_shots(shot)
        _paint_legend(canvas, battle)
        canvas.box((0, 0, SIZE, HEADER), PANEL)
        _paint_scores(canvas, battle, moment)
        frames.append(Frame(canvas.finish(), moment.time))
    word, colour, why = _verdict(battle)
    return frames + _card(canvas, word, f"{why}  ·  return {battle.returns[-1]:.2f}", colour)


# --- MPE: particles ----------------------------------------------------------------------------------------------

COVERED = 0.15  # an agent this near to a landmark covers it
TRAIL_STEPS = 4.0
FARTHEST = 3.0  # what flies farther than this leaves the view


class _World:
    """What stays the same through a film of particles."""

    def __init__(self, recording: Recording):
        scene = recording.scene
        self.recording = recording
        self.position = np.asarray(scene["position"], np.float64)
        self.is_agent = np.asarray(scene["is_agent"], bool)[0]
        self.colour = [_bright(colour) for colour in np.asarray(scene["colour"], np.float64)[0]]
        self.colour[: len(recording.colours)] = recording.colours
        self.goal = np.asarray(scene["goal"], int)
        self.message = np.asarray(scene["message"], int)
        self.returns = _returns(recording)
        near = np.clip(self.position, -FARTHEST, FARTHEST)
        self.camera = Camera.over(near, (0, HEADER, SIZE, SIZE), margin=0.32, least=2.2)
        self.radius = np.asarray(scene["radius"], np.float64)[0] * self.camera.scale
        self.base = self._background()

    def _background(self) -> Image.Image:
        canvas, spot = Canvas(), self.camera.spot
        for k in np.arange(-5.0, 5.25, 0.25):
            x, y = spot(np.array([k, k]))
            strength = 0.8 if k % 1 == 0 else 0.3
            canvas.line([(x, HEADER), (x, SIZE)], LINE, 1, strength)
            canvas.line([(0, y), (SIZE, y)], LINE, 1, strength)
        return canvas.image

    def covered(self, positions: np.ndarray) -> np.ndarray:
        """For each entity, whether it is a landmark with an agent on it."""
        gaps = np.linalg.norm(positions[:, None] - positions[None, self.is_agent], axis=-1)
        return ~self.is_agent & (gaps < COVERED).any(1)


def _bright(colour: np.ndarray) -> Colour:
    """The colour, light enough for the dark background."""
    red, green, blue = (int(value) for value in np.clip(colour, 0, 255))
    lightness = 0.3 * red + 0.59 * green + 0.11 * blue
    return mix((red, green, blue), WHITE, max(0.0, (140 - lightness) / 255))


def _paint_landmarks(canvas: Canvas, world: _World, positions: np.ndarray) -> None:
    covered = world.covered(positions)
    for entity in np.flatnonzero(~world.is_agent).tolist():
        place, colour = world.camera.spot(positions[entity]), world.colour[entity]
        reach = COVERED * world.camera.scale
        if covered[entity]:
            canvas.disk(place, reach * 1.35, GOLD, 0.13)
            canvas.disk(place, reach, GOLD, 0.28)
            canvas.ring(place, reach, GOLD, 2.5)
        canvas.ring(place, reach, colour, 1.5, 0.0 if covered[entity] else 0.55)
        canvas.ring(place, reach * 0.55, colour, 2, 0.9)
        canvas.disk(place, max(4.0, reach * 0.18), colour)


def _paint_trails(canvas: Canvas, world: _World, moment: Moment) -> None:
    last = len(world.position) - 1
    for entity in np.flatnonzero(world.is_agent).tolist():
        times = np.linspace(max(0.0, moment.time - TRAIL_STEPS), moment.time, 25)
        low = np.minimum(times.astype(int), last)
        high, share = np.minimum(low + 1, last), (times - low)[:, None]
        way = world.position[low, entity] * (1 - share) + world.position[high, entity] * share
        spots = [world.camera.spot(point) for point in way]
        for k in range(24):
            width = 2 + (world.radius[entity] * 0.8) * k / 24
            canvas.disk(spots[k], width, world.colour[entity], 0.02 + 0.07 * k / 24)


def _paint_agents(canvas: Canvas, world: _World, moment: Moment, positions: np.ndarray) -> None:
    for number, entity in enumerate(np.flatnonzero(world.is_agent).tolist()):
        place, colour = world.camera.spot(positions[entity]), world.colour[entity]
        radius = max(8.0, float(world.radius[entity]))
        goal = int(world.goal[moment.now, entity])
        if goal >= 0:
            canvas.dashes(place, world.camera.spot(positions[goal]), world.colour[goal], 0.6)
        canvas.disk(place, radius, mix(colour, NIGHT, 0.35), 0.82)
        canvas.ring(place, radius, mix(colour, WHITE, 0.2), 2.5)
        canvas.text(place, str(number), max(10, round(radius * 0.7)), WHITE, "mm")


def _paint_messages(canvas: Canvas, world: _World, moment: Moment, positions: np.ndarray) -> None:
    """Speech bubbles with the letter of the symbol."""
    for entity in np.flatnonzero(world.is_agent).tolist():
        symbol = int(world.message[moment.then, entity])
        if symbol < 0:
            continue
        x, y = world.camera.spot(positions[entity])
        reach = max(8.0, float(world.radius[entity])) * 0.75
        x, y = min(x + reach, SIZE - 30), max(y - reach, HEADER + 34)
        canvas.draw.polygon([(v * SCALE, w * SCALE) for v, w in ((x, y), (x + 5, y - 12), (x + 13, y - 8))], fill=TEXT)
        canvas.box((x + 1, y - 31, x + 27, y - 7), TEXT, radius=8)
        canvas.text((x + 14, y - 19), chr(ord("A") + symbol % 26), 15, NIGHT, "mm")


def paint_mpe(recording: Recording) -> list[Frame]:
    """Particles: numbered agents with trails, landmarks as targets that light up when covered."""
    world = _World(recording)
    frames, canvas = [], Canvas(world.base)
    for moment in _moments(len(recording.reward)):
        canvas, positions = Canvas(world.base), moment.of(world.position)
        _paint_trails(canvas, world, moment)
        _paint_landmarks(canvas, world, positions)
        _paint_agents(canvas, world, moment, positions)
        _paint_messages(canvas, world, moment, positions)
        _header(canvas, recording, moment.then, float(world.returns[moment.then]))
        covered, landmarks = int(world.covered(positions).sum()), int((~world.is_agent).sum())
        canvas.text((16, 46), f"{covered} of {landmarks} landmarks covered", 12, GOLD if covered else DIM)
        frames.append(Frame(canvas.finish(), moment.time))
    covered, landmarks = int(world.covered(world.position[-1]).sum()), int((~world.is_agent).sum())
    return frames + _card(
        canvas, f"return {world.returns[-1]:.2f}", f"{covered} of {landmarks} landmarks covered", GOLD
    )


# --- predator-prey: a hunt on a grid ------------------------------------------------------------------------------

GRID_CELLS = 10
GRID_BOX = (34.0, HEADER + 2.0, SIZE - 34.0, SIZE - 0.0)


def _paint_hunt(canvas: Canvas, scene: dict[str, np.ndarray], step: int) -> None:
    """Agents as numbered squares, prey as disks; a ring around who tries to capture, a cross where somebody left."""
    num_agents = scene["is_capturing"].shape[1]
    before, now = scene["is_present"][max(0, step - 1)], scene["is_present"][step]
    for unit, (row, column) in enumerate(scene["position"][step].tolist()):
        left, top, right, bottom = _cell(GRID_BOX, (GRID_CELLS, GRID_CELLS), row, column)
        middle, radius = ((left + right) / 2, (top + bottom) / 2), (right - left) / 2
        colour = BLUE if unit < num_agents else ORANGE
        if not now[unit]:
            if before[unit]:
                canvas.cross(middle, radius * 0.5, colour, 3, 0.9)
            continue
        if unit >= num_agents:
            canvas.disk(middle, radius * 0.75, colour)
            continue
        canvas.box((left + 3, top + 3, right - 3, bottom - 3), mix(colour, NIGHT, 0.35), radius=7)
        canvas.text(middle, str(unit), 14, WHITE, "mm")
        if scene["is_capturing"][step, unit]:
            canvas.ring(middle, radius, GOLD, 2.5)


def paint_predator_prey(recording: Recording) -> list[Frame]:
    """A hunt, one frame a step."""
    scene = {name: np.asarray(value) for name, value in recording.scene.items()}
    returns, num_agents = _returns(recording), scene["is_capturing"].shape[1]
    captured = (~scene["is_present"][:, num_agents:]).sum(1)
    base, frames, canvas = Canvas(), [], Canvas()
    for row, column in np.ndindex(GRID_CELLS, GRID_CELLS):
        base.box(_cell(GRID_BOX, (GRID_CELLS, GRID_CELLS), row, column), PANEL, radius=4, alpha=0.6)
    for step, value in enumerate(returns.tolist()):
        canvas = Canvas(base.image)
        _paint_hunt(canvas, scene, step)
        _header(canvas, recording, step, value)
        canvas.text((16, 46), f"{captured[step]} prey captured", 12, GOLD if captured[step] else DIM)
        frames += [Frame(canvas.finish(), step)] * 2
    return frames + _card(canvas, f"return {returns[-1]:.2f}", f"{captured[-1]} prey captured", GOLD)


# --- games of a few decisions ------------------------------------------------------------------------------------


def _hold(canvas: Canvas, seconds: float, time: float) -> list[Frame]:
    """The same frame for a while; a GIF stores it once."""
    return [Frame(canvas.finish(), time)] * max(1, round(seconds / FRAME_SECONDS))


def _number(value: float) -> str:
    return f"{value:.4g}"


def _action_name(action: int) -> str:
    return chr(ord("A") + action) if action < 26 else str(action)


def _tint(value: float, low: float, high: float) -> Colour:
    """From orange over the dark middle to blue, by where the value lies."""
    share = 0.5 if high <= low else (value - low) / (high - low)
    return mix(PANEL, BLUE if share > 0.5 else ORANGE, 0.08 + 1.1 * abs(share - 0.5))


def _cell(box: tuple[float, float, float, float], shape: tuple[int, int], row: int, column: int) -> tuple:
    """The corners of one cell of a table that fills the box."""
    left, top, right, bottom = box
    width, height = (right - left) / shape[1], (bottom - top) / shape[0]
    gap = min(4.0, width * 0.06)
    x, y = left + column * width, top + row * height
    return (x + gap, y + gap, x + width - gap, y + height - gap)


def _paint_table(
    canvas: Canvas,
    payoff: np.ndarray,
    box: tuple[float, float, float, float],
    scale: tuple[float, float],
    *,
    chosen: Sequence[int] = (),
    alpha: float = 1.0,
) -> None:
    """A payoff table: rows are agent_0's actions; `chosen` holds the row, or the row and the column, played."""
    best, (rows, columns) = float(payoff.max()), payoff.shape
    size = int(min(28, (box[2] - box[0]) / columns * 0.3, (box[3] - box[1]) / rows * 0.4))
    for row in range(rows):
        for column in range(columns):
            value = float(payoff[row, column])
            on_the_way = not chosen or (row == chosen[0] and (len(chosen) < 2 or column == chosen[1]))
            shown = alpha if on_the_way else alpha * 0.35
            corners = _cell(box, (rows, columns), row, column)
            radius = min(8.0, (corners[2] - corners[0]) / 6)
            canvas.box(corners, _tint(value, *scale), radius=radius, alpha=shown)
            middle = ((corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2)
            if size >= 7:
                canvas.text(middle, _number(value), size, WHITE, "mm", shown)
            if value == best and scale[1] > scale[0] and best == scale[1]:
                canvas.text((corners[2] - 5, corners[1] + 9), "best", 10, GOLD, "rm", alpha if size >= 18 else 0.0)
                canvas.box(corners, outline=GOLD, width=1.5, radius=radius, alpha=alpha * 0.8)
            if len(chosen) == 2 and on_the_way:
                grown = (corners[0] - 3, corners[1] - 3, corners[2] + 3, corners[3] + 3)
                canvas.box(grown, outline=WHITE, width=3, radius=radius + 2)


def _paint_labels(
    canvas: Canvas, box: tuple[float, float, float, float], shape: tuple[int, int], chosen: Sequence[int], size: int
) -> None:
    """The names of the actions around a table."""
    for row in range(shape[0]):
        corners, played = _cell(box, shape, row, 0), len(chosen) > 0 and chosen[0] == row
        place = (box[0] - size, (corners[1] + corners[3]) / 2)
        canvas.text(place, _action_name(row), size, WHITE if played else DIM, "mm")
    for column in range(shape[1]):
        corners, played = _cell(box, shape, 0, column), len(chosen) > 1 and chosen[1] == column
        place = ((corners[0] + corners[2]) / 2, box[1] - size)
        canvas.text(place, _action_name(column), size, WHITE if played else DIM, "mm")


def _judgement(value: float, best: float) -> tuple[str, Colour]:
    """How the payoff compares with the best there is."""
    return ("the best there is", GOLD) if value >= best - 1e-6 else (f"the best is {_number(best)}", ORANGE)


def _matrix_page(recording: Recording, payoff: np.ndarray, chosen: Sequence[int], moment: int) -> Canvas:
    """One picture of a matrix game, with some of the choices made."""
    canvas = Canvas()
    _header(canvas, recording, moment, float(_returns(recording)[moment]))
    scale = (float(payoff.min()), float(payoff.max()))
    if payoff.ndim == 2:
        box = (84.0, HEADER + 66.0, SIZE - 34.0, SIZE - 108.0)
        canvas.text(((box[0] + box[2]) / 2, HEADER + 18), "agent_1 plays", 14, TEXT if len(chosen) == 1 else DIM, "mm")
        canvas.text((16, box[1] - 16), "agent_0", 14, TEXT if not len(chosen) else DIM, "lm")
        _paint_table(canvas, payoff, box, scale, chosen=tuple(chosen))
        _paint_labels(canvas, box, (payoff.shape[0], payoff.shape[1]), chosen, 16)
        return canvas
    canvas.text((SIZE / 2, HEADER + 50), f"{payoff.ndim} agents choose at once", 18, TEXT, "mm")
    for agent in range(payoff.ndim):
        x, y = SIZE / 2 + (agent % 8 - (min(payoff.ndim, 8) - 1) / 2) * 54, HEADER + 120 + 60 * (agent // 8)
        made = agent < len(chosen)
        canvas.disk((x, y), 22, mix(BLUE, NIGHT, 0.3) if made else PANEL)
        canvas.text((x, y), _action_name(chosen[agent]) if made else "?", 20, WHITE if made else DIM, "mm")
    if len(chosen) == payoff.ndim:
        value = float(payoff[tuple(chosen)])
        canvas.text((SIZE / 2, SIZE - 190), _number(value), 56, GOLD if value == scale[1] else TEXT, "mm")
    canvas.text((SIZE / 2, SIZE - 140), f"payoffs from {_number(scale[0])} to {_number(scale[1])}", 14, DIM, "mm")
    return canvas


def paint_matrix(recording: Recording) -> list[Frame]:
    """A game of one joint choice: the table, then each agent's choice, then what it paid."""
    payoffs, actions = np.asarray(recording.scene["payoff"], np.float64), np.asarray(recording.scene["action"], int)
    page = _matrix_page(recording, payoffs[0], (), 0)
    frames = _hold(page, 1.0, 0)
    for t in range(1, len(actions)):
        payoff, action = payoffs[t], actions[t].tolist()
        for made in range(1, payoff.ndim + 1):
            step = t if made == payoff.ndim else t - 1
            page = _matrix_page(recording, payoff, action[:made], step)
            frames += _hold(page, 1.4 if made == payoff.ndim else 0.7, step)
    if len(actions) > 1:
        value = float(payoffs[-1][tuple(actions[-1].tolist())])
        below, colour = _judgement(value, float(payoffs[-1].max()))
        frames += _card(page, f"payoff {_number(value)}", below, colour, SIZE - CARD_HALF - 4)
    return frames


class _Choices(NamedTuple):
    """How far a two-step game has come."""

    side: int | None
    """0: agent_0 chose A, 1: B."""
    action: tuple[int, ...]
    """What was played in the table."""


def _tree_page(recording: Recording, tables: Sequence[np.ndarray], choices: _Choices, moment: int) -> Canvas:
    """One picture of the two-step game."""
    canvas = Canvas()
    _header(canvas, recording, moment, float(_returns(recording)[moment]))
    both = np.stack(tables)
    scale = (float(both.min()), float(both.max()))
    root = (SIZE / 2, HEADER + 32)
    for side, table in enumerate(tables):
        left = 42 + side * 226
        box = (float(left), 240.0, float(left + 186), 376.0)
        joint = ((box[0] + box[2]) / 2, 172.0)
        taken, shown = choices.side == side, 1.0 if choices.side in (None, side) else 0.28
        canvas.line([root, joint], GOLD if taken else DIM, 4 if taken else 1.5, shown)
        sign = _between(root, joint, 0.58)
        canvas.disk(sign, 13, GOLD if taken else LINE)
        canvas.text(sign, "AB"[side], 15, NIGHT if taken else TEXT, "mm")
        canvas.box((joint[0] - 48, 158, joint[0] + 48, 186), PANEL, outline=GOLD if taken else LINE, width=2, radius=8)
        canvas.text(joint, f"state 2{'AB'[side]}", 14, TEXT, "mm", max(shown, 0.5))
        canvas.text((joint[0], 205), "agent_1 plays", 11, DIM, "mm", shown)
        chosen = choices.action if taken else ()
        _paint_table(canvas, table, box, scale, chosen=chosen, alpha=shown)
        _paint_labels(canvas, box, (table.shape[0], table.shape[1]), chosen, 14)
    canvas.box((root[0] - 92, root[1] - 18, root[0] + 92, root[1] + 18), PANEL, outline=BLUE, width=2, radius=10)
    canvas.text(root, "agent_0 chooses a side", 14, TEXT, "mm")
    return canvas


def paint_two_step(recording: Recording) -> list[Frame]:
    """The QMIX paper's game: agent_0 picks a table, then both play it."""
    scene = recording.scene
    stages, actions = np.asarray(scene["stage"], int), np.asarray(scene["action"], int)
    tables = [np.asarray(scene[name], np.float64)[0] for name in ("payoff_a", "payoff_b")]
    choices = _Choices(None, ())
    page, frames = _tree_page(recording, tables, choices, 0), []
    frames += _hold(page, 1.2, 0)
    for t in range(1, len(stages)):
        if stages[t] in (1, 2):
            choices = _Choices(int(stages[t]) - 1, ())
        else:
            choices = choices._replace(action=tuple(actions[t].tolist()))
        page = _tree_page(recording, tables, choices, t)
        frames += _hold(page, 1.4, t)
    total = float(_returns(recording)[-1])
    below, colour = _judgement(total, max(float(table.max()) for table in tables))
    return frames + _card(page, f"return {_number(total)}", below, colour, SIZE - CARD_HALF - 4)


# --- anything else -----------------------------------------------------------------------------------------------


def paint_text(recording: Recording) -> list[Frame]:
    """Steps, rewards and returns in words: the film of an environment without a painter."""
    returns, frames, canvas = _returns(recording), [], Canvas()
    for now in range(len(returns)):
        canvas = Canvas()
        _header(canvas, recording, now, float(returns[now]))
        for place, words in ((110, "step"), (250, "reward"), (400, "return")):
            canvas.text((place, HEADER + 26), words, 14, DIM, "rm")
        first = max(0, now - 16)
        for row, t in enumerate(range(first, now)):
            y, ink = HEADER + 50 + 22 * row, TEXT if t == now - 1 else DIM
            canvas.text((110, y), str(t + 1), 14, ink, "rm")
            canvas.text((250, y), f"{float(recording.reward[t]):.3f}", 14, ink, "rm")
            canvas.text((400, y), f"{returns[t + 1]:.3f}", 14, ink, "rm")
        frames += [Frame(canvas.finish(), now)] * TWEEN
    below = {True: "won", False: "not won", None: f"{len(recording.reward)} steps"}[recording.won]
    return frames + _card(canvas, f"return {returns[-1]:.2f}", below, GOLD)


PAINTERS: dict[str, Callable[[Recording], list[Frame]]] = {
    "smax": paint_smax,
    "mpe": paint_mpe,
    "matrix": paint_matrix,
    "climbing": paint_matrix,
    "penalty": paint_matrix,
    "qplex_game": paint_matrix,
    "predator_prey": paint_predator_prey,
    "two_step": paint_two_step,
}
"""The painters by the environment's name; any other name gets `paint_text`."""


def paint(kind: str, recording: Recording) -> list[Frame]:
    """The frames of a film. One still may stand in the list many times."""
    return PAINTERS.get(kind, paint_text)(recording)


# --- the file ----------------------------------------------------------------------------------------------------

PALETTE_SIZE = 255  # the free one of 256 is for pixels that do not change
_LEVELS = 64  # of each colour channel, when colours are counted


def _codes(frame: Image.Image) -> np.ndarray:
    """Each pixel's colour as one number, with _LEVELS levels a channel."""
    red, green, blue = np.moveaxis(np.asarray(frame.convert("RGB")) >> 2, -1, 0).astype(np.int32)
    return (red * _LEVELS + green) * _LEVELS + blue


def _spread(codes: np.ndarray) -> np.ndarray:
    """(n, 3) the colours of some codes, 0 to 255."""
    channels = np.stack([codes // _LEVELS**2, codes // _LEVELS % _LEVELS, codes % _LEVELS], axis=-1)
    return (channels * 255 // (_LEVELS - 1)).astype(np.int32)


def _palette(counts: np.ndarray, size: int) -> np.ndarray:
    """(size, 3) colours for all frames: the commonest as they are, and the others so that rare bright ones count."""
    used = np.flatnonzero(counts)
    order = used[np.argsort(-counts[used], kind="stable")]
    exact = np.concatenate([np.array(MAIN_COLOURS), _spread(order[: size // 4])])
    rest = order[size // 4 :]
    if len(rest) == 0:
        return exact
    repeats = np.maximum(1, np.sqrt(counts[rest]) / 8).astype(int)
    sample = np.repeat(_spread(rest), repeats, axis=0).astype(np.uint8)
    image = Image.fromarray(sample[None]).quantize(size - len(exact), Image.Quantize.MEDIANCUT)
    found = np.asarray(image.getpalette(), np.int32).reshape(-1, 3)
    return np.concatenate([exact, found])[:size]


def _shared_palette(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """The frames in one palette."""
    codes = {id(frame): _codes(frame) for frame in frames}
    counts = sum(
        (np.bincount(code.ravel(), minlength=_LEVELS**3) for code in codes.values()), np.zeros(_LEVELS**3, int)
    )
    palette = _palette(counts, PALETTE_SIZE)
    used = np.flatnonzero(counts)
    gaps = ((_spread(used)[:, None] - palette[None]) ** 2).sum(-1)
    nearest = np.zeros(_LEVELS**3, np.uint8)
    nearest[used] = gaps.argmin(1)
    flat = palette.astype(np.uint8).tobytes()
    made = {}
    for key, code in codes.items():
        made[key] = Image.fromarray(nearest[code])
        made[key].putpalette(flat)
    return [made[id(frame)] for frame in frames]


def save_gif(frames: Sequence[Image.Image], path: str | os.PathLike, *, seconds_per_frame: float) -> None:
    """Write an endless GIF; the file is never seen half-written."""
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    first, *others = _shared_palette(frames)
    duration = max(20, round(seconds_per_frame * 100) * 10)  # a GIF counts hundredths, and viewers distrust less
    try:
        first.save(
            scratch,
            format="GIF",
            save_all=True,
            append_images=others,
            duration=duration,
            loop=0,
            optimize=True,
            disposal=1,
        )
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def film(kind: str, recording: Recording, path: str | os.PathLike) -> None:
    """Paint the recording and write it to `path`."""
    save_gif([frame.image for frame in paint(kind, recording)], path, seconds_per_frame=FRAME_SECONDS)

"""Films of SMAX battles. Host only."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from qmix_jax.film.canvas import (
    BLUE,
    DIM,
    GOLD,
    LINE,
    NIGHT,
    ORANGE,
    PANEL,
    SCALE,
    SHADE,
    SIZE,
    TEXT,
    WHITE,
    Camera,
    Canvas,
    Colour,
    Point,
    between,
    ease,
    fitted,
    font_of,
    mix,
    text_width,
)
from qmix_jax.film.recording import FRAMES_PER_STEP, HEADER, SCENE, Frame, Recording, Tween, end_card, tweens

MAP_SIZE = 32.0
LETTERS = ("m", "M", "s", "Z", "z", "h")
UNIT_NAMES = ("marine", "marauder", "stalker", "zealot", "zergling", "hydralisk")
MELEE = (3, 4)
TEAMS = (BLUE, ORANGE)
WALL: Colour = (92, 104, 130)
CAMERA_REACH = 4  # steps that the camera looks back and ahead
SPLASH_STEPS = 2.0  # how long a death is seen


class BattleFilm:
    """What stays the same through a film."""

    def __init__(self, recording: Recording):
        scene = recording.scene
        self.recording = recording
        self.position = np.asarray(scene["position"], np.float64)
        self.alive = np.asarray(scene["alive"], bool)
        self.health = np.clip(np.where(self.alive, scene["health"], 0.0), 0.0, 1.0)
        self.team = np.asarray(scene["team"], int)[0]
        self.unit_type = np.asarray(scene["unit_type"], int)[0]
        self.colour = [TEAMS[team] for team in self.team]  # allies, then enemies
        self.colour[: len(recording.colours)] = recording.colours
        self.target = np.asarray(scene["target"], int)
        first_dead = np.where(self.alive[-1], np.inf, np.argmin(self.alive, axis=0))
        self.death = np.where(self.alive.any(0), first_dead, -np.inf)
        """(U,) the step at which each unit died: infinity for survivors, and minus infinity for those never alive."""
        self.radius = np.asarray(scene["radius"], np.float64)[0]
        self.low, self.high = self._view()

    def _view(self) -> tuple[np.ndarray, np.ndarray]:
        """(L+1, 2) the corners of what the camera shows at each step: a smooth box around all living units.

        The mean over a window of the extremes over the same window never leaves a unit outside.
        """
        shown = self.alive | ~self.alive.any(1, keepdims=True)
        boxes = []
        for extreme, fill in ((np.minimum, np.inf), (np.maximum, -np.inf)):
            edge = extreme.reduce(np.where(shown[..., None], self.position, fill), axis=1)
            edge = extreme.reduce(_windows(edge), axis=1)
            boxes.append(_windows(edge).mean(1))
        return boxes[0], boxes[1]

    def camera(self, tween: Tween) -> Camera:
        """The view at a time."""
        corners = np.stack([tween.of(self.low), tween.of(self.high)])
        least = min(22.0, 12.0 + 0.2 * len(self.team))  # crowds from farther away, for smaller files
        return Camera.over(corners, SCENE, margin=1.9, least=least)

    def places(self, tween: Tween) -> np.ndarray:
        """(U, 2) where each unit is; melee units lunge at their target."""
        positions = tween.of(self.position)
        if tween.after > tween.before:
            for unit in np.flatnonzero(np.isin(self.unit_type, MELEE) & (self.target[tween.after] >= 0)):
                towards = positions[self.target[tween.after, unit]] - positions[unit]
                length = max(float(np.linalg.norm(towards)), 1e-6)
                positions[unit] += towards / length * 0.28 * math.sin(math.pi * tween.share)
        return positions

    def living(self, team: int, time: float) -> int:
        """How many units of a team are alive at a time."""
        return int((self.death[self.team == team] > time).sum())


def _windows(values: np.ndarray) -> np.ndarray:
    """(T, 2 CAMERA_REACH + 1, ...) for each time the values around it; the ends repeat."""
    times = np.arange(len(values))[:, None] + np.arange(-CAMERA_REACH, CAMERA_REACH + 1)
    return values[np.clip(times, 0, len(values) - 1)]


class _Picture(NamedTuple):
    """One frame in the making."""

    canvas: Canvas
    film: BattleFilm
    tween: Tween
    places: list[Point]
    radius: np.ndarray


def paint_smax(recording: Recording) -> list[Frame]:
    """Allies blue, enemies orange (or agents in colours of their own), health as a ring around each unit."""
    film = BattleFilm(recording)
    frames, canvas = [], Canvas()
    for tween in tweens(len(recording.reward), round(SPLASH_STEPS * FRAMES_PER_STEP)):
        canvas, camera = Canvas(), film.camera(tween)
        places = [camera.point(position) for position in film.places(tween)]
        picture = _Picture(canvas, film, tween, places, np.maximum(film.radius * camera.scale * 1.05, 7.0))
        _paint_map(canvas, camera)
        _paint_deaths(picture)
        _paint_units(picture)
        _paint_badges(picture)
        _paint_attacks(picture)
        _paint_legend(canvas, film)
        _paint_header(canvas, film, tween)
        frames.append(Frame(canvas.finish(), tween.time))
    word, colour, why = _ending(film)
    return frames + end_card(canvas, word, f"{why}  ·  return {recording.returns[-1]:.2f}", colour)


def _paint_map(canvas: Canvas, camera: Camera) -> None:
    """A faint grid within walls, darkness outside."""
    left, top = camera.point(np.array([0.0, MAP_SIZE]))
    right, bottom = camera.point(np.array([MAP_SIZE, 0.0]))
    if left > 0 or right < SIZE or top > HEADER or bottom < SIZE:
        canvas.box(SCENE, SHADE)
        canvas.box((left, top, right, bottom), NIGHT)
        canvas.box((left - 4, top - 4, right + 4, bottom + 4), outline=WALL, width=4, radius=3)
    for k in np.arange(2.0, MAP_SIZE, 2.0):
        x, y = camera.point(np.array([k, k]))
        strength = 0.9 if k % 8 == 0 else 0.45
        canvas.line([(x, top), (x, bottom)], LINE, 1, strength)
        canvas.line([(left, y), (right, y)], LINE, 1, strength)


def _paint_deaths(picture: _Picture) -> None:
    """A splash that widens and fades, and a faint cross that stays."""
    canvas, film, tween, places, sizes = picture
    for unit in np.flatnonzero((film.death <= tween.time) & (film.death >= 0)).tolist():
        age = (tween.time - film.death[unit]) / SPLASH_STEPS
        colour, radius = film.colour[unit], float(sizes[unit])
        fade = max(0.0, 1.0 - age)
        canvas.cross(places[unit], radius * 0.55, mix(colour, WHITE, 0.3 * fade), 2, 0.28 + 0.6 * fade)
        if fade:
            canvas.disk(places[unit], radius * (1 + 0.4 * age), mix(colour, WHITE, 0.5), 0.5 * fade**2)
            canvas.ring(places[unit], radius * (1 + 1.6 * ease(age)), colour, 1 + 2 * fade, fade)


def _paint_units(picture: _Picture) -> None:
    """Disks with the type's letter, from back to front; a unit flashes when it is hit."""
    canvas, film, tween, places, sizes = picture
    targets = film.target[tween.after]
    lands = tween.after > tween.before and tween.share > 0.4
    hit = set(targets[targets >= 0].tolist()) if lands else set()
    health = tween.of(film.health)
    for unit in sorted(np.flatnonzero(film.death > tween.time).tolist(), key=lambda u: places[u][1]):
        radius, colour = round(float(sizes[unit]) * 2) / 2, film.colour[unit]
        letter = LETTERS[film.unit_type[unit] % len(LETTERS)]
        token = _token(radius, colour, letter, 0.28 if unit in hit else 0.0)
        x, y = (round(value * SCALE) - token.width // 2 for value in places[unit])
        canvas.image.paste(token, (x, y), token)
        canvas.arc(places[unit], radius + 1.5, 1.0, mix(colour, SHADE, 0.78), 3)
        canvas.arc(places[unit], radius + 1.5, float(health[unit]), mix(colour, WHITE, 0.25), 3)


@lru_cache(maxsize=1024)
def _token(radius: float, colour: Colour, letter: str, flash: float) -> Image.Image:
    """A unit's disk with its letter, in the size of the canvas."""
    half = math.ceil(radius * SCALE) + 4
    image = Image.new("RGBA", (2 * half, 2 * half), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    body = mix(mix(colour, NIGHT, 0.42), WHITE, flash)
    for reach, fill in ((radius * SCALE, SHADE), (radius * SCALE - SCALE, body)):
        draw.ellipse((half - reach, half - reach, half + reach, half + reach), fill=(*fill, 255))
    ink = SHADE if flash > 0.5 else WHITE
    draw.text((half, half), letter, fill=ink, font=font_of(max(8, round(radius * 1.15))), anchor="mm")
    return image


def _paint_badges(picture: _Picture) -> None:
    """The numbers, from 0, of agents that have colours of their own."""
    canvas, film, tween, places, sizes = picture
    for agent, colour in enumerate(film.recording.colours):
        if film.death[agent] > tween.time:
            (x, y), away = places[agent], float(sizes[agent]) + 3
            canvas.disk((x - away, y - away), 8, SHADE, 0.8)
            canvas.text((x - away, y - away), str(agent), 11, mix(colour, WHITE, 0.3), "mm")


def _paint_attacks(picture: _Picture) -> None:
    """Shots as tracers, and a spark where a melee attack lands."""
    canvas, film, tween, places, sizes = picture
    if tween.after == tween.before:
        return
    targets = film.target[tween.after]
    for unit in np.flatnonzero((targets >= 0) & film.alive[tween.before]).tolist():
        start, end = places[unit], places[targets[unit]]
        colour = mix(film.colour[unit], WHITE, 0.45)
        distance = max(math.dist(start, end), 1e-6)
        muzzle = between(start, end, min(0.5, float(sizes[unit]) / distance))
        edge = between(start, end, max(0.5, 1 - float(sizes[targets[unit]]) / distance))
        if film.unit_type[unit] not in MELEE:
            _paint_tracer(canvas, muzzle, edge, tween.share, colour)
        elif tween.share > 0.4:
            canvas.disk(edge, 4, colour, 0.9)


def _paint_tracer(canvas: Canvas, muzzle: Point, edge: Point, share: float, colour: Colour) -> None:
    """A shot on its way from the muzzle to the edge of its target."""
    head = between(muzzle, edge, min(1.0, share * 1.2 + 0.25))
    tail = between(muzzle, edge, max(0.0, share * 1.2 - 0.3))
    canvas.line([muzzle, edge], colour, 1, 0.22)
    canvas.line([tail, head], colour, 1.5, 0.75)
    canvas.line([between(tail, head, 0.55), head], WHITE, 2, 0.95)
    if share < 0.1:
        canvas.disk(muzzle, 3.5, colour, 0.9)
    if share > 0.6:
        canvas.disk(edge, 4.5, WHITE, 0.7)


def _paint_legend(canvas: Canvas, film: BattleFilm) -> None:
    """The letters of the unit types, and the colours of the teams."""
    x = 12.0
    for unit_type in sorted(set(film.unit_type.tolist())):
        canvas.text((x, SIZE - 13), LETTERS[unit_type], 12, TEXT)
        canvas.text((x + 15, SIZE - 13), UNIT_NAMES[unit_type], 11, DIM)
        x += 15 + text_width(UNIT_NAMES[unit_type], 11) + 14
    y = SIZE - 13 if x < SIZE - 104 else SIZE - 30
    allies = DIM if film.recording.colours else BLUE
    for right, words, colour in ((SIZE - 68, "allies", allies), (SIZE - 12, "enemies", ORANGE)):
        canvas.text((right, y), words, 11, colour, "rm")


def _paint_header(canvas: Canvas, film: BattleFilm, tween: Tween) -> None:
    """Title, return, and for each team the number of living units and its health as a bar."""
    recording, steps = film.recording, len(film.recording.reward)
    canvas.box((0, 0, SIZE, HEADER), PANEL)
    canvas.text((16, 20), fitted(recording.title, 15, 218), 15)
    canvas.text((SIZE - 16, 20), f"{recording.returns[tween.after]:.2f}", 15, GOLD, "rm")
    canvas.text((SIZE - 56, 20), "return", 12, DIM, "rm")
    canvas.text((SIZE - 112, 20), f"step {tween.after} / {steps}", 12, DIM, "rm")
    before = film.health[min(max(0, int(tween.time) - 2), steps)]
    now = tween.of(film.health)
    for team, (outer, edge, inner, anchor) in enumerate(
        ((16, 44, 236, "lm"), (SIZE - 16, SIZE - 44, SIZE - 236, "rm"))
    ):
        members, colour = film.team == team, TEAMS[team]
        canvas.text((outer, 47), str(film.living(team, tween.time)), 18, colour, anchor)
        total = max(1, int(members.sum()))
        shares = (1.0, before[members].sum() / total, now[members].sum() / total)
        for share, fill in zip(shares, (LINE, mix(colour, WHITE, 0.65), colour), strict=True):
            end = inner + (edge - inner) * float(share)
            if abs(end - inner) >= 1:
                canvas.box((min(inner, end), 41, max(inner, end), 53), fill, radius=2)


def _ending(film: BattleFilm) -> tuple[str, Colour, str]:
    """The end card's word, its colour, and the reason."""
    allies, enemies = (int(film.alive[-1][film.team == team].sum()) for team in (0, 1))
    of_allies, of_enemies = (int((film.team == team).sum()) for team in (0, 1))
    left = f"{allies} of {of_allies} allies left"
    if film.recording.won:
        return "VICTORY", BLUE, left
    if allies and enemies:
        return "DRAW - time is up", GOLD, f"{allies} allies against {enemies} enemies"
    if enemies:
        return "DEFEAT", ORANGE, f"{enemies} of {of_enemies} enemies left"
    return "DRAW", GOLD, "nobody is left" if not allies else left

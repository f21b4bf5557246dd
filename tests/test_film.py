"""Films, from made-up episodes; no JAX."""

import numpy as np
import pytest
from PIL import Image

from qmix_jax.film import film

STEPS = 4


def still(value, steps=STEPS):
    """The same array at every moment."""
    value = np.asarray(value)
    return np.broadcast_to(value, (steps + 1, *value.shape)).copy()


def smax_scene(killed=False):
    scene = {
        "position": still([[10.0, 16], [10, 18], [20, 16], [20, 18]]),
        "health": still([1.0, 0.5, 1, 0.2]),
        "alive": still([True] * 4),
        "team": still([0, 0, 1, 1]),
        "unit_type": still([2, 3, 0, 5]),
        "radius": still([0.6, 0.5, 0.4, 0.6]),
        "target": still([2, 2, -1, 0]),
    }
    scene["target"][0] = -1
    if killed:
        scene["alive"][2:, 3] = False
        scene["health"][2:, 3] = 0.0
    return scene


def mpe_scene():
    return {
        "position": still([[0.0, 0], [0.5, -0.5], [0.05, 0], [-0.8, 0.9]]) + np.arange(STEPS + 1)[:, None, None] * 0.01,
        "radius": still([0.15, 0.15, 0.05, 0.05]),
        "is_agent": still([True, True, False, False]),
        "colour": still([[115, 243, 115], [115, 243, 115], [64, 64, 64], [64, 64, 64]]),
        "goal": still([2, 3, -1, -1]),
        "message": still([-1, 30, -1, -1]),
    }


def matrix_scene(agents=2):
    payoff = np.arange(3.0**agents).reshape((3,) * agents)
    return {"payoff": still(payoff, 1), "action": np.array([[-1] * agents, [1] * agents])}


def two_step_scene():
    return {
        "stage": np.array([0, 2, 3]),
        "payoff_a": still(np.full((2, 2), 7.0), 2),
        "payoff_b": still([[0.0, 1], [1, 8]], 2),
        "action": np.array([[-1, -1], [1, 0], [1, 1]]),
    }


def hunt_scene():
    scene = {
        "position": still([[0, 0], [0, 2], [9, 9], [0, 1], [5, 5]]),
        "is_present": still([True] * 5),
        "is_capturing": still([False] * 3),
    }
    scene["is_capturing"][2] = [True, True, False]
    scene["is_present"][2:, [0, 1, 3]] = False
    return scene


def recording(scene, steps=STEPS, won=None):
    return film.Recording(
        scene, np.linspace(-1, 1, steps), won, "a title that is far too long for the header of a film"
    )


def images(kind, recording):
    return [frame.image for frame in film.paint(kind, recording)]


MOVING = film.TWEEN * STEPS + 1 + film.CARD_FRAMES
DEATHS = round(film.SPLASH_STEPS * film.TWEEN)


@pytest.mark.parametrize(
    ("kind", "scene", "steps", "won", "count"),
    [
        ("smax", smax_scene(), STEPS, False, MOVING + DEATHS),
        ("smax", smax_scene(killed=True), STEPS, True, MOVING + DEATHS),
        ("mpe", mpe_scene(), STEPS, None, MOVING),
        ("predator_prey", hunt_scene(), STEPS, None, 2 * (STEPS + 1) + film.CARD_FRAMES),
        ("matrix", matrix_scene(), 1, None, None),
        ("matrix", matrix_scene(agents=3), 1, None, None),
        ("two_step", two_step_scene(), 2, None, None),
        ("something new", {}, STEPS, True, film.TWEEN * (STEPS + 1) + film.CARD_FRAMES),
    ],
)
def test_every_painter_makes_its_frames(kind, scene, steps, won, count):
    frames = images(kind, recording(scene, steps, won))
    assert {frame.size for frame in frames} == {(film.SIZE, film.SIZE)}
    assert len({frame.tobytes() for frame in frames}) > 3
    if count is not None:
        assert len(frames) == count


@pytest.mark.parametrize(
    ("kind", "scene", "steps"),
    [("smax", smax_scene(), STEPS), ("mpe", mpe_scene(), STEPS), ("matrix", matrix_scene(), 1),
     ("two_step", two_step_scene(), 2), ("something new", {}, STEPS)],
)  # fmt: skip
def test_every_frame_says_which_time_it_shows(kind, scene, steps):
    times = [frame.time for frame in film.paint(kind, recording(scene, steps))]
    assert times == sorted(times) and times[0] == 0 and times[-1] > steps
    assert set(range(steps + 1)) <= set(times)


def test_a_dead_unit_is_not_painted_alive():
    alive = images("smax", recording(smax_scene(), won=False))
    dead = images("smax", recording(smax_scene(killed=True), won=False))
    before, after = film.TWEEN, film.TWEEN * 3
    scene = (0, film.HEADER, film.SIZE, film.SIZE)

    def orange(frame):
        pixels = np.asarray(frame.crop(scene)).astype(int)
        return int((pixels[..., 0] - pixels[..., 2] > 90).sum())

    assert orange(dead[0]) == orange(alive[0])
    assert np.array_equal(np.asarray(dead[before - 2].crop(scene)), np.asarray(alive[before - 2].crop(scene)))
    assert orange(dead[after]) < 0.8 * orange(alive[after])


def test_the_camera_never_loses_a_living_unit():
    generator, steps = np.random.default_rng(0), 30
    scene = {key: np.repeat(value[:1], steps + 1, axis=0) for key, value in smax_scene().items()}
    scene["position"] = 16 + np.cumsum(generator.normal(size=(steps + 1, 4, 2)), axis=0)
    battle = film._Battle(recording(scene, steps))
    for moment in film._moments(steps):
        camera, positions = battle.camera(moment), moment.of(scene["position"])
        spots = np.array([camera.spot(position) for position in positions])
        assert spots[:, 0].min() > 0 and spots[:, 0].max() < film.SIZE
        assert spots[:, 1].min() > film.HEADER and spots[:, 1].max() < film.SIZE


def test_the_gif_is_readable_and_moves(tmp_path):
    path = tmp_path / "film.gif"
    film.film("mpe", recording(mpe_scene()), path)
    assert [item.name for item in tmp_path.iterdir()] == ["film.gif"]
    frames = images("mpe", recording(mpe_scene()))
    with Image.open(path) as gif:
        assert gif.is_animated and gif.n_frames > STEPS
        assert gif.size == (film.SIZE, film.SIZE) and gif.info["loop"] == 0
        milliseconds = 0
        for k in range(gif.n_frames):
            gif.seek(k)
            milliseconds += gif.info["duration"]
            shown = np.asarray(gif.convert("RGB")).astype(int)
        assert np.abs(shown - np.asarray(frames[-1])).mean() < 3
    assert milliseconds == len(frames) * 70

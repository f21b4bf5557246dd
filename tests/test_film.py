"""Films and curves, from made-up episodes."""

import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import merge, tiny
from pictures import milliseconds_and_end, near
from PIL import Image

from qmix_jax.build import from_mapping, make_env, make_team
from qmix_jax.envs import ENVIRONMENTS
from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.matrix_painter import paint_matrix
from qmix_jax.envs.mpe.painter import paint_mpe
from qmix_jax.envs.predator_prey_painter import CELLS, GRID_BOX, paint_predator_prey
from qmix_jax.envs.probe import Probe, ProbeConfig
from qmix_jax.envs.scene import scene_of
from qmix_jax.envs.smax.painter import SPLASH_STEPS, BattleFilm, paint_smax
from qmix_jax.envs.two_step_painter import paint_two_step
from qmix_jax.film.arrays import frames_per_step, paint_arrays
from qmix_jax.film.canvas import BLUE, GOLD, ORANGE, SIZE, TEXT, WHITE, grid_cell
from qmix_jax.film.credit import agent_colours
from qmix_jax.film.gif import save_gif
from qmix_jax.film.painter import painter_of
from qmix_jax.film.recording import CARD_FRAMES, FRAMES_PER_STEP, HEADER, SCENE, Recording, tweens
from qmix_jax.run import pictures as run_pictures
from qmix_jax.run.program import Program

STEPS = 4


def still(value, steps=STEPS):
    """The same array at every step."""
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
    return Recording(scene, np.linspace(-1, 1, steps), won, "a title that is far too long for the header of a film")


def images(painter, recording):
    return [frame.image for frame in painter(recording)]


MOVING = FRAMES_PER_STEP * STEPS + 1 + CARD_FRAMES
DEATHS = round(SPLASH_STEPS * FRAMES_PER_STEP)


@pytest.mark.parametrize(
    ("painter", "scene", "steps", "won", "count"),
    [
        (paint_smax, smax_scene(), STEPS, False, MOVING + DEATHS),
        (paint_smax, smax_scene(killed=True), STEPS, True, MOVING + DEATHS),
        (paint_mpe, mpe_scene(), STEPS, None, MOVING),
        (paint_predator_prey, hunt_scene(), STEPS, None, 2 * (STEPS + 1) + CARD_FRAMES),
        (paint_matrix, matrix_scene(), 1, None, None),
        (paint_matrix, matrix_scene(agents=3), 1, None, None),
        (paint_two_step, two_step_scene(), 2, None, None),
        (paint_arrays, {}, STEPS, True, frames_per_step(STEPS) * (STEPS + 1) + CARD_FRAMES),
    ],
)
def test_every_painter_makes_its_frames(painter, scene, steps, won, count):
    frames = images(painter, recording(scene, steps, won))
    assert {frame.size for frame in frames} == {(SIZE, SIZE)}
    assert len({frame.tobytes() for frame in frames}) > 3
    if count is not None:
        assert len(frames) == count


@pytest.mark.parametrize(
    ("painter", "scene", "steps"),
    [(paint_smax, smax_scene(), STEPS), (paint_mpe, mpe_scene(), STEPS), (paint_matrix, matrix_scene(), 1),
     (paint_two_step, two_step_scene(), 2), (paint_arrays, {}, STEPS)],
)  # fmt: skip
def test_every_frame_says_which_time_it_shows(painter, scene, steps):
    times = [frame.time for frame in painter(recording(scene, steps))]
    assert times == sorted(times) and times[0] == 0 and times[-1] > steps
    assert set(range(steps + 1)) <= set(times)


def test_a_dead_unit_is_not_painted_alive():
    alive = images(paint_smax, recording(smax_scene(), won=False))
    dead = images(paint_smax, recording(smax_scene(killed=True), won=False))
    before, after = FRAMES_PER_STEP, FRAMES_PER_STEP * 3

    def orange(frame):
        pixels = np.asarray(frame.crop(SCENE)).astype(int)
        return int((pixels[..., 0] - pixels[..., 2] > 90).sum())

    assert orange(dead[0]) == orange(alive[0])
    assert np.array_equal(np.asarray(dead[before - 2].crop(SCENE)), np.asarray(alive[before - 2].crop(SCENE)))
    assert orange(dead[after]) < 0.8 * orange(alive[after])


def test_the_camera_never_loses_a_living_unit():
    generator, steps = np.random.default_rng(0), 30
    scene = {key: np.repeat(value[:1], steps + 1, axis=0) for key, value in smax_scene().items()}
    scene["position"] = 16 + np.cumsum(generator.normal(size=(steps + 1, 4, 2)), axis=0)
    film = BattleFilm(recording(scene, steps))
    for tween in tweens(steps):
        camera, positions = film.camera(tween), tween.of(scene["position"])
        points = np.array([camera.point(position) for position in positions])
        assert (points > SCENE[:2]).all() and (points < SCENE[2:]).all()


def test_a_covered_landmark_is_gold():
    scene = mpe_scene()
    near_one = images(paint_mpe, recording(scene))[FRAMES_PER_STEP].crop(SCENE)
    scene["position"][:, 0] += 0.4
    far_from_all = images(paint_mpe, recording(scene))[FRAMES_PER_STEP].crop(SCENE)
    assert near(near_one, GOLD) > 100 and near(far_from_all, GOLD) == 0


def test_captured_prey_and_its_captors_leave_a_cross_and_then_nothing():
    frames = images(paint_predator_prey, recording(hunt_scene()))

    def pixels(step, column, colour):
        corners = grid_cell(GRID_BOX, (CELLS, CELLS), 0, column)
        return near(frames[2 * step].crop(tuple(round(edge) for edge in corners)), colour)

    prey = [pixels(step, 1, ORANGE) for step in range(4)]
    assert prey[0] == prey[1] > 500 and 20 < prey[2] < prey[1] / 2 and prey[3] == 0
    crosses = [[pixels(step, column, BLUE) for column in (0, 2)] for step in (2, 3)]
    assert min(crosses[0]) > 20 and crosses[1] == [0, 0]


def test_the_played_cell_of_a_matrix_game_is_framed_in_white():
    table = (84, 132, SIZE - 34, SIZE - 108)
    start, *_, end = images(paint_matrix, recording(matrix_scene(), 1))[:-CARD_FRAMES]
    around = tuple(round(edge) for edge in grid_cell(table, (3, 3), 1, 1))
    left = (around[0] - 4, around[1] + 20, around[0], around[3] - 20)
    assert near(start.crop(left), WHITE) == 0 and near(end.crop(left), WHITE) > 50


def test_the_way_that_the_two_step_game_took_is_gold():
    pages = images(paint_two_step, recording(two_step_scene(), 2))
    ways = [(130, 120, 200, 155), (290, 120, 360, 155)]
    gold = [[near(page.crop(way), GOLD) > 20 for way in ways] for page in (pages[0], pages[-CARD_FRAMES - 1])]
    assert gold == [[False, False], [False, True]]


# --- environments without a painter ------------------------------------------------------------------------------

PANE = (0, HEADER, SIZE, SIZE - 60)
"""Of a page with two agents, what is above them."""


def arrays_film(scene, agents=2, steps=STEPS, action="up"):
    names = tuple(f"agent_{i}" for i in range(agents))
    return recording(scene, steps)._replace(agent_names=names, actions=((action,) * agents,) * steps)


def page(step, *args, **kwargs):
    return images(paint_arrays, arrays_film(*args, **kwargs))[step * frames_per_step(STEPS)]


def middle(image, colour):
    """The mean row and column of the pixels of this colour."""
    return np.argwhere(np.abs(np.asarray(image).astype(int) - colour).max(-1) < 30).mean(0)


def test_a_grid_world_looks_like_one():
    grid = still(np.zeros((5, 5), int))
    grid[np.arange(STEPS + 1), 1, np.arange(STEPS + 1)] = 1  # walks along the second row
    pages = [page(step, {"grid": grid}).crop(PANE) for step in range(STEPS + 1)]
    places = np.array([middle(one, agent_colours(1)[0]) for one in pages])
    assert (near(pages[0], agent_colours(1)[0]) > 500) and np.ptp(places[:, 0]) < 1
    widths = np.diff(places[:, 1])
    assert widths == pytest.approx(np.full(STEPS, widths[0]), abs=1) and widths[0] > 40


def test_the_sign_of_real_numbers_is_a_colour():
    for value, colour in ((2.0, BLUE), (-2.0, ORANGE)):
        shown = page(0, {"heat": still([[0.0, value], [0.0, 0.0]])}).crop(PANE)
        assert near(shown, colour) > 1000 and near(shown, BLUE if colour == ORANGE else ORANGE) == 0


def test_bars_grow_with_their_numbers():
    levels = still([1.0, 0.0])
    levels[:, 0] = np.arange(STEPS + 1)
    empty = np.asarray(page(0, {"level": levels})).astype(int)
    grown = [(np.asarray(page(step, {"level": levels}))[HEADER:] != empty[HEADER:]).sum() for step in (1, 2, 4)]
    assert grown == sorted(grown) and grown[2] > 2 * grown[0]


def test_a_scalar_is_written_with_its_name():
    pages = [np.asarray(page(step, {"time": np.arange(STEPS + 1)}).crop(PANE)) for step in (0, 1)]
    assert (pages[0][:, :100] == pages[1][:, :100]).all() and (pages[0] != pages[1]).any()


@pytest.mark.parametrize("agents", [2, 10, 40])
def test_many_and_large_arrays_leave_the_agents_their_place(agents):
    sizes = [(), (7,), (300,), (40, 40), (3, 20, 20), (1, 900), (900, 1)]
    crowd = {f"{len(size)}_{k}": np.ones((STEPS + 1, *size)) for size in sizes for k in range(12)}
    below = (0, SIZE - {2: 58, 10: 124, 40: 140}[agents], SIZE, SIZE)
    alone, crowded = (np.asarray(page(1, scene, agents).crop(below)) for scene in ({}, crowd))
    assert (alone == crowded).all() and np.ptp(alone) > 100


def test_actions_are_named_after_the_step_that_took_them():
    below = (0, SIZE - 60, SIZE, SIZE)
    before, up, down = (
        page(step, {}, action=action).crop(below) for step, action in ((0, "up"), (1, "up"), (1, "down"))
    )
    written = [near(one.crop((SIZE // 2 - 40, 0, SIZE, 60)), TEXT) for one in (before, up, down)]
    assert written[0] == 0 < written[1] < written[2]


def test_strange_numbers_are_painted():
    odd = np.array([np.nan, np.inf, -np.inf, 1e38])
    scene = {"scalar": still(np.nan), "vector": still(odd), "matrix": still(odd.reshape(2, 2)), "none": still(0)}
    assert len(images(paint_arrays, arrays_film(scene))) > STEPS


def test_the_end_is_told_in_words():
    one = recording({}, steps=4)
    assert one.ending == "4 steps"
    assert one._replace(won=True, terminated=True).ending == "won  ·  terminated after 4 steps"
    assert recording({}, 1)._replace(terminated=False).ending == "truncated after 1 step"


def test_short_episodes_are_shown_longer():
    assert [frames_per_step(steps) for steps in (1, 5, 10, 20, 100)] == [12, 12, 6, 3, 3]


class Bare(Probe):
    """An environment whose scene is the base class's."""

    scene = TeamEnv.scene


def test_where_a_scene_is_empty_the_small_arrays_of_the_state_are_shown():
    class Units(NamedTuple):
        place: jax.Array

    state = {
        "key": jax.random.key(0),
        "old_key": jax.random.PRNGKey(0),
        "units": Units(jnp.ones((2, 3))),
        "map": jnp.zeros((32, 32), int),
        "image": jnp.zeros((64, 64)),
        "five": jnp.zeros((1, 1, 1, 1)),
        "time": 3,
    }
    env = Bare(ProbeConfig())
    observation = env.reset(jax.random.key(0))[1]
    shown = scene_of(env, state, observation)
    assert {name: value.shape for name, value in shown.items()} == {"map": (32, 32), "time": (), "units.place": (2, 3)}
    assert list(scene_of(env, jnp.ones(3), observation)) == ["state"]
    assert list(scene_of(env, [jnp.ones(1000)] * 5 + [jnp.ones(96), jnp.ones(1)], observation)) == [*"0123", "5"]


def test_where_the_state_has_nothing_to_show_the_observations_are():
    env = Bare(ProbeConfig())
    observation = env.reset(jax.random.key(0))[1]
    assert (scene_of(env, {"key": jax.random.key(0)}, observation)["observation"] == observation.agents).all()
    own = Probe(ProbeConfig())
    assert list(scene_of(own, own.reset(jax.random.key(0))[0], observation)) == ["time"]


# --- files -------------------------------------------------------------------------------------------------------


def test_the_gif_is_readable_and_moves(tmp_path):
    path = tmp_path / "film.gif"
    save_gif(paint_mpe(recording(mpe_scene())), path)
    assert [item.name for item in tmp_path.iterdir()] == ["film.gif"]
    frames = images(paint_mpe, recording(mpe_scene()))
    with Image.open(path) as gif:
        assert gif.is_animated and gif.n_frames > STEPS
        assert gif.size == (SIZE, SIZE) and gif.info["loop"] == 0
    milliseconds, end = milliseconds_and_end(path)
    assert milliseconds == len(frames) * 70
    assert np.abs(np.asarray(end).astype(int) - np.asarray(frames[-1])).mean() < 3


# --- which painter an environment has ----------------------------------------------------------------------------


WITHOUT = {"probe", "jaxmarl"}
"""Environments whose films show arrays."""


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_environments_painter_paints_its_scenes(name):
    env = make_env(from_mapping({"env": {"name": name}, "algorithm": {"name": "vdn"}}).env)
    scene = jax.jit(lambda key: env.scene(env.reset(key)[0]))(jax.random.key(0))
    painter = painter_of(env)
    assert (painter is paint_arrays) == (name in WITHOUT)
    frames = painter(recording({name: still(value, 1) for name, value in scene.items()}, 1))
    assert frames[0].time == 0 and len(frames) > CARD_FRAMES


def keep_all(observation, state, available):
    """A shield that takes nothing away."""
    return available


@pytest.mark.parametrize(("name", "painter"), [("two_step", paint_two_step), ("probe", paint_arrays)])
@pytest.mark.parametrize(
    "wrapped",
    [{"algorithm": {"name": "joint"}}, {"env": {"shield": f"{__name__}:keep_all"}, "algorithm": {"name": "vdn"}}],
)
def test_a_wrapped_environment_has_the_painter_of_the_one_inside(name, painter, wrapped):
    env = make_team(from_mapping(merge({"env": {"name": name}}, wrapped)))
    assert not hasattr(env, "payoff_a") and painter_of(env) is painter


def test_making_an_environment_does_not_import_pillow():
    code = """
import sys
from qmix_jax.build import from_mapping
from qmix_jax.build import make_env
make_env(from_mapping({"env": {"name": "two_step"}, "algorithm": {"name": "vdn"}}).env)
assert "PIL" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- curves ------------------------------------------------------------------------------------------------------


def test_where_the_film_fails_the_curve_is_drawn_and_the_place_is_told(probe, monkeypatch, tmp_path):
    def fail(*_):
        raise KeyError("robots")

    said = []
    monkeypatch.setattr(run_pictures, "draw_curve", lambda rows, path, title: path.touch())
    monkeypatch.setattr(run_pictures, "paint_film", fail)
    run_pictures.draw(Program.make(tiny(), probe), tmp_path, [], {}, said.append)
    assert (tmp_path / run_pictures.CURVE).exists()
    assert said[-1].startswith("warning: no film of the run: KeyError: 'robots', at ") and __file__ in said[-1]

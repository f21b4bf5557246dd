"""Films and figures with the team's values: the numbers drawn are the mixer's, and every kind of file is written."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY, merge, untrained_run
from pictures import milliseconds_and_end, near
from PIL import Image
from test_film import STEPS, images, matrix_scene, mpe_scene, recording, smax_scene

from qmix_jax import records
from qmix_jax.build import make_mixer
from qmix_jax.cli import main as cli
from qmix_jax.cli import render
from qmix_jax.envs.matrix_painter import paint_matrix
from qmix_jax.envs.mpe.painter import paint_mpe
from qmix_jax.envs.smax.painter import paint_smax
from qmix_jax.film import mp4
from qmix_jax.film.arrays import frames_per_step, paint_arrays
from qmix_jax.film.canvas import SHADE, SIZE, mix
from qmix_jax.film.credit import EpisodeValues, ValueLanes, agent_colours, paint_with_values
from qmix_jax.film.recording import CARD_FRAMES, SCENE
from qmix_jax.learning.evaluate import episode_keys, evaluate, record, team_key
from qmix_jax.mixers import MIXERS
from qmix_jax.mixers.base import credit_assignment
from qmix_jax.run import exits, films
from qmix_jax.run.pictures import cut_episode
from qmix_jax.run.trained import load_run
from qmix_jax.types import MixerInput, TeamValues

EPISODES = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    run = untrained_run(tmp_path_factory.mktemp("run") / "probe", merge(TINY, {"num_seeds": 2, "devices": 1}))
    row = {"env_steps": 64, "eval/return": [9.0, 9.0], "eval/win_rate": [0.1, 0.4]}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return run


@pytest.fixture(scope="module")
def played(folder):
    """The run, its second team's parameters, and the record of its first episodes with seed 5."""
    run, keys = load_run(folder), episode_keys(team_key(5, 1), EPISODES)
    mixer, params = make_mixer(run.config.algorithm, run.env), run.params(1)
    recorded = jax.jit(lambda params: record(run.env, run.agents, mixer, params, keys))(params)
    return run, params, jax.device_get(recorded)


# --- values ------------------------------------------------------------------------------------------------------


def input_of(q):
    """A joint action of two agents at four times."""
    state = jax.random.normal(jax.random.key(8), (4, 5))
    return MixerInput(q, q + 0.1, jnp.ones((4, 2, 3)) / 3, jnp.ones((4, 2), bool), jnp.ones((4, 2, 6)), state)


def test_credit_is_the_mixers_slope_in_each_agents_value():
    """Finite differences of QMIX, with parameters away from where they start."""
    q, width = jax.random.normal(jax.random.key(7), (4, 2)), 1e-2
    mixer = MIXERS["qmix"](embed_size=4, hypernet_size=8, init_scale=1.0)
    params, apply = jax.jit(mixer.init)(jax.random.key(9), input_of(q)), jax.jit(mixer.apply)
    values = jax.jit(partial(credit_assignment, mixer))(params, input_of(q))
    np.testing.assert_allclose(values.q_tot, apply(params, input_of(q))[:, 0], rtol=1e-6)
    for agent in range(2):
        step = width * jnp.eye(2)[agent]
        up, down = (apply(params, input_of(q)._replace(chosen_q=q + sign * step)) for sign in (1, -1))
        np.testing.assert_allclose(values.credit[:, agent], (up - down)[:, 0] / (2 * width), rtol=0.02, atol=1e-3)
    assert np.ptp(values.credit) > 0.05


def test_a_sum_credits_all_alike_and_independent_learners_have_no_team_value():
    q = jax.random.normal(jax.random.key(7), (4, 2))
    values = credit_assignment(MIXERS["vdn"](), {}, input_of(q))
    assert (values.credit == 1).all() and np.allclose(values.q_tot, q.sum(-1))
    alone = credit_assignment(MIXERS["iql"](), {}, input_of(q))
    assert (alone.q_tot, alone.credit) == (None, None) and (alone.q == q).all()


def test_recorded_episodes_are_those_of_the_evaluation(played):
    run, params, recorded = played
    sums = jax.jit(lambda agent: evaluate(run.env, run.agents, agent, team_key(5, 1), EPISODES))(params["agent"])
    assert sums.total_length == recorded.episodes.length.sum()
    assert sums.total_return == recorded.episodes.total.sum() == recorded.reward.sum()


def test_a_recording_holds_one_value_a_step(played):
    run, _, recorded = played
    for episode in range(EPISODES):
        episodes = recorded.episodes
        cut = cut_episode(recorded, episode, run.config, run.env)
        steps = episodes.length[episode]
        assert cut.won == episodes.metrics["win_rate"][episode] and cut.reward.sum() == episodes.total[episode]
        assert [len(part) for part in (cut.reward, *cut.values)] == [steps] * 4
        assert cut.scene["time"].tolist() == list(range(steps + 1))
        assert cut.actions[0] == tuple(f"action_{a}" for a in recorded.action[0, episode]) and len(cut.actions) == steps
        assert cut.terminated == (steps % 2 == 1)  # as the probe world ends


# --- pictures ----------------------------------------------------------------------------------------------------


def valued(scene, agents, steps=STEPS, has_team=True, **fields):
    """A made-up recording: agent i's credit is i + 1, and grows with time."""
    credits = np.arange(1.0, agents + 1) + np.arange(steps)[:, None]
    q = np.linspace(-1, 1, steps * agents).reshape(steps, agents)
    values = TeamValues(q, q.sum(1), credits) if has_team else TeamValues(q, None, None)
    return recording(scene, steps)._replace(values=values, **fields)


@pytest.mark.parametrize("has_team", [True, False])
@pytest.mark.parametrize(
    ("painter", "scene", "agents", "steps"),
    [(paint_smax, smax_scene(killed=True), 2, STEPS), (paint_mpe, mpe_scene(), 2, STEPS),
     (paint_matrix, matrix_scene(), 2, 1), (paint_arrays, {}, 27, STEPS)],
)  # fmt: skip
def test_values_stand_under_every_frame_of_every_film(painter, scene, agents, steps, has_team):
    one = valued(scene, agents, steps, has_team)
    frames = paint_with_values(painter, one)
    assert len(frames) == len(images(painter, one))
    (width, height) = frames[0].image.size
    assert width == SIZE and height > SIZE and height % 2 == 0
    assert {frame.image.size for frame in frames} == {(width, height)}


def test_agents_have_the_same_colours_in_the_scene_and_under_it():
    one = valued(mpe_scene(), 2, colours=agent_colours(2))
    frame = paint_with_values(paint_mpe, one)[6].image
    scene, lanes = frame.crop(SCENE), frame.crop((0, SIZE, *frame.size))
    for colour in agent_colours(2):
        assert near(lanes, colour) > 100
        assert near(scene, colour) > 20


def test_what_lies_ahead_is_fainter():
    lanes = ValueLanes(EpisodeValues(valued(mpe_scene(), 2)))
    colour = agent_colours(2)[0]
    bright = [near(lanes.paint(time), colour) for time in (0, 1, 3, STEPS)]
    assert bright == sorted(bright) and bright[-1] > 4 * bright[0] + 100


@pytest.mark.parametrize("names", [(), ("ally_0", "ally_1")])
def test_legends_name_the_agents_as_everywhere(names):
    values = EpisodeValues(valued(mpe_scene(), 2, agent_names=names))
    assert [series.name for series in values.agents] == [*(names or ("agent_0", "agent_1"))]


def test_colours_of_agents_differ():
    assert len(set(agent_colours(27))) == 27


def test_a_gif_of_two_episodes_shows_all_their_frames(tmp_path):
    one = valued(mpe_scene(), 2)
    films.write(paint_mpe, [one, one], tmp_path / "film.gif")
    assert milliseconds_and_end(tmp_path / "film.gif")[0] == 2 * len(images(paint_mpe, one)) * 70


def test_an_mp4_has_every_frame(tmp_path):
    av = pytest.importorskip("av")
    one = valued(mpe_scene(), 2)
    films.write(paint_mpe, [one], tmp_path / "film.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]
    with av.open(str(tmp_path / "film.mp4")) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    frames = paint_with_values(paint_mpe, one)
    assert len(shown) == len(frames)
    assert np.abs(shown[9].astype(int) - np.asarray(frames[9].image)).mean() < 4


@pytest.mark.parametrize(("agents", "has_team"), [(2, True), (2, False), (27, True)])
def test_a_figure_is_written_whole(tmp_path, agents, has_team):
    one = valued({}, agents, has_team=has_team, won=True)
    films.write(paint_arrays, [one], tmp_path / "figure.png")
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > 1500 and image.height > 900
        plots = np.asarray(image.convert("RGB"))[image.height // 2 :]
    if agents == 2:
        assert all(near(plots, mix(colour, SHADE, 0.15)) > 200 for colour in agent_colours(2))


# --- the command -------------------------------------------------------------------------------------------------


def test_the_best_team_is_filmed_and_the_outcome_said(folder, capsys, tmp_path, played):
    run, _, recorded = played
    out = tmp_path / "film.gif"
    assert cli.main(["render", str(folder), "--seed", "5", "--episodes", str(EPISODES), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, length, won in zip(lines, recorded.episodes.length, recorded.episodes.metrics["win_rate"], strict=False):
        assert f"{length} step" in line and ("not won" in line) != won
    assert lines[-1] == str(out)
    milliseconds, end = milliseconds_and_end(out)
    assert milliseconds == 70 * sum(frames_per_step(n) * (n + 1) + CARD_FRAMES for n in recorded.episodes.length)
    assert all(near(end, colour) > 20 for colour in agent_colours(run.env.spec.num_agents))


def test_recordings_know_the_agents_names(folder):
    (recording,) = films.play(load_run(folder), team=0, seed=0, episodes=1)
    assert recording.agent_names == load_run(folder).env.spec.agent_names


@pytest.mark.parametrize("name", ["film.GIF", "figure.PNG", "film.Mp4"])
def test_the_case_of_a_files_ending_makes_no_difference(tmp_path, name):
    if name.endswith("Mp4"):
        pytest.importorskip("av")
    path = render.picture(str(tmp_path / name))
    films.write(paint_mpe, [valued(mpe_scene(), 2)], path)
    start = path.read_bytes()[:12]
    assert b"GIF8" in start or b"PNG" in start or b"ftyp" in start


def test_the_film_lies_in_the_run_unless_said_otherwise(tmp_path, capsys):
    settings = merge(TINY, {"env": {"name": "matrix"}, "algorithm": {"name": "iql"}, "devices": 1})
    settings["env"] = {"name": "matrix"}
    settings["algorithm"] = {"name": "iql"}
    run = untrained_run(tmp_path / "matrix", settings)
    assert cli.main(["render", str(run)]) == 0
    assert capsys.readouterr().out.endswith(f"{run / 'render.gif'}\n")
    with Image.open(run / "render.gif") as gif:
        assert gif.is_animated


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nowhere", "no folder nowhere"),
        ("RUN --out film.avi", ".gif, .mp4, .png"),
        ("RUN --out no/film.gif", "no folder no"),
        ("RUN --team 2", "--team 2: the run has 2 teams, counted from 0"),
        ("RUN --episodes 0", "1 or more"),
        ("RUN --checkpoint 7", "no checkpoint '7'"),
    ],
)
def test_mistakes_are_one_line(folder, capsys, tmp_path, monkeypatch, line, says):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["render", *(str(folder) if word == "RUN" else word for word in line.split())]) == 2
    _, err = capsys.readouterr()
    assert says in err.splitlines()[-1] and err.splitlines()[-1].startswith("qmix-jax: error: ")
    assert not list(tmp_path.iterdir())


def test_rows_that_cannot_be_read_are_said_in_one_line(folder, capsys, monkeypatch):
    monkeypatch.setattr(records, "MAX_METRICS", 10)
    assert cli.main(["render", str(folder)]) == exits.NOT_SAVED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("qmix-jax: error: ") and "metrics.jsonl is larger than" in line


def test_mp4_without_pyav_names_the_extra_before_anything_is_played(folder, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(mp4, "find_spec", lambda name: None)
    monkeypatch.setattr(films, "play", lambda *_: pytest.fail("played"))
    assert cli.main(["render", str(folder), "--out", str(tmp_path / "film.mp4")]) == 2
    assert "qmix-jax[video]" in capsys.readouterr().err

"""Greedy scores of a trained team, their intervals, and scores under disturbances."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY, merge, untrained_run

from qmix_jax.actions import random_action
from qmix_jax.analysis import scores
from qmix_jax.build import from_mapping, make_agents, make_env, make_mixer
from qmix_jax.cli import main as cli
from qmix_jax.cli.evaluate import on_map
from qmix_jax.learning import robustness
from qmix_jax.learning.evaluate import episode_keys, evaluate, play_episodes, record, team_key
from qmix_jax.learning.robustness import ParallelEvaluator, disturbed, plan, undisturbed
from qmix_jax.run.trained import TrainedRun, load_run
from qmix_jax.settings import ConfigError
from qmix_jax.statistics import nested_bootstrap, share_interval
from qmix_jax.types import AgentInput, Behaviour

SEEDS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("run") / "probe", merge(TINY, {"num_seeds": SEEDS, "devices": 1}))


@pytest.fixture(scope="module")
def team(folder):
    """The run, and the parameters of its first seed's agents."""
    run = load_run(folder)
    return run, run.params(0)["agent"]


PLAYED, KEY = 32, 1


@pytest.fixture(scope="module")
def plain(team):
    """The episodes that nothing disturbs."""
    run, params = team
    return ParallelEvaluator(run.env, run.agents, PLAYED).play(params, jax.random.key(KEY))


@pytest.fixture(scope="module")
def under(team):
    """The same episodes under a disturbance: one program for all."""
    run, params = team
    exam = ParallelEvaluator(run.env, run.agents, PLAYED, is_disturbed=True)
    return lambda disturbance: exam.play(params, jax.random.key(KEY), disturbance)


# --- exact counts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("episodes", "devices", "largest", "batches", "size"),
    [(8, 4, 100, 1, 8), (9, 4, 100, 1, 12), (1, 4, 100, 1, 4), (250, 2, 100, 3, 84), (300, 4, 100, 3, 100)],
)
def test_batches_are_equal_and_hold_every_episode(episodes, devices, largest, batches, size):
    assert plan(episodes, devices, largest) == (batches, size)
    assert size % devices == 0 and batches * size >= episodes


def test_exactly_so_many_episodes_are_counted_and_batches_make_no_difference(team, plain):
    run, params = team
    exam, told = ParallelEvaluator(run.env, run.agents, 21, largest=8), []
    played = exam.play(params, jax.random.key(KEY), on_batch=told.append)
    assert exam.plan.batches == 3 and told == [8, 8, 5]
    assert played.is_over.all()
    jax.tree.map(lambda few, all_: np.testing.assert_array_equal(few, all_[:21]), played, plain)


def test_each_episode_is_counted_up_to_its_end_and_no_further(plain):
    np.testing.assert_array_equal(plain.total, plain.length * (plain.length + 1) / 2)  # step t pays t + 1
    assert set(plain.length.tolist()) == {1, 2, 3, 4, 5}


def test_the_sums_of_training_are_those_of_the_single_episodes(team, plain):
    run, params = team
    sums = jax.jit(lambda params: evaluate(run.env, run.agents, params, jax.random.key(KEY), PLAYED))(params)
    assert (sums.episodes, sums.total_length) == (PLAYED, plain.length.sum())
    assert (sums.total_return, sums.metrics["win_rate"]) == (plain.total.sum(), plain.metrics["win_rate"].sum())


# --- intervals ---------------------------------------------------------------------------------------------------


def test_the_interval_of_one_seed_is_that_of_the_mean_over_episodes():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=(1, 400, 1))
    (low,), (high,) = nested_bootstrap(values)
    error = values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_episodes_that_are_all_alike_leave_no_doubt():
    low, high = nested_bootstrap(np.full((3, 10, 2), 0.25))
    assert (low == 0.25).all() and (high == 0.25).all()


def test_the_interval_of_several_seeds_holds_the_differences_between_them():
    """Two seeds at 0 and 1: resamples of seeds are (0, 0), (0, 1), (1, 0) and (1, 1), whatever the episodes."""
    values = np.repeat([[0.0], [1.0]], 500, axis=1)[..., None]
    low, high = nested_bootstrap(values)
    assert (low, high) == (0.0, 1.0)


def episodes_of(won, total=(1.0, 2.0), seeds=1):
    """The metrics of each seed's episodes."""
    episodes = {"win_rate": np.array(won, float), "return": np.resize(total, len(won)), "length": np.full(len(won), 5)}
    return {name: [values] * seeds for name, values in episodes.items()}


@pytest.mark.parametrize("won", [False, True])
def test_a_win_rate_of_0_or_1_has_wilsons_width(won):
    score = scores.scores_of(episodes_of([won] * 8))["win_rate"]
    assert (score.mean, score.low, score.high) == pytest.approx(share_interval(8 * won, 8))
    assert score.high - score.low > 0.3 and score.method == "Wilson over episodes"


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_seeds_of_one_win_rate_are_no_surer_than_all_their_episodes_together(share):
    won = np.arange(8) < 8 * share
    score = scores.scores_of(episodes_of(won, seeds=4))["win_rate"]
    pooled = share_interval(32 * share, 32)
    assert score.low <= pooled.low + 1e-12 and score.high >= pooled.high - 1e-12
    assert score.method == "bootstrap over seeds and their episodes, no narrower than Wilson over all episodes"


def test_a_return_that_never_varies_is_certain_but_one_episode_says_nothing_of_others():
    episodes = episodes_of([True] * 8, total=[3.0])
    del episodes["win_rate"]
    certain = scores.scores_of(episodes)
    assert (certain["return"].low, certain["return"].high) == (3.0, 3.0)
    assert certain["return"].method == "bootstrap over episodes" and list(certain) == ["return", "length"]
    single = scores.to_plain(scores.scores_of(episodes_of([True])))
    assert single["return"]["interval"] is None and single["return"]["interval_method"] == "none: a single episode"
    assert single["win_rate"]["interval"] == pytest.approx(share_interval(1, 1)[1:])


# --- disturbances ------------------------------------------------------------------------------------------------


def test_severity_zero_is_the_plain_evaluation(plain, under):
    jax.tree.map(np.testing.assert_array_equal, plain, under(undisturbed(2)))


def test_every_action_replaced_is_a_random_policy(team, under):
    run, _ = team
    played = under(undisturbed(2)._replace(replaced=jnp.array(1.0)))

    def at_random(hidden, inputs, available, keys):
        """Draws as `replace_actions` does, without a network."""
        keys = jax.vmap(lambda key: jax.random.split(key, 3)[1])(keys)
        uniform = jax.vmap(lambda key: jax.random.uniform(key, (2, 2)))(keys)
        return hidden, random_action(uniform[:, 1], available)

    keys = episode_keys(jax.random.key(KEY), PLAYED)
    expected = jax.jit(lambda: play_episodes(run.env, run.agents, at_random, keys))()
    jax.tree.map(np.testing.assert_array_equal, played, jax.device_get(expected))


ENVS, AGENTS, ACTIONS = 4000, 2, 5


@pytest.fixture(scope="module")
def keys():
    return episode_keys(jax.random.key(2), ENVS)


def test_the_given_share_of_actions_is_replaced_by_legal_ones(keys):
    available = jnp.broadcast_to(jnp.array([True, True, False, False, True]), (ENVS, AGENTS, ACTIONS))
    action = robustness.replace_actions(keys, jnp.full((ENVS, AGENTS), 4), available, jnp.array(0.3))
    counts = np.bincount(np.asarray(action).ravel(), minlength=ACTIONS) / action.size
    assert counts == pytest.approx([0.1, 0.1, 0, 0, 0.8], abs=0.02)


def test_a_removed_agent_only_idles_and_the_others_play_on(keys):
    available = jnp.ones((ENVS, AGENTS, ACTIONS), bool)
    removed = jnp.array([False, True])
    idles = robustness.remove_agents(keys, jnp.full((ENVS, AGENTS), 3), available, removed, 2)
    assert (idles == jnp.array([3, 2])).all()
    shielded = jnp.broadcast_to(jnp.arange(ACTIONS) == 4, available.shape)
    acts = robustness.remove_agents(keys, jnp.full((ENVS, AGENTS), 4), shielded, removed, 2)
    assert (acts == 4).all(), "a shield that forbids the idle action is obeyed"
    acts = robustness.remove_agents(keys, jnp.full((ENVS, AGENTS), 3), available, removed, None)
    assert (acts[:, 0] == 3).all()
    assert np.bincount(np.asarray(acts[:, 1])) / ENVS == pytest.approx([0.2] * ACTIONS, abs=0.03)


def test_noise_has_the_given_deviation_and_reaches_only_what_the_agents_see(keys):
    seen = []

    def policy(hidden, inputs, available, per_step):
        seen.append(inputs)
        return hidden, jnp.zeros(inputs.last_action.shape, int)

    inputs = AgentInput(jnp.full((ENVS, AGENTS, 3), 7.0), jnp.ones((ENVS, AGENTS), int), jnp.zeros(ENVS, bool))
    noisy = disturbed(policy, undisturbed(AGENTS)._replace(noise=jnp.array(0.5)), None)
    noisy(None, inputs, jnp.ones((ENVS, AGENTS, ACTIONS), bool), keys)
    noise = np.asarray(seen[0].obs) - 7
    assert noise.std() == pytest.approx(0.5, rel=0.03) and noise.mean() == pytest.approx(0, abs=0.02)
    assert abs(np.corrcoef(noise.reshape(ENVS, -1).T)[0, 1:]).max() < 0.06
    assert seen[0].last_action is inputs.last_action


@pytest.mark.parametrize(
    ("settings", "action", "reach"),
    [({"name": "smax", "map": "3m"}, 4, 0.5), ({"name": "mpe"}, 0, 0), ({"name": "predator_prey"}, 0, 0)],
    # SMAX pushes units apart that overlap
)
def test_the_idle_action_is_legal_and_moves_nobody(settings, action, reach):
    env = make_env(from_mapping({"env": settings, "algorithm": {"name": "vdn"}}).env)
    assert env.spec.idle_action == action
    state, observation = jax.jit(env.reset)(jax.random.key(0))
    assert observation.available[:, action].all()
    after, _, _ = jax.jit(env.step)(jax.random.key(1), state, jnp.full(env.spec.num_agents, action))
    before, after = (env.scene(one)["position"][: env.spec.num_agents] for one in (state, after))
    assert np.linalg.norm(before - after, axis=-1).max() <= reach


# --- another map -------------------------------------------------------------------------------------------------


def test_a_map_of_other_sizes_is_refused_by_what_differs():
    """2s3z has five against five, as smacv2_5_units; 3m has three, and other sizes follow."""
    base = {"env": {"name": "smax", "map": "2s3z"}, "algorithm": {"name": "vdn"}}
    config = from_mapping(base)
    env = make_env(config.env)
    shapes = jax.eval_shape(make_agents(config.agent, env).init, jax.random.key(0))
    run = TrainedRun(config, env, {"agent": jax.tree.map(lambda leaf: np.zeros((1, *leaf.shape)), shapes)})
    assert on_map(run, "smacv2_5_units")[0].spec.name == "SMAX smacv2_5_units"
    with pytest.raises(
        ConfigError, match=r"3 agents instead of 5, observations of 75 numbers instead of \d+, 8 actions"
    ):
        on_map(run, "3m")
    with pytest.raises(ConfigError, match="did you mean '2s3z'"):
        on_map(run, "2s3")


# --- the command -------------------------------------------------------------------------------------------------


def evaluate_command(capsys, *arguments):
    """Status, stdout and stderr of `qmix-jax evaluate`, in this process."""
    status = cli.main(["evaluate", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def test_one_document_on_stdout_with_every_table(folder, capsys):
    disturbances = ["--noise", "0,0.3", "--replace", "0.5,1", "--remove", "agent_1"]
    status, out, err = evaluate_command(capsys, folder, "--episodes", PLAYED, "--json", "-", *disturbances)
    assert status == 0 and f"{PLAYED * SEEDS * 5:,} episodes" in err
    document = json.loads(out)
    assert (document["episodes"], document["trained_seeds"]) == (PLAYED, [0, 1])
    assert list(document["scores"]) == ["win_rate", "return", "length"]
    tables = document["tables"]
    assert [row["severity"] for row in tables["observation_noise"]] == [0, 0.3]
    assert [row["severity"] for row in tables["replaced_actions"]] == [0, 0.5, 1]
    assert [row["severity"] for row in tables["removed_agent"]] == ["none", "agent_1"]
    for score in document["scores"].values():
        assert len(score["seeds"]) == SEEDS and score["mean"] == pytest.approx(np.mean(score["seeds"]))
        assert score["interval"][0] <= score["mean"] <= score["interval"][1]
    for rows in tables.values():
        assert {name: rows[0][name] for name in document["scores"]} == document["scores"]


def test_tables_for_people_and_a_file_for_programs(folder, capsys, tmp_path):
    file = tmp_path / "scores.json"
    status, out, _ = evaluate_command(capsys, folder, "--episodes", 9, "--seed", 4, "--json", file)
    assert status == 0
    document = json.loads(file.read_text())
    assert (document["seed"], document["env_steps"]) == (4, load_run(folder).env_steps)
    step = f"{document['env_steps']:,}"
    assert f"QMIX on probe, checkpoint last (step {step}): 9 greedy episodes of each of 2 seeds" in out
    assert "95 % interval [" in out and "win rate" in out


def test_the_document_holds_every_episode_of_every_seed_on_a_line(folder, capsys):
    run = load_run(folder)
    _, out, _ = evaluate_command(capsys, folder, "--episodes", 9, "--seed", 4, "--json")
    found = json.loads(out)["scores"]
    for i in range(SEEDS):
        played = ParallelEvaluator(run.env, run.agents, 9).play(run.params(i)["agent"], team_key(4, i))
        assert found["return"]["episodes"][i] == played.total.tolist()
        assert found["length"]["episodes"][i] == played.length.tolist()
        assert found["win_rate"]["episodes"][i] == played.metrics["win_rate"].tolist()
    assert {each["interval_method"].split(",")[0] for each in found.values()} == {
        "bootstrap over seeds and their episodes"
    }
    assert str(found["length"]["episodes"][0]) in out


def test_what_each_agent_does_is_that_of_the_recorded_episodes(folder, capsys):
    """Over devices and batches that do not divide the episodes; the probe world leaves every agent a choice."""
    status, out, _ = evaluate_command(capsys, folder, "--episodes", 9, "--seed", 4, "--agents", "--json")
    assert status == 0
    agents, run = json.loads(out)["agents"], load_run(folder)
    mixer = make_mixer(run.config.algorithm, run.env)
    play = jax.jit(lambda params, keys: record(run.env, run.agents, mixer, params, keys))
    assert [agent["agent"] for agent in agents] == ["agent_0", "agent_1"]
    for i in range(SEEDS):
        recorded = jax.device_get(play(run.params(i), episode_keys(team_key(4, i), 9)))
        counts = np.arange(len(recorded.reward))[:, None] < recorded.episodes.length
        for n, agent in enumerate(agents):
            assert agent["steps"][i] == recorded.episodes.length.sum()
            assert agent["q"]["seeds"][i] == pytest.approx(recorded.values.q[..., n][counts].mean(), rel=1e-4)
            assert agent["credit"]["seeds"][i] == pytest.approx(recorded.values.credit[..., n][counts].mean(), rel=1e-4)
            assert sum(agent["action_shares"]["seeds"][i]) == pytest.approx(1)
    assert agents[0]["q"]["mean"] == pytest.approx(np.mean(agents[0]["q"]["seeds"]))


def test_agents_that_cannot_choose_do_not_count():
    """Two agents, two seeds: the second agent never had a choice with seed 0, nor the third with any."""
    behaviour = Behaviour(
        steps=np.array([[4, 0, 0], [2, 2, 0]]),
        q=np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]]),
        credit=None,
        actions=np.array([[[0.25, 0.75], [np.nan] * 2, [np.nan] * 2], [[0.75, 0.25], [0.0, 1.0], [np.nan] * 2]]),
    )
    first, second, third = scores.agents_to_plain(behaviour, ["a", "b", "c"])
    assert first["q"] == {"mean": 2.0, "seeds": [1.0, 3.0]} and first["action_shares"]["mean"] == [0.5, 0.5]
    assert second["q"] == {"mean": 5.0, "seeds": [None, 5.0]} and second["credit"] is None
    assert third["q"] == {"mean": None, "seeds": [None, None]} and third["steps"] == [0, 0]
    json.dumps([first, second, third], allow_nan=False)
    _, _, *lines = scores.format_agents(behaviour, ["a", "b", "c"]).splitlines()
    assert [line.split() for line in lines] == [
        ["a", "2.00", "none", "0:", "50.0%,", "1:", "50.0%"],
        ["b", "5.00", "none", "1:", "100.0%"],
        ["c", "?", "?", "could", "never", "choose"],
    ]


def test_the_table_of_agents_stands_under_the_scores(folder, capsys):
    status, out, _ = evaluate_command(capsys, folder, "--episodes", 9, "--agents")
    assert status == 0 and "agent_1" in out.splitlines()[-1] and "credit dQ_tot / dQ_i" in out


def test_the_parameters_of_a_run_can_be_closed_over(folder):
    run = load_run(folder)
    params, all_params = run.params(1)["agent"], jax.tree.map(lambda leaf: leaf[1], run.all_params)["agent"]
    closed, given = (
        jax.jit(lambda key: evaluate(run.env, run.agents, params, key, 8)),
        jax.jit(lambda agent, key: evaluate(run.env, run.agents, agent, key, 8)),
    )
    jax.tree.map(np.testing.assert_array_equal, closed(jax.random.key(3)), given(all_params, jax.random.key(3)))


def test_the_scores_are_those_of_each_seeds_own_episodes(folder, capsys):
    run = load_run(folder)
    _, out, _ = evaluate_command(capsys, folder, "--episodes", 9, "--seed", 4, "--json")
    expected = [
        ParallelEvaluator(run.env, run.agents, 9).play(run.params(i)["agent"], team_key(4, i)).length.mean()
        for i in range(SEEDS)
    ]
    assert json.loads(out)["scores"]["length"]["seeds"] == pytest.approx(expected)


WRONG = [
    ("", "RUN"),
    ("nowhere", "there is no folder nowhere"),
    (".", "no run's folder"),
    ("RUN/config.yaml", "config.yaml is a file, not a folder"),
    ("RUN --checkpoint 12345", "no checkpoint '12345'"),
    ("RUN --episodes 0", "1 or more"),
    ("RUN --episodes 1.5", "whole number"),
    ("RUN --episodes 1e30", "2^31 - 1 at most"),
    ("RUN --seed 4294967296", "2^31 - 1 at most"),
    ("RUN --noise much", "numbers with commas"),
    ("RUN --noise -1", "0 or more"),
    ("RUN --replace 0.5,2", "between 0 and 1"),
    ("RUN --remove agent_7", "did you mean 'agent_"),
    ("RUN --remove --removed idle", "no action does nothing in probe"),
    ("RUN --removed random", "needs --remove"),
    ("RUN --map 3m", "has no maps"),
    ("RUN --json no/such.json", "no folder no"),
    ("RUN --mapp 3m", "--mapp"),
]


@pytest.mark.parametrize(("line", "says"), WRONG, ids=[line for line, _ in WRONG])
def test_mistakes_are_one_line(folder, capsys, tmp_path, monkeypatch, line, says):
    monkeypatch.chdir(tmp_path)
    arguments = [word.replace("RUN", str(folder)) for word in line.split()]
    status, out, err = evaluate_command(capsys, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("qmix-jax: error: ") and says in err


def test_a_run_of_another_version_is_named(folder, capsys, tmp_path):
    settings = (folder / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(settings + "colour: blue\n")
    status, _, err = evaluate_command(capsys, tmp_path)
    assert status == 2 and "another version" in err and "'colour'" in err and err.count("\n") == 1
    (tmp_path / "config.yaml").write_text(settings.replace("hidden_size: 8", "hidden_size: 9"))
    (tmp_path / "checkpoints").symlink_to(folder / "checkpoints")
    status, _, err = evaluate_command(capsys, tmp_path)
    assert status == 2 and "other parameters" in err and err.count("\n") == 1


@pytest.mark.parametrize(("group", "here"), [("env", "probe"), ("algorithm", "qmix")])
def test_a_mixer_or_environment_from_elsewhere_is_named_as_such(folder, capsys, tmp_path, group, here):
    settings = (folder / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(settings.replace(f"name: {here}", "name: hinge"))
    status, _, err = evaluate_command(capsys, tmp_path)
    assert status == 2 and err.count("\n") == 1
    assert f"trained with {group}=hinge, which this installation does not know" in err and "version" not in err


def test_help_teaches(capsys):
    assert cli.main(["evaluate", "--help"]) == 0
    text = capsys.readouterr().out
    assert "examples" in text and "--replace" in text and max(map(len, text.splitlines())) <= 120


@pytest.mark.slow
def test_3m_from_the_command_line(tmp_path):
    settings = {"env": {"name": "smax", "map": "3m"}, "algorithm": {"name": "qmix"}, "agent": {"hidden_size": 8},
                "rollout": {"num_envs": 4}, "devices": 1}  # fmt: skip
    run = untrained_run(tmp_path / "3m", settings)
    line = [sys.executable, "-m", "qmix_jax", "evaluate", str(run), "--episodes", "10", "--remove", "each", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    rows = document["tables"]["removed_agent"]
    assert [row["severity"] for row in rows] == ["none", "ally_0", "ally_1", "ally_2"]
    assert document["tested_on"] == "SMAX 3m"

"""The experiment on games with known answers: its tables, its results, and that it trains only once."""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_params
from pictures import colourful, pixels

from qmix_jax.build import from_mapping, make_env, make_team
from qmix_jax.cli.compose import compose
from qmix_jax.learning.trainer import Trainer
from qmix_jax.run.trained import TrainedRun
from qmix_jax.types import AgentInput

FOLDER = Path(__file__).parents[1] / "experiments" / "games"


@pytest.fixture
def load(monkeypatch):
    """Imports a module of the experiment."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


def untrained(line):
    config = from_mapping(compose([*line.split(), "num_seeds=2"]))
    env = make_team(config)
    init = jax.vmap(Trainer(config, env).learner.init)
    shapes = jax.eval_shape(init, jax.random.split(jax.random.key(0), 2)).params
    return TrainedRun(config, env, random_params(0, shapes))


def q_by_unrolling(run, seed, obs, actions):
    """(T, N, A) of an episode without the experiment's code."""
    none = jnp.full((1, 1, 2), run.env.spec.num_actions)
    inputs = AgentInput(obs[:, None], jnp.concatenate([none, actions[:, None]]), jnp.arange(len(obs))[:, None] == 0)
    return run.agents.unroll(run.params(seed)["agent"], run.agents.initial_state(1), inputs)[1].q[:, 0]


def test_tables_of_an_additive_mixer_are_sums_of_what_the_agents_think_of_unscaled_rewards(load):
    run = untrained("env=two_step algorithm=vdn learner.reward_scale=0.5")
    first, table_2b = load("tables").q_tables(run, [(), ((1, 0),)])
    one_hot = jax.nn.one_hot(jnp.array([0, 2]), 4)  # the start, then state 2B
    obs, actions = jnp.repeat(one_hot[:, None], 2, axis=1), jnp.array([[1, 0]])
    q = np.mean([q_by_unrolling(run, seed, obs, actions) for seed in (0, 1)], axis=0)
    np.testing.assert_allclose(first, 2 * (q[0, 0][:, None] + q[0, 1]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(table_2b, 2 * (q[1, 0][:, None] + q[1, 1]), rtol=1e-5, atol=1e-6)


def test_tables_of_a_monotonic_mixer_are_largest_where_both_agents_are_greedy(load):
    run = untrained("env=climbing algorithm=qmix")
    tables = load("tables")
    for seed in (0, 1):
        table = tables.q_table(run, run.params(seed), ())
        q = q_by_unrolling(run, seed, jnp.ones((1, 2, 1)), jnp.zeros((0, 2), int))[0]
        assert np.unravel_index(table.argmax(), table.shape) == tuple(q.argmax(-1).tolist())


def test_tables_of_the_joint_learner_have_an_axis_for_each_agent(load):
    run = untrained("env=two_step algorithm=joint")
    first, table_2b = load("tables").q_tables(run, [(), ((1, 0),)])
    none = run.env.spec.num_actions
    obs = jnp.stack([jnp.tile(jax.nn.one_hot(state, 4), 3) for state in (0, 2)])  # both agents' and the state
    inputs = AgentInput(obs[:, None, None], jnp.array([none, 2])[:, None, None], jnp.array([True, False])[:, None])

    def q(seed):
        return run.agents.unroll(run.params(seed)["agent"], run.agents.initial_state(1), inputs)[1].q[:, 0, 0]

    expected = np.mean([q(0), q(1)], axis=0).reshape(2, 2, 2)
    np.testing.assert_allclose([first, table_2b], expected, rtol=1e-5, atol=1e-6)


def test_the_known_best_is_the_largest_payoff_of_each_one_step_game(load):
    games = load("run").GAMES
    assert len(games) == 15
    for game in games.values():
        env = make_env(from_mapping(compose(game.overrides.split())).env)
        if game.paths == ((),):
            assert game.best == pytest.approx(float(env.payoff.max()))


@pytest.mark.slow
def test_one_command_trains_once_and_writes_table_and_figure(load, tmp_path, monkeypatch, capsys):
    script = load("run")
    where = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]
    line = ["run.py", "--games", "climbing", "--algorithms", "vdn", "iql", "--seeds", "2", *where]
    monkeypatch.setattr("sys.argv", [*line, "total_env_steps=320", "logging.display=none"])
    assert script.main() == 0
    assert capsys.readouterr().out.count("qmix-jax train") == 2
    assert script.main() == 0
    assert "qmix-jax train" not in capsys.readouterr().out
    text = (tmp_path / "results.md").read_text()
    assert text.count("| climbing | 11 | vdn | 2 | 320 |") == 1 and text.count("| climbing | vdn | [[") == 1
    assert "| climbing | 11 | iql | 2 | 320 |" in text and "| climbing | iql |" not in text
    figure = pixels(tmp_path / "games.png")
    assert figure.shape == (660, 1320, 3) and colourful(figure) > 0.3, "a cell for each algorithm"

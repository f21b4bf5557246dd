"""Only legal actions, each as likely as it should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import best_legal, masks, strange_values

from qmix_jax.actions import NO_ACTION, epsilon_greedy, greedy, legal_values, random_action, together
from qmix_jax.config import ExplorationConfig
from qmix_jax.learning.exploration import epsilon_at, team_actions
from qmix_jax.mixers.base import mixer_input
from qmix_jax.types import Observation

LOWEST = np.finfo(np.float32).min

AVAILABLE = jnp.array([[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1]], bool)


def test_greedy_takes_the_best_legal_action_and_never_another():
    q = jnp.array([[1.0, 9.0, 3.0, 2.0], [9.0, 9.0, -9.0, 9.0], [-1.0, -2.0, -3.0, -0.5]])
    np.testing.assert_array_equal(greedy(q, AVAILABLE), [2, 2, 3])


def test_greedy_is_the_best_legal_action_of_whatever_values():
    q, available = strange_values(200, 1, 4).repeat(15, axis=1), jnp.broadcast_to(masks(4), (200, 15, 4))
    expected = [
        [best_legal(*pair) for pair in zip(*row, strict=True)] for row in zip(q, np.asarray(available), strict=True)
    ]
    explore = jax.random.uniform(jax.random.key(0), (2, 200, 15))
    np.testing.assert_array_equal(jax.jit(greedy)(jnp.asarray(q), available), expected)
    np.testing.assert_array_equal(jax.jit(epsilon_greedy)(explore, jnp.asarray(q), available, jnp.array(0.0)), expected)
    best = np.take_along_axis(q, np.array(expected)[..., None], -1)[..., 0]
    values = jnp.max(legal_values(jnp.asarray(q), available), axis=-1)
    np.testing.assert_array_equal(values, np.where(best > LOWEST, best, LOWEST))


@pytest.mark.parametrize("nothing", [np.nan, -np.inf])
def test_where_no_legal_value_is_a_number_the_first_legal_action_is_taken(nothing):
    q = jnp.where(AVAILABLE, nothing, 9.0)
    np.testing.assert_array_equal(greedy(q, AVAILABLE), AVAILABLE.argmax(-1))
    seen = Observation(agents=jnp.zeros((3, 1)), available=AVAILABLE, state=None)
    joint = mixer_input(q, jnp.zeros((3, 1)), jnp.zeros(3, int), greedy(q, AVAILABLE), seen)
    np.testing.assert_array_equal(joint.greedy_q, np.full(3, LOWEST))


def test_subnormal_values_never_make_an_illegal_action_the_choice():
    q = np.array([[0, 1e-45, 0], [-1e-45, 0, 1e-40], [-1e-40, -1e-45, -0.0]], np.float32)
    q, available = jnp.asarray(q[:, None].repeat(7, axis=1)), jnp.broadcast_to(masks(3), (3, 7, 3))
    assert np.take_along_axis(available, np.asarray(greedy(q, available))[..., None], -1).all()


def test_random_actions_are_legal_and_equally_likely():
    uniform = jax.random.uniform(jax.random.key(0), (30_000, 3))
    action = random_action(uniform, jnp.broadcast_to(AVAILABLE, (30_000, 3, 4)))
    share = jnp.stack([(action == a).mean(0) for a in range(4)], -1)
    np.testing.assert_allclose(share, AVAILABLE / AVAILABLE.sum(-1, keepdims=True), atol=0.02)


@pytest.mark.parametrize("uniform", [0.0, 0.999999])
def test_random_actions_are_legal_at_the_edges_of_the_uniform(uniform):
    action = random_action(jnp.full(3, uniform), AVAILABLE)
    assert AVAILABLE[jnp.arange(3), action].all()


def test_epsilon_is_the_share_of_random_choices():
    uniform = jax.random.uniform(jax.random.key(1), (2, 40_000, 3))
    q = jnp.broadcast_to(jnp.array([0.0, 5.0, 1.0, 0.0]), (40_000, 3, 4))
    available = jnp.ones((40_000, 3, 4), bool)
    action = epsilon_greedy(uniform, q, available, jnp.array(0.2))
    np.testing.assert_allclose((action == 1).mean(0), 0.8 + 0.2 / 4, atol=0.01)


def test_epsilon_falls_linearly_in_environment_steps_and_stays():
    config = ExplorationConfig(start=1.0, finish=0.1, decay_env_steps=100)
    steps = jnp.array([0, 50, 100, 101, 10_000])
    np.testing.assert_allclose(epsilon_at(config, steps), [1.0, 0.55, 0.1, 0.1, 0.1], rtol=1e-5)


# --- actions of a whole team -------------------------------------------------------------------------------------


def test_a_teams_action_is_taken_by_those_to_whom_it_is_legal():
    own = jnp.array([[0, 2, 3], [0, 2, 3], [0, 2, 3]])
    taken = together(own, jnp.array([2, 0, NO_ACTION]), jnp.broadcast_to(AVAILABLE, (3, 3, 4)))
    np.testing.assert_array_equal(taken, [[2, 2, 2], [0, 2, 0], [0, 2, 3]])


STEPS, ENVS, ACTIONS = 600, 200, 4


def drawn(**settings):
    """(T, B), as NumPy."""
    return np.asarray(team_actions(jax.random.key(0), ExplorationConfig(**settings), STEPS, ENVS, ACTIONS))


@pytest.mark.parametrize("team_steps", [1, 5])
def test_a_team_explores_in_team_epsilon_of_the_steps_from_the_first_on_every_action_alike(team_steps):
    actions = drawn(team_epsilon=0.3, team_steps=team_steps)
    for steps, tolerance in ((actions, 0.01), (actions[:1], 0.1)):
        share = [(steps == action).mean() for action in (NO_ACTION, *range(ACTIONS))]
        np.testing.assert_allclose(share, [0.7, *[0.3 / ACTIONS] * ACTIONS], atol=tolerance)


def test_a_team_tries_only_the_actions_that_are_named():
    assert set(np.unique(drawn(team_epsilon=0.5, team_actions=(1, 3)))) == {NO_ACTION, 1, 3}


@pytest.mark.parametrize("team_steps", [1, 5])
def test_a_team_keeps_to_its_action_for_team_steps_in_the_mean(team_steps):
    """A step decides with probability 1 / team_steps, then for another action with (ACTIONS - 1) / ACTIONS."""
    actions = drawn(team_epsilon=1.0, team_steps=team_steps)
    changes = (actions[1:] != actions[:-1]).mean()
    assert changes == pytest.approx((ACTIONS - 1) / ACTIONS / team_steps, rel=0.03)


def test_teams_decide_each_for_itself():
    actions = drawn(team_epsilon=1.0, team_steps=2)
    assert (actions[:, 0] == actions[:, 1]).mean() == pytest.approx(1 / ACTIONS, abs=0.1)

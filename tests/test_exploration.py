"""Only legal actions, each as likely as it should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax.config import ExplorationConfig
from qmix_jax.exploration import epsilon_at, epsilon_greedy, greedy, random_action

AVAILABLE = jnp.array([[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1]], bool)


def test_greedy_takes_the_best_legal_action_and_never_another():
    q = jnp.array([[1.0, 9.0, 3.0, 2.0], [9.0, 9.0, -9.0, 9.0], [-1.0, -2.0, -3.0, -0.5]])
    np.testing.assert_array_equal(greedy(q, AVAILABLE), [2, 2, 3])


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

"""Lambda targets, against loops over one sequence at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax.learning.targets import bootstrap_cuts, first_episode, lambda_targets

T, B = 7, 64
GAMMA = 0.9


@pytest.fixture(scope="module")
def sequences():
    random = np.random.default_rng(0)
    ended = random.random((T, B)) < 0.35
    truncated = ended & (random.random((T, B)) < 0.5)
    arrays = {
        "reward": random.normal(size=(T, B)).astype(np.float32),
        "terminated": ended & ~truncated,
        "truncated": truncated,
        "next_value": random.normal(size=(T, B)).astype(np.float32),
    }
    return jax.tree.map(jnp.asarray, arrays)


def loop_target(t, b, s, td_lambda):
    """The target of one step, by the definition: a mixture over n-step returns within the episode's known part."""
    r, terminated, v = s["reward"][t, b], s["terminated"][t, b], s["next_value"][t, b]
    if terminated:
        return r
    is_last_known = t == T - 1 or (s["truncated"][t + 1, b] and t + 1 < T - 1)
    if is_last_known:
        return r + GAMMA * v
    return r + GAMMA * ((1 - td_lambda) * v + td_lambda * loop_target(t + 1, b, s, td_lambda))


@pytest.mark.parametrize("td_lambda", [0.0, 0.6, 1.0])
def test_targets_equal_a_loop_over_steps(sequences, td_lambda):
    s = sequences
    cut, dropped = bootstrap_cuts(s["truncated"])
    got = np.asarray(lambda_targets(s["reward"], s["terminated"], cut, s["next_value"], GAMMA, td_lambda))
    plain = jax.tree.map(np.asarray, s)
    expected = np.array([[loop_target(t, b, plain, td_lambda) for b in range(B)] for t in range(T)])
    np.testing.assert_allclose(got[~dropped], expected[~dropped], atol=1e-5)


def test_a_termination_ends_the_return_at_its_own_step_and_at_no_other():
    reward = jnp.arange(1.0, 6.0, dtype=float)[:, None]
    terminated = jnp.array([0, 0, 1, 0, 0], bool)[:, None]
    nothing = jnp.zeros_like(terminated)
    next_value = jnp.full((5, 1), 100.0)
    got = lambda_targets(reward, terminated, nothing, next_value, 1.0, 1.0)[:, 0]
    np.testing.assert_allclose(got, [1 + 2 + 3, 2 + 3, 3, 4 + 5 + 100, 5 + 100])


def test_a_truncated_step_drops_out_and_the_step_before_bootstraps():
    reward = jnp.arange(1.0, 6.0, dtype=float)[:, None]
    truncated = jnp.array([0, 0, 1, 0, 0], bool)[:, None]
    cut, dropped = bootstrap_cuts(truncated)
    np.testing.assert_array_equal(dropped[:, 0], [0, 0, 1, 0, 0])
    got = lambda_targets(reward, jnp.zeros_like(truncated), cut, jnp.full((5, 1), 100.0), 1.0, 1.0)[:, 0]
    np.testing.assert_allclose(np.delete(got, 2), [1 + 2 + 100, 2 + 100, 4 + 5 + 100, 5 + 100])


def test_a_step_truncated_at_the_sequences_end_bootstraps_from_its_true_successor():
    truncated = jnp.array([0, 0, 1], bool)[:, None]
    cut, dropped = bootstrap_cuts(truncated)
    assert not dropped.any() and not cut.any()


def test_whole_episodes_count_up_to_and_including_their_first_end():
    ended = jnp.array([[0, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]], bool).T
    expected = jnp.array([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0]], bool).T
    np.testing.assert_array_equal(first_episode(ended), expected)

"""Agents from elsewhere, whose recurrent state is not a single array, train like the package's own."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny

from qmix_jax.agents.base import Agents
from qmix_jax.config import AgentConfig
from qmix_jax.learning.trainer import Trainer
from qmix_jax.types import AgentOutput, Clock

pytestmark = pytest.mark.slow
SIZE, ITERATIONS = 6, 6


class LSTMAgents(Agents):
    """A linear layer, an LSTM, a linear layer; the recurrent state is (cell, hidden)."""

    def __init__(self, env):
        self.spec = env.spec

    def init(self, key):
        keys = jax.random.split(key)
        gates = jax.random.normal(keys[0], (self.spec.obs_size + SIZE, 4 * SIZE)) / 3
        return {"gates": gates, "q": jax.random.normal(keys[1], (SIZE, self.spec.num_actions)) / 3}

    def initial_state(self, num_envs):
        zeros = jnp.zeros((num_envs, self.spec.num_agents, SIZE))
        return zeros, zeros

    def step(self, params, state, inputs):
        cell, hidden = (jnp.where(inputs.first[:, None, None], 0.0, part) for part in state)
        gates = jnp.concatenate([inputs.obs, hidden], axis=-1) @ params["gates"]
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
        return (cell, hidden), AgentOutput(q=hidden @ params["q"], features=hidden)


@pytest.fixture(scope="module")
def states(probe):
    """A seed's state after every iteration of weighted QMIX, which is QMIX with a second recurrent network for Q*."""
    config = tiny(algorithm={"name": "ow_qmix"}, learner={"burn_in": 2})
    trainer = Trainer(replace(config, agent=AgentConfig("lstm", LSTMAgents.Settings(), given=LSTMAgents)), probe)
    step, states = jax.jit(trainer.step), [trainer.init(jnp.array(0))]
    for i in range(ITERATIONS):
        state, metrics = step(Clock(jnp.array(i)), states[-1])
        assert int(metrics.updates) == 2 * (i > 0) and all(np.isfinite(leaf) for leaf in metrics.losses)
        states.append(state)
    evaluation = jax.jit(trainer.evaluate)(Clock(jnp.array(ITERATIONS)), states[-1])
    assert int(evaluation.episodes) == config.evaluation.episodes
    return states


def test_every_parameter_learns(states):
    before, after = states[0].learner.params, states[-1].learner.params
    assert all((before["agent"][name] != leaf).any() for name, leaf in after["agent"].items())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


def test_both_parts_of_the_recurrent_state_are_stored_as_the_rollout_had_them(states):
    stored, begun = states[2].replay.hidden, states[1].rollout.hidden
    assert [part.shape for part in stored] == [(16, 2, SIZE)] * 2
    for part, before in zip(stored, begun, strict=True):
        np.testing.assert_array_equal(part[4:8], before)
        assert (before != 0).any()

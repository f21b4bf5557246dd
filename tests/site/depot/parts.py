"""A mixer, a network and a callback."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp

from qmix_jax import AgentOutput, Agents, Callback, Mixer


class Weights(Mixer):
    """The sum of the agents' values, each with a weight."""

    is_monotonic = True
    start: float = 1.0
    """The weights at first."""

    @nn.compact
    def __call__(self, joint):
        """(*batch, 1)."""
        weights = self.param("weights", nn.initializers.constant(self.start), (joint.chosen_q.shape[-1],))
        return jnp.sum(jnp.abs(weights) * joint.chosen_q, axis=-1, keepdims=True)


class Linear(Agents):
    """A linear layer, and a trace of what was seen."""

    def __init__(self, env, hidden_size: int = 8, decay: float = 0.5):
        self.spec, self.hidden_size, self.decay = env.spec, hidden_size, decay

    def init(self, key):
        into, out = jax.random.split(key)
        into = jax.random.normal(into, (self.spec.obs_size, self.hidden_size))
        return {"into": into, "out": jax.random.normal(out, (self.hidden_size, self.spec.num_actions))}

    def initial_state(self, num_envs):
        return {"trace": jnp.zeros((num_envs, self.spec.num_agents, self.hidden_size))}

    def step(self, params, state, inputs):
        trace = jnp.where(inputs.first[:, None, None], 0.0, state["trace"])
        trace = self.decay * trace + jnp.tanh(inputs.obs @ params["into"])
        return {"trace": trace}, AgentOutput(q=trace @ params["out"], features=trace)


class Notes(Callback):
    """Writes a line for each evaluation to the file notes.txt in the run's folder."""

    def on_start(self, start):
        self.file: Path = start.folder / "notes.txt"

    def on_evaluation(self, row):
        with self.file.open("a") as file:
            file.write(f"{row['env_steps']}\n")

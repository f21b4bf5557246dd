"""A trained team that acts epsilon-greedily, with the mixer's value of what it does."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qmix_jax.actions import epsilon_greedy, greedy, uniform
from qmix_jax.build import make_mixer
from qmix_jax.learning.rollout import RolloutState, init
from qmix_jax.mixers.base import credit_assignment, mixer_input
from qmix_jax.run.trained import TrainedRun
from qmix_jax.settings import require
from qmix_jax.types import RecurrentState


class Decision(NamedTuple):
    """A joint action before a step in B environments."""

    hidden: RecurrentState
    """The next recurrent state."""
    action: Int[Array, "B N"]
    greedy: Int[Array, "B N"]
    q_tot: Float[Array, "B"]
    """Of `action`."""


class Team:
    """The team of seed number `number` of a run; raises ConfigError where the run has no such seed, or no Q_tot."""

    def __init__(self, run: TrainedRun, number: int):
        count = run.config.num_seeds
        require(0 <= number < count, f"--team={number}, but the run has {count}, numbered from 0")
        require(run.config.algorithm.name != "iql", "a run of iql has no Q_tot")
        self._env, self._agents, self._params = run.env, run.agents, run.params(number)
        self._mixer = make_mixer(run.config.algorithm, run.env)

    def start(self, key: Array, episodes: int) -> RolloutState:
        """Every environment at the start of an episode."""
        return init(self._env, key, episodes, self._agents.initial_state(episodes))

    def decide(self, state: RolloutState, key: Array, epsilon: Float[Array, "B 1"] | float) -> Decision:
        """An epsilon-greedy joint action in every environment."""
        hidden, output = self._agents.step(self._params["agent"], state.hidden, state.inputs)
        available = state.observation.available
        numbers = uniform(key, (2, *available.shape[:2]))
        action = epsilon_greedy(numbers, output.q, available, jnp.asarray(epsilon))
        best = greedy(output.q, available)
        joint = mixer_input(output.q, output.features, action, best, state.observation)
        return Decision(hidden, action, best, credit_assignment(self._mixer, self._params["mixer"], joint).q_tot)

"""A shield: a rule that narrows the legal actions, in training, evaluation, films and deployment alike.

It is any pure function `(observation, state, available) -> available` (docs/shield.md has an example). Whatever it
returns, `qmix_jax.deployed_agent.narrow` makes no illegal action legal and leaves every agent a legal one, here and in
the deployed agent.
"""

from collections.abc import Mapping
from typing import Any

import jax

from qmix_jax.deployed_agent import Shield, narrow
from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.layout import Layout, layout_of
from qmix_jax.import_path import describe, load
from qmix_jax.settings import ConfigError, require
from qmix_jax.types import CompactObservation, EnvState, Observation, Outcome, global_state


def load_shield(path: str) -> Shield:
    """The function that `package.module:function` names; raises ConfigError where there is none."""
    shield = load(path, "env.shield", "function")
    require(callable(shield), f"env.shield={path}: {path.partition(':')[0]} has no function {path.partition(':')[2]}")
    return shield


class Shielded(TeamEnv):
    """An environment in which only the actions are legal that its shield leaves.

    The shield gets all agents' observations (N, O), the global state (Z,) and the legal actions (N, A).
    """

    def __init__(self, env: TeamEnv, path: str):
        self.wrapped, self._shield = env, load_shield(path)
        self.spec, self.painter = env.spec, env.painter
        try:
            jax.eval_shape(self.reset, jax.random.key(0))
        except Exception as error:  # the shield can raise anything
            raise ConfigError(f"env.shield={path} does not work on {env.spec.name}: {describe(error)}") from error

    def with_numbers(self, numbers: Mapping[str, Any]) -> "TeamEnv":
        """The same of the environment."""
        return super().with_numbers({"wrapped": self.wrapped.with_numbers(numbers)})

    def layout(self) -> Layout:
        """What observations and actions mean."""
        return layout_of(self.wrapped)

    def _narrowed(self, observation: Observation) -> Observation:
        available = narrow(self._shield, observation.agents, global_state(observation), observation.available)
        return observation._replace(available=available)

    def reset(self, key: jax.Array) -> tuple[EnvState, Observation]:
        """Start an episode."""
        state, observation = self.wrapped.reset(key)
        return state, self._narrowed(observation)

    def step(self, key: jax.Array, state: EnvState, action: jax.Array) -> tuple[EnvState, Observation, Outcome]:
        """One step."""
        state, observation, outcome = self.wrapped.step(key, state, action)
        return state, self._narrowed(observation), outcome

    def compress(self, state: EnvState, observation: Observation) -> CompactObservation:
        """What the replay buffer keeps of an observation, with the legal actions: the shield is called once, on what
        the agents saw, so that they act and learn with the same ones.
        """
        return self.wrapped.compress(state, observation), observation.available

    def decompress(self, compact: CompactObservation) -> Observation:
        """The observation of which `compress` made this."""
        own, available = compact
        return self.wrapped.decompress(own)._replace(available=available)

    def scene(self, state: EnvState) -> dict[str, Any]:
        """The environment's own."""
        return self.wrapped.scene(state)

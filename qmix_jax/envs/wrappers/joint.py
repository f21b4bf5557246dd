"""A team as one agent that chooses among the joint actions."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from qmix_jax.envs.base import TeamEnv
from qmix_jax.settings import ConfigError
from qmix_jax.types import EnvState, Observation, Outcome

MAX_JOINT_ACTIONS = 4096


class JointTeam(TeamEnv):
    """The environment with a single agent, which sees all observations and the state concatenated.

    The digits of joint action k in base A are the agents' actions, agent 0's first. It is available where all of them
    are.
    """

    def __init__(self, env: TeamEnv):
        spec = env.spec
        count = spec.num_actions**spec.num_agents
        if count > MAX_JOINT_ACTIONS:
            raise ConfigError(
                f"algorithm=joint would have {spec.num_actions}^{spec.num_agents} = {count:,} joint actions on "
                f"{spec.name}, and takes {MAX_JOINT_ACTIONS:,} at most; choose a smaller game, or algorithm=qplex"
            )
        self.wrapped, self.painter, self.sizes = env, env.painter, (spec.num_actions,) * spec.num_agents
        observation = jax.eval_shape(env.reset, jax.random.key(0))[1]
        own_state = 0 if observation.state is None else spec.state_size
        obs_size = spec.num_agents * spec.obs_size + own_state
        idle = None if spec.idle_action is None else self.number((spec.idle_action,) * spec.num_agents)
        self.spec = spec._replace(agent_names=("team",), obs_size=obs_size, num_actions=count, idle_action=idle)

    def with_numbers(self, numbers: Mapping[str, Any]) -> "TeamEnv":
        """The same of the environment."""
        return super().with_numbers({"wrapped": self.wrapped.with_numbers(numbers)})

    def reset(self, key: jax.Array) -> tuple[EnvState, Observation]:
        """Start an episode."""
        state, observation = self.wrapped.reset(key)
        return state, self._as_one(observation)

    def step(self, key: jax.Array, state: EnvState, action: Int[Array, "1"]) -> tuple[EnvState, Observation, Outcome]:
        """One step with the joint action of this number."""
        state, observation, outcome = self.wrapped.step(key, state, self.digits(action[0]))
        return state, self._as_one(observation), outcome

    def digits(self, joint_action: Int[Array, ""]) -> Int[Array, "N"]:
        """The agents' actions of a joint action."""
        return jnp.stack(jnp.unravel_index(joint_action, self.sizes))

    def number(self, actions: tuple[int, ...]) -> int:
        """The joint action of the agents' actions."""
        return int(np.ravel_multi_index(actions, self.sizes))

    def scene(self, state: EnvState) -> dict[str, Any]:
        """The team's scene."""
        return self.wrapped.scene(state)

    def _as_one(self, observation: Observation) -> Observation:
        parts = [jnp.ravel(observation.agents)] + ([] if observation.state is None else [observation.state])
        available = functools.reduce(_all_pairs, observation.available)
        return observation._replace(agents=jnp.concatenate(parts)[None], available=available[None])


def _all_pairs(first: Bool[Array, "J"], second: Bool[Array, "A"]) -> Bool[Array, "J*A"]:
    return jnp.ravel(first[:, None] & second)

"""Robots that carry parcels."""

from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from qmix_jax import Observation, Outcome, TeamEnv, TeamSpec

CARRY = jnp.array(1)  # a module that starts JAX while it is imported


class DepotState(NamedTuple):
    """The depot."""

    time: jax.Array
    parcels: jax.Array


class Depot(TeamEnv):
    """Robots carry parcels: each that carries at the same time as all others delivers one."""

    training: ClassVar = {
        "total_env_steps": 128,
        "agent": {"hidden_size": 4},
        "rollout": {"num_envs": 4, "num_steps": 4},
        "replay": {"capacity": 128},
        "learner": {"batch_size": 4, "env_steps_per_update": 16, "start_env_steps": 16},
        "target": {"every_env_steps": 32},
        "evaluation": {"every_env_steps": 64, "episodes": 8},
        "logging": {"display": "none"},
    }
    variant = "layout"
    variants = ("small", "large")

    def __init__(self, num_robots: int = 2, layout: Literal["small", "large"] = "small", bonus: float = 1.0):
        self.num_robots, self.layout_name, self.bonus = num_robots, layout, bonus
        names = tuple(f"robot_{i}" for i in range(num_robots))
        self.spec = TeamSpec(f"depot_{layout}", names, 3, 2, 1, episode_limit=4 if layout == "small" else 6)

    def reset(self, key):
        state = DepotState(jnp.array(0), jax.random.randint(key, (), 0, 3))
        return state, self._see(state)

    def step(self, key, state, action):
        carried = jnp.all(action == CARRY)
        state = DepotState(state.time + 1, state.parcels + carried)
        metrics = {"deliveries": carried.astype(float)}
        is_late = state.time >= self.spec.episode_limit
        return state, self._see(state), Outcome(self.bonus * carried, jnp.array(False), is_late, metrics)

    def _see(self, state):
        seen = jnp.array([state.time, state.parcels, 1.0])
        n = self.num_robots
        return Observation(jnp.tile(seen, (n, 1)), jnp.ones((n, 2), bool), seen[:1])

"""Greedy episodes under a disturbance: noise in observations, random actions, or an agent removed.

Every severity is an argument of one compiled program; at severity 0 it plays exactly the undisturbed episodes.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from qmix_jax.actions import random_action
from qmix_jax.agents.base import Agents
from qmix_jax.envs.base import TeamEnv
from qmix_jax.learning.evaluate import Episodes, Keys, episode_keys, greedy_policy, play_episodes
from qmix_jax.learning.rollout import Policy
from qmix_jax.types import Params

BATCH = 1024
"""The most episodes played side by side."""


class Disturbance(NamedTuple):
    """What is disturbed, and how much."""

    noise: Float[Array, ""]
    """Standard deviation of the normal noise added to every number of every observation."""
    replaced: Float[Array, ""]
    """The share of actions replaced by random legal ones."""
    removed: Bool[Array, "N"]
    """The agents that take no part: they idle, or act at random where no action is idle or a shield forbids it."""


def undisturbed(num_agents: int) -> Disturbance:
    """No disturbance."""
    return Disturbance(jnp.zeros(()), jnp.zeros(()), jnp.zeros(num_agents, bool))


def disturbed(policy: Policy, disturbance: Disturbance, idle_action: int | None) -> Policy:
    """The policy under a disturbance; it gets B random keys at every step.

    Removed agents take `idle_action`, or a random legal action where it is None or not legal.
    """

    def act(state, inputs, available, keys):
        noise_keys, replacement_keys, removal_keys = jnp.moveaxis(_split(keys, 3), 1, 0)
        noise = _draw(jax.random.normal, noise_keys, inputs.obs.shape[1:])
        inputs = inputs._replace(obs=inputs.obs + disturbance.noise * noise)
        state, action = policy(state, inputs, available, None)
        action = replace_actions(replacement_keys, action, available, disturbance.replaced)
        return state, remove_agents(removal_keys, action, available, disturbance.removed, idle_action)

    return act


def replace_actions(
    keys: Keys, action: Int[Array, "B N"], available: Bool[Array, "B N A"], share: Float[Array, ""]
) -> Int[Array, "B N"]:
    """Each agent's action, replaced by a random legal one with probability `share`."""
    uniform = _draw(jax.random.uniform, keys, (2, action.shape[1]))
    return jnp.where(uniform[:, 0] < share, random_action(uniform[:, 1], available), action)


def remove_agents(
    keys: Keys,
    action: Int[Array, "B N"],
    available: Bool[Array, "B N A"],
    removed: Bool[Array, "N"],
    idle_action: int | None,
) -> Int[Array, "B N"]:
    """The actions, with those of removed agents replaced by `idle_action`, or by random legal ones where it is None or
    a shield forbids it.
    """
    other = random_action(_draw(jax.random.uniform, keys, action.shape[1:]), available)
    if idle_action is not None:
        other = jnp.where(available[..., idle_action], idle_action, other)
    return jnp.where(removed, other, action)


def _split(keys: Keys, number: int) -> Keys:
    """(B,) keys to (B, number)."""
    return jax.vmap(lambda key: jax.random.split(key, number))(keys)


def _draw(distribution: Any, keys: Keys, shape: tuple[int, ...]) -> Array:
    """(B, *shape) random numbers, each episode's from its own key."""
    return jax.vmap(lambda key: distribution(key, shape))(keys)


class Plan(NamedTuple):
    """How `episodes` are divided: equal batches, so that one program plays them all."""

    batches: int
    size: int
    """Episodes of a batch; a multiple of the devices. Surplus episodes of the last batch are not counted."""


def plan(episodes: int, devices: int, largest: int) -> Plan:
    """The fewest equal batches of at most `largest` episodes (or one episode a device)."""
    batches = math.ceil(episodes / largest)
    return Plan(batches, math.ceil(episodes / batches / devices) * devices)


@dataclass(frozen=True)
class ParallelEvaluator:
    """Plays exactly `episodes` episodes of a team, over all devices.

    `idle_action` is what removed agents do (None: random legal actions). With `is_disturbed` the program takes a
    disturbance; without it is the plain greedy evaluation, and faster.
    """

    env: TeamEnv
    agents: Agents
    episodes: int
    is_disturbed: bool = False
    idle_action: int | None = None
    largest: int = BATCH

    @cached_property
    def plan(self) -> Plan:
        """The batches."""
        return plan(self.episodes, jax.device_count(), self.largest)

    @cached_property
    def _program(self) -> Any:
        mesh = Mesh(np.array(jax.devices()), ("data",))
        shares = jax.shard_map(
            self._play, mesh=mesh, in_specs=(P(), P(), P("data")), out_specs=P("data"), check_vma=False
        )

        def play(params: Params, disturbance: Disturbance, key: jax.Array, start: Int[Array, ""]) -> Episodes:
            return shares(params, disturbance, episode_keys(key, self.plan.size, start))

        return jax.jit(play)

    def _play(self, params: Params, disturbance: Disturbance, keys: Keys) -> Episodes:
        policy = greedy_policy(self.agents, params)
        if self.is_disturbed:
            policy = disturbed(policy, disturbance, self.idle_action)
        return play_episodes(self.env, self.agents, policy, keys)

    def play(
        self, params: Params, key: jax.Array, disturbance: Disturbance | None = None, on_batch: Any = None
    ) -> Episodes:
        """The episodes (NumPy arrays of length `episodes`); `on_batch(count)` is called after each batch."""
        disturbance = disturbance or undisturbed(self.env.spec.num_agents)
        batches = []
        for batch in range(self.plan.batches):
            start = jnp.array(batch * self.plan.size)
            batches.append(jax.device_get(self._program(params, disturbance, key, start)))
            if on_batch:
                on_batch(min(self.plan.size, self.episodes - batch * self.plan.size))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: self.episodes], *batches)

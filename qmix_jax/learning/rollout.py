"""Plays a policy in many environments at once. Knows a policy, not parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from qmix_jax.envs.base import TeamEnv, metric_names
from qmix_jax.types import (
    AgentInput,
    CompactObservation,
    EnvState,
    Observation,
    Outcome,
    RecurrentState,
    Sequence,
    action_dtype,
    tree_where,
)

CONTINUES, TERMINATED, TRUNCATED = range(3)

Policy = Callable[[RecurrentState, AgentInput, Array, Any], tuple[RecurrentState, Array]]
"""(recurrent state, inputs, available (B, N, A), slice of `per_step`) -> (next state, action (B, N))."""


class RolloutState(NamedTuple):
    """The environments between two steps; every leaf leads with B."""

    env_state: EnvState
    observation: Observation
    first: Bool[Array, "B"]
    last_action: Int[Array, "B N"]
    hidden: RecurrentState
    episode_return: Float[Array, "B"]
    episode_length: Int[Array, "B"]
    episode_metrics: dict[str, Float[Array, "B"]]
    """Sums over the current episode of the environment's metrics."""

    @property
    def inputs(self) -> AgentInput:
        """What the agents get before the next step."""
        return AgentInput(self.observation.agents, self.last_action, self.first)


class EpisodeSums(NamedTuple):
    """Sums over the episodes that finished."""

    episodes: Float[Array, ""]
    total_return: Float[Array, ""]
    total_length: Float[Array, ""]
    metrics: dict[str, Float[Array, ""]]


class Steps(NamedTuple):
    """What a rollout records, step by step (T, B, ...), and nothing that can be computed from it: on an accelerator
    every array costs an operation a step.
    """

    observation: CompactObservation
    action: Array
    reward: Array
    end: Array
    """CONTINUES, TERMINATED or TRUNCATED."""


def begin(env: TeamEnv, env_state: EnvState, observation: Observation, hidden: RecurrentState) -> RolloutState:
    """Every environment at the start of an episode, from its reset."""
    num_envs, num_agents, _ = observation.agents.shape
    zeros = jnp.zeros(num_envs)
    return RolloutState(
        env_state=env_state,
        observation=observation,
        first=jnp.ones(num_envs, bool),
        last_action=jnp.full((num_envs, num_agents), env.spec.num_actions, action_dtype(env.spec)),
        hidden=hidden,
        episode_return=zeros,
        episode_length=jnp.zeros(num_envs, int),
        episode_metrics=dict.fromkeys(metric_names(env), zeros),
    )


def init(env: TeamEnv, key: jax.Array, num_envs: int, hidden: RecurrentState) -> RolloutState:
    """Fresh episodes, with the agents' recurrent state before them."""
    return begin(env, *_reset_many(env, key, num_envs), hidden)


def _reset_many(env: TeamEnv, key: jax.Array, num_envs: int) -> tuple[EnvState, Observation]:
    return jax.vmap(env.reset)(jax.random.split(key, num_envs))


def advance(
    env: TeamEnv, keys: jax.Array, state: RolloutState, hidden: RecurrentState, action: Int[Array, "B N"]
) -> tuple[RolloutState, Outcome]:
    """One step in every environment, also past the end of an episode; `hidden` is the next recurrent state."""
    env_state, observation, outcome = jax.vmap(env.step)(keys, state.env_state, action)
    after = RolloutState(
        env_state=env_state,
        observation=observation,
        first=jnp.zeros_like(state.first),
        last_action=action.astype(state.last_action.dtype),
        hidden=hidden,
        episode_return=state.episode_return + outcome.reward,
        episode_length=state.episode_length + 1,
        episode_metrics=jax.tree.map(jnp.add, state.episode_metrics, outcome.metrics),
    )
    return after, outcome


def _restart(state: RolloutState, ended: Bool[Array, "B"], fresh: tuple[EnvState, Observation]) -> RolloutState:
    """A fresh episode in every environment whose episode ended."""
    env_state, observation = tree_where(ended, fresh, (state.env_state, state.observation))
    return state._replace(
        env_state=env_state,
        observation=observation,
        first=ended,
        episode_return=jnp.where(ended, 0.0, state.episode_return),
        episode_length=jnp.where(ended, 0, state.episode_length),
        episode_metrics=jax.tree.map(lambda total: jnp.where(ended, 0.0, total), state.episode_metrics),
    )


def fresh_episodes_needed(shortest_episode: int, num_steps: int) -> int:
    """The most episodes that can end in one environment within `num_steps` steps, each of `shortest_episode` steps or
    more: the first one may end at once.
    """
    return 1 + (num_steps - 1) // shortest_episode


def rollout(
    env: TeamEnv,
    policy: Policy,
    key: jax.Array,
    state: RolloutState,
    per_step: Any,
    fresh_episodes: int,
    whole_episodes: bool = False,
) -> tuple[RolloutState, Sequence, EpisodeSums]:
    """Take T steps in each environment, restarting those whose episode ends.

    Args:
        env: the environment.
        policy: chooses the actions.
        key: random key for the environments.
        state: the environments before the first step.
        per_step: a pytree (T, ...) whose slice t the policy gets at step t; it sets T.
        fresh_episodes: how many are prepared for each environment, all before the first step (a reset at every step
            would cost more than it gains). An environment in which more episodes end within the rollout takes its first
            fresh episode again; with `fresh_episodes_needed` none does.
        whole_episodes: count only the first episode that ends in each environment.

    Returns:
        The new state, the sequences (time first), and the sums over the episodes that ended.
    """
    num_steps, num_envs = jax.tree.leaves(per_step)[0].shape[0], state.first.shape[0]
    fresh_key, step_key = jax.random.split(key)
    fresh = _reset_many(env, fresh_key, fresh_episodes * num_envs)
    fresh = jax.tree.map(lambda leaf: leaf.reshape(fresh_episodes, num_envs, *leaf.shape[1:]), fresh)
    compress = jax.vmap(env.compress)

    def step(carry, inputs):
        state, _, ends, sums = carry
        keys, per_step_t = inputs
        hidden, action = policy(state.hidden, state.inputs, state.observation.available, per_step_t)
        after, outcome = advance(env, keys, state, hidden, action)
        end = jnp.where(outcome.terminated, TERMINATED, jnp.where(outcome.truncated, TRUNCATED, CONTINUES))
        observation = compress(state.env_state, state.observation)
        steps = Steps(observation, after.last_action, outcome.reward, end.astype(jnp.int8))
        ended = end != CONTINUES
        counts = ended & (ends == 0) if whole_episodes else ended
        added = episode_sums(counts, after.episode_return, after.episode_length, after.episode_metrics)
        last = compress(after.env_state, after.observation)
        start = jax.tree.map(lambda leaf: leaf[ends % fresh_episodes, jnp.arange(num_envs)], fresh)
        return (_restart(after, ended, start), last, ends + ended, jax.tree.map(jnp.add, sums, added)), steps

    last = compress(state.env_state, state.observation)
    zeros = jnp.zeros(num_envs)
    nothing = EpisodeSums(zeros, zeros, zeros, dict.fromkeys(state.episode_metrics, zeros))
    keys = jax.random.split(step_key, (num_steps, num_envs))
    carry = (state, last, jnp.zeros(num_envs, int), nothing)
    (after, last, _, sums), steps = lax.scan(step, carry, (keys, per_step))
    return after, _sequence(state, steps, last), jax.tree.map(jnp.sum, sums)


def _sequence(before: RolloutState, steps: Steps, last: CompactObservation) -> Sequence:
    """The sequences (T, B, ...) of a rollout from the state before it; `last` is the observation after it."""
    return Sequence(
        observation=jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), steps.observation, last),
        action=steps.action,
        reward=steps.reward,
        first=jnp.concatenate([before.first[None], steps.end[:-1] != CONTINUES]),
        terminated=steps.end == TERMINATED,
        truncated=steps.end == TRUNCATED,
        last_action=before.last_action,
        hidden=before.hidden,
    )


def episode_sums(
    counts: Bool[Array, "B"], total: Float[Array, "B"], length: Int[Array, "B"], metrics: dict[str, Float[Array, "B"]]
) -> EpisodeSums:
    """What each environment's episode (its return, length and metrics) adds to the sums, where it counts: (B,) each."""
    counted = counts.astype(float)
    return EpisodeSums(
        episodes=counted,
        total_return=jnp.where(counts, total, 0.0),
        total_length=counted * length,
        metrics={name: jnp.where(counts, value, 0.0) for name, value in metrics.items()},
    )

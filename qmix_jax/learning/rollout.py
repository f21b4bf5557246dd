"""Plays a policy in many environments at once. Knows a policy, not parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from qmix_jax.agents.gru import AgentInput
from qmix_jax.envs.base import TeamEnv
from qmix_jax.types import CompactObservation, EnvState, Observation, Sequence, action_dtype, choose

GOES_ON, TERMINATED, TRUNCATED = range(3)

Policy = Callable[[Array, AgentInput, Array, Any], tuple[Array, Array]]
"""(hidden, inputs, available, anything given for this step) -> (next hidden, action), over B environments."""


class RolloutState(NamedTuple):
    """Where the environments stand between rollouts; every leaf leads with B."""

    env_state: EnvState
    observation: Observation
    first: Bool[Array, "B"]
    last_action: Int[Array, "B N"]
    hidden: Float[Array, "B N H"]
    episode_return: Float[Array, "B"]
    episode_length: Int[Array, "B"]


class EpisodeSums(NamedTuple):
    """Sums over the episodes that finished."""

    episodes: Float[Array, ""]
    total_return: Float[Array, ""]
    total_length: Float[Array, ""]
    wins: Float[Array, ""]


class Steps(NamedTuple):
    """What a rollout records, step by step (T, B, ...). Nothing that follows from the rest: on an accelerator every
    array costs an operation a step.
    """

    observation: CompactObservation
    action: Array
    reward: Array
    end: Array
    """GOES_ON, TERMINATED or TRUNCATED."""


def reset_many(env: TeamEnv, key: jax.Array, num_envs: int) -> tuple[EnvState, Observation]:
    """Fresh episodes."""
    return jax.vmap(env.reset)(jax.random.split(key, num_envs))


def init(env: TeamEnv, key: jax.Array, hidden: Float[Array, "B N H"]) -> RolloutState:
    """Every environment at the start of an episode."""
    num_envs, num_agents, _ = hidden.shape
    env_state, observation = reset_many(env, key, num_envs)
    return RolloutState(
        env_state=env_state,
        observation=observation,
        first=jnp.ones(num_envs, bool),
        last_action=jnp.full((num_envs, num_agents), env.spec.num_actions, action_dtype(env.spec)),
        hidden=hidden,
        episode_return=jnp.zeros(num_envs),
        episode_length=jnp.zeros(num_envs, int),
    )


def restart(env: TeamEnv, key: jax.Array, state: RolloutState) -> RolloutState:
    """Leave every episode where it stands, and begin new ones."""
    return init(env, key, jnp.zeros_like(state.hidden))


def starts_needed(shortest_episode: int, num_steps: int) -> int:
    """The most episodes that can end in one environment within `num_steps` steps, each of `shortest_episode` steps or
    more: the first one may end at once.
    """
    return 1 + (num_steps - 1) // shortest_episode


def rollout(
    env: TeamEnv,
    policy: Policy,
    key: jax.Array,
    state: RolloutState,
    given: Any,
    starts: int,
    whole_episodes: bool = False,
) -> tuple[RolloutState, Sequence, EpisodeSums]:
    """Take T steps in each environment, restarting those whose episode ends.

    Args:
        env: the environment.
        policy: what chooses the actions.
        key: random key for the environments.
        state: where they stand.
        given: a pytree (T, ...) whose slice t the policy gets at step t; it sets T.
        starts: fresh episodes prepared for each environment, all at once before the first step (a reset at every
            step would cost more than it gives). One that ends more episodes than this within the rollout begins with
            the first of its starts again; with `starts_needed` none does.
        whole_episodes: count only the first episode that ends in each environment.

    Returns:
        The new state, the sequences (time first), and the sums over the episodes that ended.
    """
    num_steps = jax.tree.leaves(given)[0].shape[0]
    num_envs = state.first.shape[0]
    start_key, step_key = jax.random.split(key)
    fresh = reset_many(env, start_key, starts * num_envs)
    fresh = jax.tree.map(lambda leaf: leaf.reshape(starts, num_envs, *leaf.shape[1:]), fresh)
    remember = jax.vmap(env.compress)

    def step(carry, inputs):
        state, _, ends, finished = carry
        keys, given_t = inputs
        agent_input = AgentInput(state.observation.agents, state.last_action, state.first)
        hidden, action = policy(state.hidden, agent_input, state.observation.available, given_t)
        env_state, successor, outcome = jax.vmap(env.step)(keys, state.env_state, action)
        end = jnp.where(outcome.terminated, TERMINATED, jnp.where(outcome.truncated, TRUNCATED, GOES_ON))
        recorded = Steps(
            observation=remember(state.env_state, state.observation),
            action=action.astype(state.last_action.dtype),
            reward=outcome.reward,
            end=end.astype(jnp.int8),
        )
        ended = end != GOES_ON
        total, length = state.episode_return + outcome.reward, state.episode_length + 1
        counts = ended & (ends == 0) if whole_episodes else ended
        finished = jax.tree.map(jnp.add, finished, episode_sums(counts, total, length, outcome.won))
        start = jax.tree.map(lambda leaf: leaf[ends % starts, jnp.arange(num_envs)], fresh)
        last = remember(env_state, successor)
        env_state, observation = choose(ended, start, (env_state, successor))
        state = RolloutState(
            env_state=env_state,
            observation=observation,
            first=ended,
            last_action=recorded.action,
            hidden=hidden,
            episode_return=jnp.where(ended, 0.0, total),
            episode_length=jnp.where(ended, 0, length),
        )
        return (state, last, ends + ended, finished), recorded

    last, zeros = remember(state.env_state, state.observation), jnp.zeros(num_envs)
    begin = (state, last, jnp.zeros(num_envs, int), EpisodeSums(zeros, zeros, zeros, zeros))
    keys = jax.random.split(step_key, (num_steps, num_envs))
    (after, last, _, finished), steps = lax.scan(step, begin, (keys, given))
    observation = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), steps.observation, last)
    sequence = Sequence(
        observation=observation,
        action=steps.action,
        reward=steps.reward,
        first=jnp.concatenate([state.first[None], steps.end[:-1] != GOES_ON]),
        terminated=steps.end == TERMINATED,
        truncated=steps.end == TRUNCATED,
        last_action=state.last_action,
        hidden=state.hidden,
    )
    return after, sequence, jax.tree.map(jnp.sum, finished)


def episode_sums(
    counts: Bool[Array, "B"], total: Float[Array, "B"], length: Int[Array, "B"], won: Bool[Array, "B"]
) -> EpisodeSums:
    """What each environment's episode (its return, length and outcome) adds to the sums, where it counts: (B,) each."""
    counted = counts.astype(float)
    return EpisodeSums(counted, jnp.where(counts, total, 0.0), counted * length, counted * won)

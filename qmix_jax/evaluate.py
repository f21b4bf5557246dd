"""Greedy episodes: exactly one an environment, so that short episodes count no more than long ones."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from qmix_jax.agents.recurrent import AgentInput, RecurrentAgents
from qmix_jax.envs.team import TeamEnv
from qmix_jax.exploration import greedy
from qmix_jax.rollout import EpisodeSums, Policy, reset_many
from qmix_jax.types import Params


def greedy_policy(agents: RecurrentAgents, params: Params) -> Policy:
    """Each agent takes its own best legal action."""

    def policy(hidden, inputs: AgentInput, available, given):
        del given
        hidden, q = agents.step(params, hidden, inputs)
        return hidden, greedy(q, available)

    return policy


class _Play(NamedTuple):
    """Where B single episodes stand."""

    env_state: Any
    observation: Any
    first: Bool[Array, "B"]
    last_action: Array
    hidden: Array
    is_over: Bool[Array, "B"]
    total: Float[Array, "B"]
    length: Array
    won: Bool[Array, "B"]


def _begin(env: TeamEnv, agents: RecurrentAgents, key: jax.Array, episodes: int) -> _Play:
    env_state, observation = reset_many(env, key, episodes)
    no = jnp.zeros(episodes, bool)
    none = jnp.full((episodes, env.spec.num_agents), env.spec.num_actions)
    hidden, zeros = agents.initial_hidden(episodes), jnp.zeros(episodes)
    return _Play(env_state, observation, ~no, none, hidden, no, zeros, jnp.zeros(episodes, int), no)


def _advance(env: TeamEnv, policy: Policy, keys: jax.Array, play: _Play) -> _Play:
    """One step everywhere, with a key (B,) each; what comes after an episode's end is not counted."""
    inputs = AgentInput(play.observation.agents, play.last_action, play.first)
    hidden, action = policy(play.hidden, inputs, play.observation.available, None)
    env_state, observation, outcome = jax.vmap(env.step)(keys, play.env_state, action)
    return _Play(
        env_state=env_state,
        observation=observation,
        first=jnp.zeros_like(play.first),
        last_action=action.astype(play.last_action.dtype),
        hidden=hidden,
        is_over=play.is_over | outcome.terminated | outcome.truncated,
        total=play.total + jnp.where(play.is_over, 0.0, outcome.reward),
        length=play.length + ~play.is_over,
        won=play.won | (outcome.won & ~play.is_over),
    )


def evaluate(env: TeamEnv, agents: RecurrentAgents, params: Params, key: jax.Array, episodes: int) -> EpisodeSums:
    """Play `episodes` greedy episodes side by side, until the last one is over."""
    policy = greedy_policy(agents, params)
    begin_key, play_key = jax.random.split(key)
    keys = jax.random.split(play_key, (env.spec.episode_limit, episodes))

    def body(carry):
        time, play = carry
        return time + 1, _advance(env, policy, keys[time], play)

    def is_going(carry):
        time, play = carry
        return (time < env.spec.episode_limit) & ~jnp.all(play.is_over)

    _, play = lax.while_loop(is_going, body, (0, _begin(env, agents, begin_key, episodes)))
    return EpisodeSums(
        episodes=jnp.sum(play.is_over, dtype=float),
        total_return=jnp.sum(jnp.where(play.is_over, play.total, 0.0)),
        total_length=jnp.sum(jnp.where(play.is_over, play.length, 0), dtype=float),
        wins=jnp.sum(play.won, dtype=float),
    )


class Record(NamedTuple):
    """Whole episodes to paint: L the episode limit, E the episodes."""

    scene: dict[str, Float[Array, "L+1 E ..."]]
    reward: Float[Array, "L E"]
    length: Array
    total: Float[Array, "E"]
    won: Bool[Array, "E"]


def record(env: TeamEnv, agents: RecurrentAgents, params: Params, key: jax.Array, episodes: int) -> Record:
    """Play greedy episodes and keep every scene."""
    policy = greedy_policy(agents, params)
    begin_key, play_key = jax.random.split(key)
    scene = jax.vmap(env.scene)

    def step(play, keys):
        after = _advance(env, policy, keys, play)
        return after, (scene(after.env_state), after.total - play.total)

    begin = _begin(env, agents, begin_key, episodes)
    play, (scenes, rewards) = lax.scan(step, begin, jax.random.split(play_key, (env.spec.episode_limit, episodes)))
    scenes = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), scene(begin.env_state), scenes)
    return Record(scenes, rewards, play.length, play.total, play.won)

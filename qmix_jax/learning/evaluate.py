"""Greedy episodes: exactly one an environment, so that short episodes count no more than long ones.

Every episode has its own random key and does not depend on the others: episode i of a key is the same for all batch
sizes and devices.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from qmix_jax.actions import greedy
from qmix_jax.agents.base import Agents
from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.scene import scene_of
from qmix_jax.learning.rollout import EpisodeSums, Policy, RolloutState, advance, begin, episode_sums
from qmix_jax.mixers.base import credit_assignment, mixer_input
from qmix_jax.types import AgentInput, Outcome, Params, RecurrentState, TeamValues, tree_where

Keys = Any
"""An array (B,) of random keys, one an episode."""


def greedy_policy(agents: Agents, params: Params) -> Policy:
    """Each agent takes its own best legal action."""

    def policy(state, inputs: AgentInput, available, per_step):
        del per_step
        state, output = agents.step(params, state, inputs)
        return state, greedy(output.q, available)

    return policy


class Episodes(NamedTuple):
    """The results of B single episodes, each counted up to its end."""

    is_over: Bool[Array, "B"]
    total: Float[Array, "B"]
    """The return."""
    length: Int[Array, "B"]
    metrics: dict[str, Float[Array, "B"]]
    """The environment's metrics, summed over each episode."""


class _Play(NamedTuple):
    """B single episodes in progress; return, length and metrics of the state do not change after an episode's end."""

    state: RolloutState
    is_over: Bool[Array, "B"]

    @property
    def episodes(self) -> Episodes:
        """Their results so far."""
        state = self.state
        return Episodes(self.is_over, state.episode_return, state.episode_length, state.episode_metrics)


def team_key(seed: int, team: int) -> jax.Array:
    """The key of the episodes that the commands play with team number `team` of a run (one for each of its seeds)."""
    return jax.random.fold_in(jax.random.key(seed), team)


def episode_keys(key: jax.Array, episodes: int, start: int | Array = 0) -> Keys:
    """The keys of so many episodes, from number `start` on."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, start + jnp.arange(episodes))


def _at(keys: Keys, time: int | Array) -> tuple[Keys, Keys]:
    """The keys of one step: the environment's and the policy's (number 0 is the reset's)."""
    return _numbered(keys, 2 * time + 1), _numbered(keys, 2 * time + 2)


def _numbered(keys: Keys, number: int | Array) -> Keys:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def _begin(env: TeamEnv, agents: Agents, keys: Keys) -> _Play:
    count = keys.shape[0]
    state = begin(env, *jax.vmap(env.reset)(_numbered(keys, 0)), agents.initial_state(count))
    return _Play(state, jnp.zeros(count, bool))


def _advance(env: TeamEnv, keys: Keys, play: _Play, hidden: RecurrentState, action: Array) -> tuple[_Play, Outcome]:
    """One step everywhere."""
    before, is_over = play
    after, outcome = advance(env, keys, before, hidden, action)
    after = after._replace(
        episode_return=jnp.where(is_over, before.episode_return, after.episode_return),
        episode_length=jnp.where(is_over, before.episode_length, after.episode_length),
        episode_metrics=tree_where(is_over, before.episode_metrics, after.episode_metrics),
    )
    return _Play(after, is_over | outcome.terminated | outcome.truncated), outcome


def play_episodes(env: TeamEnv, agents: Agents, policy: Policy, keys: Keys, fixed_length: bool = False) -> Episodes:
    """Play one episode for each key, side by side, until the last one is over.

    At every step the policy gets B keys of its own for its random choices. With `fixed_length` play continues up
    to the episode limit, which changes no result (see `Trainer.branches`).
    """

    def body(carry):
        time, play = carry
        env_keys, policy_keys = _at(keys, time)
        state = play.state
        hidden, action = policy(state.hidden, state.inputs, state.observation.available, policy_keys)
        return time + 1, _advance(env, env_keys, play, hidden, action)[0]

    start = (0, _begin(env, agents, keys))
    if fixed_length:
        return lax.fori_loop(0, env.spec.episode_limit, lambda _, carry: body(carry), start)[1].episodes
    return lax.while_loop(lambda carry: _is_going(env, *carry), body, start)[1].episodes


def _is_going(env: TeamEnv, time: int | Array, play: _Play) -> Bool[Array, ""]:
    return (time < env.spec.episode_limit) & ~jnp.all(play.is_over)


def evaluate(
    env: TeamEnv, agents: Agents, params: Params, key: jax.Array, episodes: int, fixed_length: bool = False
) -> EpisodeSums:
    """Sums over `episodes` greedy episodes, played side by side (`fixed_length`: see `play_episodes`)."""
    played = play_episodes(env, agents, greedy_policy(agents, params), episode_keys(key, episodes), fixed_length)
    return jax.tree.map(jnp.sum, episode_sums(*played))


class RecordedEpisodes(NamedTuple):
    """Whole episodes to paint: L the episode limit, E the episodes."""

    scene: dict[str, Array]
    """(L+1, E, ...) each."""
    action: Int[Array, "L E N"]
    reward: Float[Array, "L E"]
    terminated: Bool[Array, "L E"]
    values: TeamValues
    """(L, E, ...) before each step."""
    episodes: Episodes


def record(env: TeamEnv, agents: Agents, mixer: nn.Module, params: Params, keys: Keys) -> RecordedEpisodes:
    """Play greedy episodes and keep every scene, and the team's values before every step.

    With the keys of `evaluate` these are its episodes.
    """

    def scene(play):
        return jax.vmap(lambda *seen: scene_of(env, *seen))(play.state.env_state, play.state.observation)

    def step(play, time):
        after, outcome, values = _valued_step(env, agents, mixer, params, keys, play, time)
        reward = after.episodes.total - play.episodes.total
        return after, (scene(after), after.state.last_action, reward, outcome.terminated, values)

    start = _begin(env, agents, keys)
    play, (scenes, actions, rewards, terminated, values) = lax.scan(step, start, jnp.arange(env.spec.episode_limit))
    scenes = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), scene(start), scenes)
    return RecordedEpisodes(scenes, actions, rewards, terminated, values, play.episodes)


def _valued_step(
    env: TeamEnv, agents: Agents, mixer: nn.Module, params: Params, keys: Keys, play: _Play, time: int | Array
) -> tuple[_Play, Outcome, TeamValues]:
    """A greedy step everywhere, and the team's values before it."""
    state, observation = play.state, play.state.observation
    hidden, output = agents.step(params["agent"], state.hidden, state.inputs)
    action = greedy(output.q, observation.available)
    joint = mixer_input(output.q, output.features, action, action, observation)
    values = credit_assignment(mixer, params["mixer"], joint)
    return *_advance(env, _at(keys, time)[0], play, hidden, action), values


class AgentSums(NamedTuple):
    """Sums over the steps of B episodes at which an agent could choose: where more than one action was legal."""

    steps: Float[Array, "N"]
    """How many these were."""
    q: Float[Array, "N"]
    """Each agent's value of the action that it took."""
    credit: Float[Array, "N"] | None
    """dQ_tot / dQ_i; None for independent learners."""
    actions: Float[Array, "N A"]
    """How often each action was taken."""


def watch(
    env: TeamEnv, agents: Agents, mixer: nn.Module, params: Params, keys: Keys, counted: Bool[Array, "B"]
) -> AgentSums:
    """Play one greedy episode for each key as `play_episodes` does, and sum what each agent does in those `counted`."""

    def body(carry):
        time, play, sums = carry
        after, _, values = _valued_step(env, agents, mixer, params, keys, play, time)
        could_choose = jnp.sum(play.state.observation.available, axis=-1) > 1
        weight = (could_choose & (counted & ~play.is_over)[:, None]).astype(jnp.float32)
        taken = jax.nn.one_hot(after.state.last_action, env.spec.num_actions)
        new = AgentSums(
            steps=jnp.sum(weight, axis=0),
            q=jnp.sum(weight * values.q, axis=0),
            credit=None if values.credit is None else jnp.sum(weight * values.credit, axis=0),
            actions=jnp.sum(weight[..., None] * taken, axis=0),
        )
        return time + 1, after, jax.tree.map(jnp.add, sums, new)

    play = _begin(env, agents, keys)
    credit = jax.eval_shape(lambda: _valued_step(env, agents, mixer, params, keys, play, 0))[2].credit
    zeros = jnp.zeros(env.spec.num_agents)
    counts = jnp.zeros((env.spec.num_agents, env.spec.num_actions))
    sums = AgentSums(zeros, zeros, None if credit is None else zeros, counts)
    return lax.while_loop(lambda carry: _is_going(env, *carry[:2]), body, (0, play, sums))[2]

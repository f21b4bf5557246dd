"""Greedy episodes: exactly one an environment, so that short episodes count no more than long ones.

Every episode has its own random key, so that its course does not depend on what is played beside it: whatever the
batches and devices, episode i of one key is the same episode.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from qmix_jax.agents import AgentInput, Agents
from qmix_jax.envs.base import TeamEnv
from qmix_jax.learning.exploration import greedy
from qmix_jax.learning.learner import joint_of
from qmix_jax.learning.rollout import EpisodeSums, Policy, episode_sums
from qmix_jax.types import Joint, Observation, Params, Values

Keys = Any
"""An array (B,) of random keys, one an episode."""


def greedy_policy(agents: Agents, params: Params) -> Policy:
    """Each agent takes its own best legal action."""

    def policy(hidden, inputs: AgentInput, available, given):
        del given
        hidden, q = agents.step(params, hidden, inputs)
        return hidden, greedy(q, available)

    return policy


class Episodes(NamedTuple):
    """What came of B single episodes, each counted up to its end."""

    is_over: Bool[Array, "B"]
    total: Float[Array, "B"]
    """The return."""
    length: Int[Array, "B"]
    won: Bool[Array, "B"]


class _Play(NamedTuple):
    """Where B single episodes stand."""

    env_state: Any
    observation: Observation
    first: Bool[Array, "B"]
    last_action: Array
    hidden: Array
    episodes: Episodes

    @property
    def inputs(self) -> AgentInput:
        """What the agents know."""
        return AgentInput(self.observation.agents, self.last_action, self.first)


def team_key(seed: int, team: int) -> jax.Array:
    """The key of the episodes that the commands play with team number `team` of a run (one for each of its seeds)."""
    return jax.random.fold_in(jax.random.key(seed), team)


def episode_keys(key: jax.Array, episodes: int, start: int | Array = 0) -> Keys:
    """The keys of so many episodes, from number `start` on."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, start + jnp.arange(episodes))


def _at(keys: Keys, time: int | Array) -> tuple[Keys, Keys]:
    """The keys of one step: the environment's and the policy's (number 0 is the start's)."""
    return _numbered(keys, 2 * time + 1), _numbered(keys, 2 * time + 2)


def _numbered(keys: Keys, number: int | Array) -> Keys:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def _begin(env: TeamEnv, agents: Agents, keys: Keys) -> _Play:
    env_state, observation = jax.vmap(env.reset)(_numbered(keys, 0))
    count = keys.shape[0]
    no, zeros = jnp.zeros(count, bool), jnp.zeros(count)
    none = jnp.full((count, env.spec.num_agents), env.spec.num_actions)
    episodes = Episodes(no, zeros, jnp.zeros(count, int), no)
    return _Play(env_state, observation, ~no, none, agents.initial_hidden(count), episodes)


def _advance(env: TeamEnv, keys: Keys, play: _Play, hidden: Array, action: Array) -> _Play:
    """One step everywhere; what comes after an episode's end is not counted."""
    env_state, observation, outcome = jax.vmap(env.step)(keys, play.env_state, action)
    is_over, total, length, won = play.episodes
    return _Play(
        env_state=env_state,
        observation=observation,
        first=jnp.zeros_like(play.first),
        last_action=action.astype(play.last_action.dtype),
        hidden=hidden,
        episodes=Episodes(
            is_over=is_over | outcome.terminated | outcome.truncated,
            total=total + jnp.where(is_over, 0.0, outcome.reward),
            length=length + ~is_over,
            won=won | (outcome.won & ~is_over),
        ),
    )


def play_episodes(env: TeamEnv, agents: Agents, policy: Policy, keys: Keys, fixed_length: bool = False) -> Episodes:
    """Play one episode for each key, side by side, until the last one is over.

    The policy is given B keys of its own at every step, for what is random in it. With `fixed_length` play goes on up
    to the episode limit, which changes no result (see `Trainer.branches`).
    """

    def body(carry):
        time, play = carry
        env_keys, policy_keys = _at(keys, time)
        hidden, action = policy(play.hidden, play.inputs, play.observation.available, policy_keys)
        return time + 1, _advance(env, env_keys, play, hidden, action)

    def is_going(carry):
        time, play = carry
        return (time < env.spec.episode_limit) & ~jnp.all(play.episodes.is_over)

    begin = (0, _begin(env, agents, keys))
    if fixed_length:
        return lax.fori_loop(0, env.spec.episode_limit, lambda _, carry: body(carry), begin)[1].episodes
    return lax.while_loop(is_going, body, begin)[1].episodes


def evaluate(
    env: TeamEnv, agents: Agents, params: Params, key: jax.Array, episodes: int, fixed_length: bool = False
) -> EpisodeSums:
    """Sums over `episodes` greedy episodes, played side by side (`fixed_length`: see `play_episodes`)."""
    played = play_episodes(env, agents, greedy_policy(agents, params), episode_keys(key, episodes), fixed_length)
    return jax.tree.map(jnp.sum, episode_sums(*played))


class Record(NamedTuple):
    """Whole episodes to paint: L the episode limit, E the episodes."""

    scene: dict[str, Float[Array, "L+1 E ..."]]
    reward: Float[Array, "L E"]
    values: Values
    """(L, E, ...) before each step."""
    episodes: Episodes


def record(env: TeamEnv, agents: Agents, mixer: nn.Module, params: Params, keys: Keys) -> Record:
    """Play greedy episodes and keep every scene, and what agents and mixer made of it.

    With the keys of `evaluate` these are its episodes.
    """
    scene = jax.vmap(env.scene)

    def step(play, time):
        after, values = _judged_step(env, agents, mixer, params, keys, play, time)
        return after, (scene(after.env_state), after.episodes.total - play.episodes.total, values)

    begin = _begin(env, agents, keys)
    play, (scenes, rewards, values) = lax.scan(step, begin, jnp.arange(env.spec.episode_limit))
    scenes = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), scene(begin.env_state), scenes)
    return Record(scenes, rewards, values, play.episodes)


def _judged_step(
    env: TeamEnv, agents: Agents, mixer: nn.Module, params: Params, keys: Keys, play: _Play, time: int | Array
) -> tuple[_Play, Values]:
    """A greedy step everywhere, and what agents and mixer make of it."""
    observation = play.observation
    hidden, q = agents.step(params["agent"], play.hidden, play.inputs)
    action = greedy(q, observation.available)
    values = judge(mixer, params["mixer"], joint_of(q, hidden, action, action, observation))
    return _advance(env, _at(keys, time)[0], play, hidden, action), values


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

    def values_of(play, time):
        return _judged_step(env, agents, mixer, params, keys, play, time)

    def body(carry):
        time, play, sums = carry
        after, values = values_of(play, time)
        could_choose = jnp.sum(play.observation.available, axis=-1) > 1
        weight = (could_choose & (counted & ~play.episodes.is_over)[:, None]).astype(jnp.float32)
        taken = jax.nn.one_hot(after.last_action, env.spec.num_actions)
        new = AgentSums(
            steps=jnp.sum(weight, axis=0),
            q=jnp.sum(weight * values.q, axis=0),
            credit=None if values.credit is None else jnp.sum(weight * values.credit, axis=0),
            actions=jnp.sum(weight[..., None] * taken, axis=0),
        )
        return time + 1, after, jax.tree.map(jnp.add, sums, new)

    def is_going(carry):
        time, play, _ = carry
        return (time < env.spec.episode_limit) & ~jnp.all(play.episodes.is_over)

    play = _begin(env, agents, keys)
    has_credit = jax.eval_shape(values_of, play, 0)[1].credit is not None
    zeros = jnp.zeros(env.spec.num_agents)
    counts = jnp.zeros((env.spec.num_agents, env.spec.num_actions))
    sums = AgentSums(zeros, zeros, zeros if has_credit else None, counts)
    return lax.while_loop(is_going, body, (0, play, sums))[2]


def judge(mixer: nn.Module, params: Params, joint: Joint) -> Values:
    """Q_tot of a joint action and each agent's credit dQ_tot / dQ_i, the gradient of the mixer in chosen_q."""

    def total(chosen_q):
        streams: Array = mixer.apply(params, joint._replace(chosen_q=chosen_q))  # pyright: ignore
        return jnp.sum(streams), streams  # no time of the batch touches another's Q_tot

    credit, streams = jax.grad(total, has_aux=True)(joint.chosen_q)
    if streams.shape[-1] > 1:
        return Values(joint.chosen_q, None, None)
    return Values(joint.chosen_q, streams[..., 0], credit)

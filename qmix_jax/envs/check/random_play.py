"""Random legal play: the mistakes that only numbers show, and what a person wants to know of an environment."""

import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from qmix_jax.actions import random_action, uniform
from qmix_jax.envs.base import TeamEnv, start_of
from qmix_jax.envs.check.calls import explain
from qmix_jax.envs.layout import layout_of
from qmix_jax.envs.wrappers.shield import Shielded
from qmix_jax.types import EnvState, Observation, Outcome, TeamSpec, action_dtype, tree_bytes, tree_where

NUM_ENVS = 16
"""Seeds of the random play."""
FEWEST_STEPS, EPISODES_IN_A_ROW, MOST_STEPS = 300, 3, 10_000
"""Steps with each seed: so many, or so many of the longest episodes, but not more than the last."""
TOLERANCE = 1e-5
"""Of numbers that `decompress` restores, relative and absolute."""


Arrays = Array | np.ndarray
"""On a device or on the host."""


class Look(NamedTuple):
    """What is to be known of an observation."""

    finite: dict[str, Bool[Arrays, "..."]]
    """Whether the numbers of each agent, and those of the state, are finite; by field."""
    restored: dict[str, Bool[Arrays, "..."]]
    """Whether `decompress` restores them from what `compress` makes of them."""
    has_legal: Bool[Arrays, "*batch N"]
    is_idle_legal: Bool[Arrays, "*batch N"]
    total: dict[str, Arrays]
    """Sums, by which two executions are compared."""


class Played(NamedTuple):
    """Random legal play of B seeds for T steps; episodes that end are followed by fresh ones."""

    fresh: Look
    """(F, B, ...) at the start of episodes."""
    after: Look
    """(T, B, ...) after every step."""
    outcome: Outcome
    """(T, B)"""
    lowest: Float[Arrays, "N O"]
    """The smallest value of each number of the observations."""
    highest: Float[Arrays, "N O"]
    starts: Observation
    """(F, B, ...) the observations at the start of episodes."""


class Play(NamedTuple):
    """What random play shows."""

    mistakes: list[str]
    episodes: dict[str, list[list[float]]]
    """The length, the return and the sum of each metric of every episode that ended, in a list for each seed."""
    num_steps: int
    """Steps of all seeds."""
    truncated: float = 0.0
    """The share of the episodes that a limit cut."""
    starts: tuple[int, int] = (0, 0)
    """How many different observations followed upon so many resets."""


def play(env: TeamEnv, key: jax.Array) -> Play:
    """Play at random, twice with the same key. `shape_problems` must have found no mistake."""
    name, mistakes = type(env).__name__, []
    try:
        mistakes += _reused_key(env)
        program = jax.jit(lambda key: _play(env, key)).lower(key).compile()
        played, again = (jax.device_get(program(key)) for _ in range(2))
    except Exception as error:  # somebody's code can raise anything
        return Play([f"{name}.{line}" for line in mistakes] + [f"{name}: {explain(error)}"], {}, 0)
    mistakes += [*_mistakes(env.spec, played, again), *_out_of_range(env, played)]
    mistakes = [f"{name}.{line}" for line in mistakes]
    outcome, ended = played.outcome, np.sum(played.outcome.terminated | played.outcome.truncated)
    truncated = float(np.sum(outcome.truncated) / max(ended, 1))
    return Play(mistakes, _episodes(outcome), outcome.reward.size, truncated, _different(played.starts))


def play_problems(env: TeamEnv, key: jax.Array) -> list[str]:
    """A line for each mistake that random play shows. `shape_problems` must have found none."""
    return play(env, key).mistakes


def _reused_key(env: TeamEnv) -> list[str]:
    """A line where a random key is used twice within `reset` and two steps. Compiles nothing. Keys of the old kind
    (`jax.random.PRNGKey`, `key_data`) are not seen.
    """

    def two_steps(reset_key: jax.Array, key: jax.Array, next_key: jax.Array, action: Array) -> Any:
        return env.step(next_key, env.step(key, start_of(env, reset_key)[0], action)[0], action)

    key = jax.eval_shape(lambda: jax.random.key(0))
    action = jax.ShapeDtypeStruct((env.spec.num_agents,), jnp.int32)
    for name, call, arguments in (
        ("reset", lambda key: env.reset(key), (key,)),
        ("step", two_steps, (key, key, key, action)),
    ):
        try:
            with jax.debug_key_reuse(True):
                jax.jit(call).lower(*arguments)
        except jax.errors.KeyReuseError as error:
            return [f"{name}: {explain(error)}"]
    return []


def _num_steps(spec: TeamSpec) -> int:
    return min(max(FEWEST_STEPS, EPISODES_IN_A_ROW * spec.episode_limit), MOST_STEPS)


def _play(env: TeamEnv, key: jax.Array) -> Played:
    """Play at random. As in training, the episodes to come are prepared at the start."""
    reset_key, step_key, action_key = jax.random.split(key, 3)
    starts = EPISODES_IN_A_ROW + 1
    fresh = jax.vmap(jax.vmap(env.reset))(jax.random.split(reset_key, (starts, NUM_ENVS)))
    look = jax.vmap(lambda state, observation: _look(env, state, observation))

    def step(carry: tuple, keys: tuple) -> tuple[tuple, tuple[Look, Outcome]]:
        state, observation, episode, lowest, highest = carry
        step_keys, action_key = keys
        action = random_action(uniform(action_key, (NUM_ENVS, env.spec.num_agents)), observation.available)
        state, observation, outcome = jax.vmap(env.step)(step_keys, state, action)
        ended = outcome.terminated | outcome.truncated
        episode = episode + ended
        start = jax.tree.map(lambda leaf: leaf[episode % starts, jnp.arange(NUM_ENVS)], fresh)
        seen, numbers = look(state, observation), observation.agents
        lowest, highest = jnp.minimum(lowest, numbers.min(0)), jnp.maximum(highest, numbers.max(0))
        return (*tree_where(ended, start, (state, observation)), episode, lowest, highest), (seen, outcome)

    steps = _num_steps(env.spec)
    first = jax.tree.map(lambda leaf: leaf[0], fresh)
    keys = jax.random.split(step_key, (steps, NUM_ENVS)), jax.random.split(action_key, steps)
    numbers = fresh[1].agents
    carry = (*first, jnp.zeros(NUM_ENVS, int), numbers.min((0, 1)), numbers.max((0, 1)))
    (*_, lowest, highest), (after, outcome) = lax.scan(step, carry, keys)
    return Played(jax.vmap(look)(*fresh), after, outcome, lowest, highest, fresh[1])


def _look(env: TeamEnv, state: EnvState, observation: Observation) -> Look:
    restored = env.decompress(env.compress(state, observation))
    numbers, others = _numbers(observation), _numbers(restored)
    idle = None if isinstance(env, Shielded) else env.spec.idle_action  # a shield may forbid it
    return Look(
        finite={field: jnp.all(jnp.isfinite(value), -1) for field, value in numbers.items()},
        restored={field: jnp.all(_is_close(value, others[field]), -1) for field, value in numbers.items()},
        has_legal=jnp.any(observation.available, -1),
        is_idle_legal=jnp.ones(env.spec.num_agents, bool) if idle is None else observation.available[:, idle],
        total={field: jnp.sum(value, -1) for field, value in numbers.items()},
    )


def _numbers(observation: Observation) -> dict[str, Array]:
    """The fields with arrays, as numbers."""
    return {name: value.astype(float) for name, value in observation._asdict().items() if value is not None}


def _is_close(value: Float[Array, "..."], other: Float[Array, "..."]) -> Bool[Array, "..."]:
    return jnp.isclose(value, other, TOLERANCE, TOLERANCE, equal_nan=True)


# --- mistakes ----------------------------------------------------------------------------------------------------


def _mistakes(spec: TeamSpec, played: Played, again: Played) -> Iterator[str]:
    times, starts = _times(played.outcome), np.zeros(played.fresh.has_legal.shape[:2], int)
    yield from _wrong_looks(spec, "reset", played.fresh, starts)
    yield from _wrong_looks(spec, "step", played.after, times)
    after_reset = list(_not_restored(spec, played.fresh.restored, starts))
    yield from after_reset or _not_restored(spec, played.after.restored, times)
    yield from _wrong_outcomes(played.outcome, times)
    yield from _wrong_ends(spec, played.outcome, times)
    yield from _first_difference("reset", _seen(played.fresh), _seen(again.fresh), starts)
    yield from _first_difference("step", _results(played), _results(again), times)


def _times(outcome: Outcome) -> Int[np.ndarray, "T B"]:
    """For each step how many steps its episode then had."""
    times, now = [], np.zeros(outcome.reward.shape[1], int)
    for ended in np.asarray(outcome.terminated | outcome.truncated):
        now = now + 1
        times.append(now)
        now = np.where(ended, 0, now)
    return np.stack(times)


def _wrong_looks(spec: TeamSpec, method: str, look: Look, times: np.ndarray) -> Iterator[str]:
    """Mistakes in observations (T, B)."""
    for field, is_finite in look.finite.items():
        if where := _first(~is_finite, times, spec):
            yield f"{method}: Observation.{field} is NaN or infinite {where}, but must be finite"
    if where := _first(~look.has_legal, times, spec):
        yield f"{method}: Observation.available has no legal action {where}, but must have one for every agent"
    elif where := _first(~look.is_idle_legal, times, spec):
        yield f"{method}: spec.idle_action = {spec.idle_action} is not legal {where}, but must always be"


def _not_restored(spec: TeamSpec, restored: dict[str, Bool[Arrays, "..."]], times: np.ndarray) -> Iterator[str]:
    for field, is_restored in restored.items():
        if where := _first(~is_restored, times, spec):
            yield f"decompress: Observation.{field} is another one {where} than compress got, but must be the same"


def _first(is_wrong: Bool[Arrays, "T B ..."], times: np.ndarray, spec: TeamSpec | None = None) -> str:
    """Where something is wrong for the first time ("at time 3 for agent 'scout'"), and how often; '' if it never is."""
    places = np.argwhere(is_wrong)
    if not len(places):
        return ""
    step, env, *agent = places[0]
    who = f" for agent {spec.agent_names[agent[0]]!r}" if agent and spec else ""
    count = is_wrong.reshape(*times.shape, -1).any(-1).sum()
    return f"at time {times[step, env]}{who} ({count:,} of {times.size:,})"


def _out_of_range(env: TeamEnv, played: Played) -> Iterator[str]:
    """Numbers of observations beyond the bounds that the layout gives them; one line with the first."""
    layout, found = layout_of(env), []
    for i, name in enumerate(env.spec.agent_names):
        for feature, low, high in zip(layout.features(i), played.lowest[i], played.highest[i], strict=False):
            least = -math.inf if feature.low is None else feature.low
            most = math.inf if feature.high is None else feature.high
            if low < least - TOLERANCE * (1 + abs(least)) or high > most + TOLERANCE * (1 + abs(most)):
                must = f"must be from {least:g} to {most:g}, as the layout says"
                found.append(f"{feature.name!r} of agent {name!r} is from {low:g} to {high:g}, but {must}")
    if found:
        yield f"layout: {found[0]}" + (f" (and {len(found) - 1} more numbers)" if found[1:] else "")


def _wrong_outcomes(outcome: Outcome, times: np.ndarray) -> Iterator[str]:
    metrics = {f"metrics[{name!r}]": value for name, value in outcome.metrics.items()}
    for field, value in {"reward": outcome.reward, **metrics}.items():
        if where := _first(~np.isfinite(value), times):
            yield f"step: Outcome.{field} is NaN or infinite {where}, but must be finite"
    if where := _first(outcome.terminated & outcome.truncated, times):
        yield f"step: Outcome.terminated and Outcome.truncated are both true {where}, but only one may be"


def _wrong_ends(spec: TeamSpec, outcome: Outcome, times: np.ndarray) -> Iterator[str]:
    if times.max() > spec.episode_limit:
        yield (
            f"step: an episode has not ended at time {spec.episode_limit}, but must by spec.episode_limit = "
            f"{spec.episode_limit}: terminated, or else truncated"
        )
    finished = _episodes(outcome)
    longest = max((length for row in finished["length"] for length in row), default=0)
    if longest == 1 < spec.episode_limit:
        yield f"step: every episode ends at time 1, but must be able to last spec.episode_limit = {spec.episode_limit}"
        return
    count = EPISODES_IN_A_ROW
    means = [sum(row[i : i + count]) / count for row in finished["length"] for i in range(len(row) - count + 1)]
    if min(means, default=spec.shortest_episode) < spec.shortest_episode:
        yield (
            f"spec.shortest_episode is {spec.shortest_episode}, but must be {int(min(means))} at most, which is what "
            f"{count} episodes in a row took on average"
        )
    for name in (name for name in outcome.metrics if name.endswith("_rate")):
        sums = [value for row in finished[name] for value in row if np.isfinite(value)]
        if sums and not (min(sums) >= -TOLERANCE and max(sums) <= 1 + TOLERANCE):
            yield (
                f"step: Outcome.metrics[{name!r}] adds up to {min(sums):g} to {max(sums):g} over the steps of an "
                "episode, but must to a share, from 0 to 1"
            )


def _first_difference(method: str, one: dict[str, Any], other: dict[str, Any], times: np.ndarray) -> Iterator[str]:
    """Between two executions with the same key."""
    for field in one:
        if where := _first(~np.equal(one[field], other[field]) & ~np.isnan(one[field]), times):
            yield f"{method}: {field} is another one {where} with the same key again, but must be the same"
            return


def _seen(look: Look) -> dict[str, Any]:
    return {f"Observation.{field}": value for field, value in look.total.items()}


def _results(played: Played) -> dict[str, Any]:
    """What the steps gave, by field."""
    fields = ("reward", "terminated", "truncated")
    return {f"Outcome.{field}": getattr(played.outcome, field) for field in fields} | _seen(played.after)


# --- facts -------------------------------------------------------------------------------------------------------


def _episodes(outcome: Outcome) -> dict[str, list[list[float]]]:
    """The length, the return and the sum of each metric of every episode that ended, in a list for each seed."""
    ended = np.asarray(outcome.terminated | outcome.truncated)
    sums = {"length": np.ones_like(outcome.reward), "return": outcome.reward, **outcome.metrics}
    return {
        name: [_sums_between(value[:, i], np.flatnonzero(ended[:, i])) for i in range(ended.shape[1])]
        for name, value in sums.items()
    }


def _sums_between(values: np.ndarray, ends: np.ndarray) -> list[float]:
    """The sum of each episode's values."""
    return [float(part.astype(float).sum()) for part in np.split(values, ends + 1)[: len(ends)]]


def _different(starts: Observation) -> tuple[int, int]:
    """How many observations (F, B, ...) differ, and how many there are."""
    rows = [np.reshape(value, (np.shape(value)[0] * NUM_ENVS, -1)) for value in starts if value is not None]
    return len(np.unique(np.concatenate(rows, axis=1), axis=0)), len(rows[0])


def bytes_per_step(env: TeamEnv, dtype: str = "float32") -> int:
    """Bytes that replay with this `replay.dtype` stores for each step: the compact observation, the actions, the reward
    and three flags.
    """
    compact = jax.eval_shape(lambda key: env.compress(*start_of(env, key)), jax.random.key(0))
    kept = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype if leaf.dtype == jnp.float32 else leaf.dtype), compact
    )
    return tree_bytes(kept) + env.spec.num_agents * np.dtype(action_dtype(env.spec)).itemsize + 4 + 3


class Speed(NamedTuple):
    """What play past the ends of episodes, without a reset, shows."""

    steps_per_second: float
    """Environment steps a second, with random legal actions and without learning."""
    to_next_end: list[float]
    """The steps from each environment's first end to its next, where there were two."""


def speed(env: TeamEnv, num_envs: int) -> Speed:
    """Play on past the ends of episodes: two of the longest, but 200 to 1,000 steps."""
    steps = min(max(200, 2 * env.spec.episode_limit), 1000)

    def step(carry: tuple, key: jax.Array) -> tuple[tuple, tuple[Array, Array]]:
        state, observation = carry
        action = random_action(uniform(key, (num_envs, env.spec.num_agents)), observation.available)
        state, observation, outcome = jax.vmap(env.step)(jax.random.split(key, num_envs), state, action)
        return (state, observation), (outcome.reward, outcome.terminated | outcome.truncated)

    start = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), num_envs))
    run = jax.jit(lambda start, key: lax.scan(step, start, jax.random.split(key, steps)))
    jax.block_until_ready(run(start, jax.random.key(1)))
    begun = time.perf_counter()
    _, (_, ended) = jax.block_until_ready(run(start, jax.random.key(2)))
    seconds = time.perf_counter() - begun
    ends = [np.flatnonzero(each) for each in np.asarray(ended).T]
    return Speed(steps * num_envs / seconds, [float(each[1] - each[0]) for each in ends if len(each) > 1])

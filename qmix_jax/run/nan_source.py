"""Whether a seed's NaN came from its environment or from its learner, looked up after the fact.

An environment gets nothing from the learner but actions, which are integers. Where an observation or a reward is NaN or
infinite, the environment made it so.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qmix_jax.learning.trainer import SeedState, Trainer
from qmix_jax.run import hosts
from qmix_jax.run.program import DATA, ChunkMetrics, Program, TrainState
from qmix_jax.types import Clock, Params
from qmix_jax.types import Sequence as Rows

FINITE, INFINITE, NAN = range(3)
SHOWN_AGENTS = 3
"""A message names no more of them."""


class NanSource(NamedTuple):
    """Where a seed's NaN came from."""

    env_step: int | None
    """The environment step that gave the first number that is not finite; None where the learner made it."""
    text: str
    """The same in words."""


class Marks(NamedTuple):
    """Which numbers of C sequences are FINITE, INFINITE or NAN, and where episodes begin."""

    outputs: Any
    """(C, T+1, N+2): each agent's observation, the state and the reward. At time t stand the observations before step t
    and the reward of step t - 1, which arrive together.
    """
    first: Any
    """(C, T) whether an episode began at step t."""


def find_sources(
    program: Program, state: TrainState, params: Params, metrics: ChunkMetrics, seeds: Sequence[int]
) -> dict[int, NanSource]:
    """The sources of the NaN that these seeds (indices) met in the last chunk.

    Every observation and reward in replay is looked at. Where replay lacks a part of the chunk, or there is none, the
    chunk's rollouts are played again from fresh episodes, with the chunk's random keys and the parameters before it.

    Args:
        program: the run's program.
        state: the training state after the chunk.
        params: the parameters (S, ...) before the chunk, on the host.
        metrics: the chunk's, on the host.
        seeds: the seeds in question.
    """
    config = program.config
    slots, chunk = config.replay_sequences // config.rollout.num_envs, config.iterations_per_chunk
    found, where = {}, "in replay"
    if seeds and slots:
        marks = program.compute(lambda trainer, _, seed: _mark(trainer, seed.replay), state)  # pyright: ignore
        found = _search(program, hosts.gather(marks), state.clock, slots, seeds)
    if len(found) < len(seeds) and slots < chunk:
        where = "in rollouts that were played again with the parameters before it"
        learner = state.seeds.learner._replace(params=params)
        before = state._replace(seeds=state.seeds._replace(learner=learner))
        marks = program.compute(_mark_rollouts, before)
        clock = state.clock._replace(replay_start=state.clock.iteration - chunk)
        found = _search(program, hosts.gather(marks), clock, chunk, seeds) | found
    env_steps = int(state.clock.iteration) * config.iteration_env_steps
    return {i: found.get(i) or _without_place(metrics, i, env_steps, where) for i in seeds}


def _without_place(metrics: ChunkMetrics, seed: int, env_steps: int, where: str) -> NanSource:
    """The source of a NaN where all observations and rewards that are left are finite."""
    if not np.isfinite(metrics.training.total_return[seed]):
        return NanSource(env_steps, "the environment gave returns that are not finite")
    return NanSource(None, f"observations and rewards {where} are finite, so the learner diverged")


# --- on the devices ----------------------------------------------------------------------------------------------


def _mark(trainer: Trainer, rows: Rows) -> Marks:
    """The marks of rows (C, ...), whose observations are decompressed one row at a time."""

    def of_row(row: Rows) -> Marks:
        observation = trainer.format.decompress(row._replace(observation=_add_axis(row.observation))).observation
        agents, state = observation.agents[0], observation.state
        reward = jnp.pad(row.reward, (1, 0))[:, None]
        own = jnp.zeros_like(reward) if state is None else state[0]
        columns = [_worst(agents), _worst(own)[:, None], _worst(reward)[:, None]]
        return Marks(jnp.concatenate(columns, axis=-1), row.first)

    return lax.map(of_row, rows)


def _add_axis(tree):
    return jax.tree.map(lambda leaf: leaf[None], tree)


def _worst(x: jax.Array) -> jax.Array:
    """FINITE, INFINITE or NAN, over the last axis."""
    kinds = jnp.where(jnp.isnan(x), NAN, jnp.where(jnp.isinf(x), INFINITE, FINITE))
    return jnp.max(kinds, axis=-1).astype(jnp.int8)


def _mark_rollouts(trainer: Trainer, clock: Clock, seed: SeedState) -> Marks:
    """The marks of the last chunk's rollouts, played again; their number times the environments is C."""
    count = trainer.config.iterations_per_chunk

    def play(rollout, iteration):
        now = clock._replace(iteration=iteration)
        key, _ = jax.random.split(trainer.key(seed, now))
        rollout, sequence, _ = trainer.play(now, seed.learner.params, rollout, key)
        return rollout, _mark(trainer, trainer.format.to_rows(sequence))

    start = clock.iteration - count
    fresh = trainer.fresh_rollout(trainer.key(seed, clock._replace(iteration=start)))
    _, marks = lax.scan(play, fresh, start + jnp.arange(count))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), marks)


# --- on the host -------------------------------------------------------------------------------------------------


def _search(program: Program, marks: Marks, clock: Clock, slots: int, seeds: Sequence[int]) -> dict[int, NanSource]:
    """The first number of each seed that is not finite, in marks (S, C, ...) of so many slots of one rollout each, the
    first of which was filled in iteration `clock.replay_start`; seeds whose numbers are all finite are left out.
    """
    start, end = int(clock.replay_start), int(clock.iteration)
    iterations = np.arange(max(start, end - slots), end)
    devices = program.mesh.shape[DATA]

    def in_order(leaf: np.ndarray) -> np.ndarray:
        """(C, ...) as (iterations, environments, ...); every device keeps its share of every slot."""
        sizes = leaf.shape[1:]
        by_slot = leaf.reshape(devices, slots, -1, *sizes).swapaxes(0, 1)
        return by_slot.reshape(slots, -1, *sizes)[(iterations - start) % slots]

    found = {
        i: _first(program, in_order(marks.outputs[i]), in_order(marks.first[i]), int(iterations[0])) for i in seeds
    }
    return {i: source for i, source in found.items() if source}


def _first(program: Program, outputs: np.ndarray, first: np.ndarray, iteration: int) -> NanSource | None:
    """The first number that is not finite in the rollouts (iterations, environments, ...) since an iteration."""
    is_bad = (outputs != FINITE).any(axis=-1).swapaxes(1, 2)
    if not is_bad.any():
        return None
    rollout, time, env = np.unravel_index(is_bad.argmax(), is_bad.shape)
    kinds = outputs[rollout, env, time]
    step = int(rollout * first.shape[-1] + time)
    is_reward = kinds[-1] != FINITE  # of the step before, which may have ended its episode
    starts = np.flatnonzero(first[:, env].ravel()[: step + (not is_reward)])
    config = program.config
    env_step = iteration * config.iteration_env_steps + step * config.rollout.num_envs
    in_episode = f" (step {step - starts[-1]} of an episode)" if len(starts) else ""
    return NanSource(
        env_step,
        f"the environment gave {'NaN' if NAN in kinds else 'infinity'} in {_fields(program, kinds)} at environment "
        f"step {env_step:,}{in_episode}",
    )


def _fields(program: Program, kinds: np.ndarray) -> str:
    """The outputs (N+2,) that are not finite, in words."""
    *agents, state, reward = (kinds != FINITE).tolist()
    names = [name for name, is_bad in zip(program.env.spec.agent_names, agents, strict=True) if is_bad]
    shown = ", ".join(names[:SHOWN_AGENTS]) + f" and {len(names) - SHOWN_AGENTS} more" * (len(names) > SHOWN_AGENTS)
    fields = {f"the observation of {shown}": names, "the state": state, "the reward": reward}
    return " and ".join(text for text, is_bad in fields.items() if is_bad)

"""The parts of training, each alone: what one seed does on one device, to be repeated (`Program.compile_loop`)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qmix_jax.agents.gru import AgentInput
from qmix_jax.learning import replay
from qmix_jax.learning.exploration import random_action, uniform
from qmix_jax.learning.learner import LossMetrics
from qmix_jax.learning.rollout import restart, rollout
from qmix_jax.learning.trainer import SeedState, Trainer
from qmix_jax.run.program import Begin, Step
from qmix_jax.types import Clock, swap_time_and_batch


class Part(NamedTuple):
    """What is handed on from turn to turn besides the state, at first, and the turn."""

    begin: Begin
    turn: Step


def _made_by(make: Callable[[Clock, SeedState], tuple[SeedState, Any]]) -> Part:
    """The part whose turn is `make`; what it makes besides the state is kept, so that it has to be made."""

    def begin(clock: Clock, state: SeedState) -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(make, clock, state)[1])

    return Part(begin, lambda clock, state, _: make(clock, state))


def training(trainer: Trainer) -> Part:
    """Whole iterations, without evaluation."""
    return _made_by(trainer.step)


def playing(trainer: Trainer) -> Part:
    """Rollouts of the agents."""

    def make(clock: Clock, state: SeedState) -> tuple[SeedState, Any]:
        played, sequence, episodes = trainer.play(clock, state.learner.params, state.rollout, trainer.key(state, clock))
        return state._replace(rollout=played), (sequence, episodes)

    return _made_by(make)


def environment(trainer: Trainer) -> Part:
    """The same rollouts by random legal actions: no network."""
    config, env = trainer.config, trainer.env

    def policy(hidden: jax.Array, inputs: AgentInput, available: jax.Array, noise: Any) -> tuple[jax.Array, jax.Array]:
        del inputs
        return hidden, random_action(noise, available)

    def make(clock: Clock, state: SeedState) -> tuple[SeedState, Any]:
        noise_key, env_key, restart_key = jax.random.split(trainer.key(state, clock), 3)
        steps, played = config.rollout.num_steps, state.rollout
        noise = uniform(noise_key, (steps, trainer.num_envs, env.spec.num_agents))
        if config.rollout.whole_episodes:
            played = restart(env, restart_key, played)
        played, sequence, _ = rollout(env, policy, env_key, played, noise, trainer.starts)
        return state._replace(rollout=played), sequence

    return _made_by(make)


def learning(trainer: Trainer) -> Part:
    """Updates on one batch from a full replay, or without replay from a new rollout."""

    def begin(clock: Clock, state: SeedState) -> Any:
        key, size = trainer.key(state, clock), trainer.config.learner.batch_size // trainer.num_data
        if state.replay is None:
            sequence = trainer.play(clock, state.learner.params, state.rollout, key)[1]
            rows = replay.minibatch(key, trainer.rows(sequence), jnp.array(0), size)
        else:
            full = jnp.array(trainer.config.replay_sequences // trainer.num_data)
            rows = replay.sample(key, state.replay, full, size)
        return swap_time_and_batch(rows), LossMetrics(*[jnp.zeros(())] * len(LossMetrics._fields))

    def turn(clock: Clock, state: SeedState, kept: Any) -> tuple[SeedState, Any]:
        batch, _ = kept
        learner, losses = trainer.learner.update(state.learner, trainer.recall(batch), trainer.env_steps(clock))
        return state._replace(learner=learner), (batch, losses)

    return Part(begin, turn)


def evaluation(trainer: Trainer) -> Part:
    """Greedy evaluations."""
    return _made_by(lambda clock, state: (state, trainer.evaluate(clock, state)))

"""The parts of training, each alone: of one seed on one device, to be repeated by `Program.compile_loop`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qmix_jax.actions import random_action, uniform
from qmix_jax.learning.learner import LossMetrics
from qmix_jax.learning.trainer import SeedState, Trainer
from qmix_jax.run.program import Begin, Step
from qmix_jax.types import AgentInput, Clock, RecurrentState


class Part(NamedTuple):
    """A loop: the initial carry besides the seed's state, and one step."""

    begin: Begin
    step: Step


def _made_by(make: Callable[[Clock, SeedState], tuple[SeedState, Any]]) -> Part:
    """The part whose step is `make`. Its other results are carried too, so that the compiler cannot drop them."""

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

    def policy(
        state: RecurrentState, inputs: AgentInput, available: jax.Array, noise: Any
    ) -> tuple[RecurrentState, jax.Array]:
        del inputs
        return state, random_action(noise, available)

    def make(clock: Clock, state: SeedState) -> tuple[SeedState, Any]:
        noise_key, env_key, restart_key = jax.random.split(trainer.key(state, clock), 3)
        shape = trainer.config.rollout.num_steps, trainer.num_envs, trainer.env.spec.num_agents
        noise = uniform(noise_key, shape)
        played, sequence, _ = trainer.rollout(policy, env_key, restart_key, state.rollout, noise)
        return state._replace(rollout=played), sequence

    return _made_by(make)


def learning(trainer: Trainer) -> Part:
    """Updates on one batch from a full replay, or without replay from a new rollout."""

    def begin(clock: Clock, state: SeedState) -> Any:
        key, sequences = trainer.key(state, clock), state.replay
        if sequences is None:
            played = trainer.play(clock, state.learner.params, state.rollout, key)[1]
            sequences = trainer.format.to_rows(played)
        full = jnp.array(trainer.config.replay_sequences // trainer.config.rollout.num_envs)
        return trainer.sample(sequences, full, jnp.array(0), key, key), LossMetrics.zeros()

    def step(clock: Clock, state: SeedState, kept: Any) -> tuple[SeedState, Any]:
        batch, _ = kept
        batch_with_observations = trainer.format.decompress(batch)
        learner, losses = trainer.learner.update(state.learner, batch_with_observations, trainer.env_steps(clock))
        return state._replace(learner=learner), (batch, losses)

    return Part(begin, step)


def evaluation(trainer: Trainer) -> Part:
    """Greedy evaluations."""
    return _made_by(lambda clock, state: (state, trainer.evaluate(clock, state)))

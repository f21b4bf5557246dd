"""What is explored when: linear schedules in environment steps, and actions that a whole team takes together."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from qmix_jax.actions import NO_ACTION, uniform
from qmix_jax.config import ExplorationConfig


def linear(first: float, change: float, env_steps: Int[Array, "*times"], end: Any) -> Float[Array, "*times"]:
    """From `first` at step 0 to `first + change` at step `end`, and constant from there on (`end` may be traced).

    (`optax.linear_schedule` computes the same line in another order, whose last bits differ.)
    """
    return first + change * jnp.clip(env_steps / end, 0.0, 1.0)


def epsilon_at(config: ExplorationConfig, env_steps: Int[Array, "*times"]) -> Float[Array, "*times"]:
    """Epsilon after so many environment steps."""
    return linear(config.start, config.change, env_steps, jnp.maximum(config.decay_env_steps, 1))


def team_actions(
    key: jax.Array, config: ExplorationConfig, num_steps: int, num_envs: int, num_actions: int
) -> Int[Array, "T B"]:
    """The action that all agents of an environment's team take together in each step, or NO_ACTION.

    A team decides at the first step of a rollout, and from then on at every step with probability 1 / team_steps: with
    probability team_epsilon it takes one of `team_actions` up to the next decision or the rollout's end (also through
    an episode's end), otherwise none. In 32 steps the mean is 5.2 with team_steps=6. Agents that explore each for
    itself, one step at a time, hardly ever walk anywhere together. Exploration over several steps is that of temporally
    extended epsilon-greedy (Dabney et al. 2021), that a team commits itself as a whole is MAVEN's (Mahajan et al.
    2019). Here, unlike in the former, durations are geometric; unlike in the latter, nothing is learned.
    """
    when_key, whether_key, what_key = jax.random.split(key, 3)
    shape = (num_steps, num_envs)
    decides = uniform(when_key, shape) < 1 / config.team_steps
    decided_at = lax.cummax(jnp.where(decides, jnp.arange(num_steps)[:, None], 0), axis=0)
    tried = jnp.array(config.team_actions or range(num_actions))
    action = tried[jnp.floor(uniform(what_key, shape) * len(tried)).astype(int)]
    decision = jnp.where(uniform(whether_key, shape) < config.team_epsilon, action, NO_ACTION)
    return jnp.take_along_axis(decision, decided_at, axis=0)

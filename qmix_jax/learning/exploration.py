"""Linear schedules in environment steps: of epsilon, and of the learning rate."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qmix_jax.config import ExplorationConfig


def linear(first: float, last: float, env_steps: Int[Array, "*times"], end: int) -> Float[Array, "*times"]:
    """From `first` at step 0 to `last` at step `end`, and `last` from there on.

    (`optax.linear_schedule` computes the same line in another order, whose last bits differ.)
    """
    return first + (last - first) * jnp.clip(env_steps / end, 0.0, 1.0)


def epsilon_at(config: ExplorationConfig, env_steps: Int[Array, "*times"]) -> Float[Array, "*times"]:
    """Epsilon after so many environment steps."""
    return linear(config.start, config.finish, env_steps, max(config.decay_env_steps, 1))

"""Linear schedules in environment steps: of epsilon, and of the learning rate."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qmix_jax.config import ExplorationConfig


def linear(first: float, change: float, env_steps: Int[Array, "*times"], end: Any) -> Float[Array, "*times"]:
    """From `first` at step 0 to `first + change` at step `end`, and constant from there on (`end` may be traced).

    (`optax.linear_schedule` computes the same line in another order, whose last bits differ.)
    """
    return first + change * jnp.clip(env_steps / end, 0.0, 1.0)


def epsilon_at(config: ExplorationConfig, env_steps: Int[Array, "*times"]) -> Float[Array, "*times"]:
    """Epsilon after so many environment steps."""
    return linear(config.start, config.change, env_steps, jnp.maximum(config.decay_env_steps, 1))

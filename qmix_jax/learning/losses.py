"""Losses of a temporal-difference error, by name."""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

Loss = Callable[[Float[Array, "*batch"]], Float[Array, "*batch"]]
"""From errors to the loss of each."""


def squared(error: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """error^2"""
    return jnp.square(error)


def huber(error: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """error^2 / 2 up to 1 in absolute value, |error| - 1/2 beyond, where the gradient is constant."""
    return optax.losses.huber_loss(error)


LOSSES: dict[str, Loss] = {"squared": squared, "huber": huber}
"""The values of the setting `learner.loss`."""

"""What every mixer is: a flax module from one joint action's `Joint` record to K value streams.

    mixer.apply(params, joint) -> (*batch, K)

K = 1 for a factored Q_tot; K = N for independent learners, where every stream learns the team's reward by itself.
Options are the module's fields; the YAML in conf/algorithm names them.
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

StateNorm = Literal["layer_norm", "none"]


def normalise_state(state: Float[Array, "*batch Z"], how: StateNorm) -> Float[Array, "*batch Z"]:
    """The state as the hypernetworks should see it.

    `layer_norm` shifts and scales it to mean 0 and variance 1 over its features (nothing learnt), which bounds the
    weights that the hypernetworks make of it: without, Q grows out of all bounds on SMAX. `none` is what PyMARL and
    JaxMARL do. Features should be of like ranges before (see `SmaxConfig.scale_state`), or the largest drown the rest.
    """
    if how == "none":
        return state
    mean = jnp.mean(state, axis=-1, keepdims=True)
    variance = jnp.var(state, axis=-1, keepdims=True)
    return (state - mean) / jnp.sqrt(variance + 1e-6)


def elu(x: Array) -> Array:
    """x above 0, else exp(x) - 1. (jax.nn.elu calls expm1, which XLA does not vectorise on a CPU.)"""
    return jnp.where(x > 0, x, jnp.exp(jnp.minimum(x, 0.0)) - 1)


class Hypernet(nn.Module):
    """State to weights: Linear, ReLU, Linear. Every weight starts near `start`; `scale` says how much it depends on
    the state at first.
    """

    hidden_size: int
    output_size: int
    scale: float
    start: float = 0.0

    @nn.compact
    def __call__(self, state: Float[Array, "*batch Z"]) -> Float[Array, "*batch W"]:
        """(*batch, Z) -> (*batch, output_size)."""
        x = nn.relu(nn.Dense(self.hidden_size)(state))
        start = nn.initializers.constant(self.start)
        return nn.Dense(self.output_size, kernel_init=small(self.scale), bias_init=start)(x)


def small(scale: float) -> Initializer:
    """Normal with a standard deviation of scale / sqrt(fan in). (No orthogonal initialiser here or elsewhere: its QR
    decomposition, batched over seeds on several CPU devices, deadlocks XLA's thread pool as of jaxlib 0.10.)
    """
    return nn.initializers.variance_scaling(scale**2, "fan_in", "normal")

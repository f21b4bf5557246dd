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

    `layer_norm` (without learnt scale) keeps raw coordinates (0 to 32 in SMAX) from driving the hypernetworks'
    weights, and Q with them, out of all bounds; `none` is what PyMARL and JaxMARL do.
    """
    if how == "none":
        return state
    mean = jnp.mean(state, axis=-1, keepdims=True)
    variance = jnp.var(state, axis=-1, keepdims=True)
    return (state - mean) / jnp.sqrt(variance + 1e-6)


class Hypernet(nn.Module):
    """State to weights: Linear, ReLU, Linear; the last layer starts small so that Q_tot starts near zero."""

    hidden_size: int
    output_size: int
    output_scale: float

    @nn.compact
    def __call__(self, state: Float[Array, "*batch Z"]) -> Float[Array, "*batch W"]:
        """(*batch, Z) -> (*batch, output_size)."""
        x = nn.relu(nn.Dense(self.hidden_size)(state))
        return nn.Dense(self.output_size, kernel_init=small(self.output_scale))(x)


def small(scale: float) -> Initializer:
    """Normal with a standard deviation of scale / sqrt(fan in). (No orthogonal initialiser here or elsewhere: its QR
    decomposition, batched over seeds on several CPU devices, deadlocks XLA's thread pool as of jaxlib 0.10.)
    """
    return nn.initializers.variance_scaling(scale**2, "fan_in", "normal")

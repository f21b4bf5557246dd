"""Value-decomposition networks."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from qmix_jax.types import Joint


class VDN(nn.Module):
    """VDN (Sunehag et al. 2018, equation 3): Q_tot = sum_i Q_i."""

    @nn.compact
    def __call__(self, joint: Joint) -> Float[Array, "*batch 1"]:
        """The sum over agents."""
        return jnp.sum(joint.chosen_q, axis=-1, keepdims=True)

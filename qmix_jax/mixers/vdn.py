"""Value-decomposition networks."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from qmix_jax.mixers.base import Mixer
from qmix_jax.types import MixerInput


class VDN(Mixer):
    """VDN (Sunehag et al. 2018, equation 3): Q_tot = sum_i Q_i."""

    is_monotonic: ClassVar[bool] = True
    promises_igm: ClassVar[bool] = True

    @nn.compact
    def __call__(self, joint: MixerInput) -> Float[Array, "*batch 1"]:
        """The sum over agents."""
        return jnp.sum(joint.chosen_q, axis=-1, keepdims=True)

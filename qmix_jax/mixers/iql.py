"""Independent Q-learning."""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from qmix_jax.mixers.base import Mixer
from qmix_jax.types import MixerInput


class IQL(Mixer):
    """Independent learners (Tan 1993): no mixing, N streams, each learning the team's reward alone."""

    is_monotonic: ClassVar[bool] = True  # each stream, in its own agent's value

    @nn.compact
    def __call__(self, joint: MixerInput) -> Float[Array, "*batch N"]:
        """Q_i, unchanged."""
        return joint.chosen_q

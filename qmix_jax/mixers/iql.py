"""Independent Q-learning."""

import flax.linen as nn
from jaxtyping import Array, Float

from qmix_jax.types import Joint


class IQL(nn.Module):
    """Independent learners (Tan 1993): no mixing, N streams, each learning the team's reward alone."""

    @nn.compact
    def __call__(self, joint: Joint) -> Float[Array, "*batch N"]:
        """Q_i, unchanged."""
        return joint.chosen_q

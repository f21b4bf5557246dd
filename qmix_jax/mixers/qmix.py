"""The monotonic mixing network."""

import math
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qmix_jax.mixers.base import MLP, Mixer, StateNorm, elu, normalise_state, small, weigh
from qmix_jax.nn.linear import Dense
from qmix_jax.settings import Scale, Size
from qmix_jax.types import MixerInput

POSITIVE = {"abs": (jnp.abs, lambda x: x), "softplus": (jax.nn.softplus, lambda x: math.log(math.expm1(x)))}
"""The functions that keep weights positive, each with its inverse."""


class QMIX(Mixer):
    """QMIX (Rashid et al. 2018, section 4; 2020, figure 2): a monotonic mixing network.

        Q_tot = ELU(q^T W1(s) + b1(s)) W2(s) + V(s),    W1, W2 >= 0

    W1 and W2 come from two-layer hypernetworks, b1 from a linear one, V from Linear-ReLU-Linear of width embed_size,
    as in PyMARL. Here unlike there: the state is normalised first; W1 and W2 start at 1 / sqrt(embed_size), so that
    Q_tot starts as the sum of the Q_i (VDN's), and what depends on the state starts small, at `init_scale`.
    """

    is_monotonic: ClassVar[bool] = True
    promises_igm: ClassVar[bool] = True

    embed_size: Size = 32
    """Width of the mixing network."""
    hypernet_size: Size = 64
    """Hidden width of the hypernetworks that make its weights from the state."""
    positive: Literal["abs", "softplus"] = "abs"
    """The function that keeps those weights positive."""
    state_norm: StateNorm = "layer_norm"
    """layer_norm: normalise the state first; none: use it as it is, as in PyMARL and JaxMARL."""
    init_scale: Scale = 0.01
    """Scale of the hypernetworks' last layers at the start; small: Q_tot starts as the sum of the agents' values."""

    @nn.compact
    def __call__(self, joint: MixerInput) -> Float[Array, "*batch 1"]:
        """Q_tot of the joint action."""
        state = normalise_state(joint.state, self.state_norm)
        num_agents, embed = joint.chosen_q.shape[-1], self.embed_size
        make_positive, inverse = POSITIVE[self.positive]
        size, scale, start = self.hypernet_size, self.init_scale, inverse(1 / math.sqrt(embed))
        w1 = make_positive(MLP(size, num_agents * embed, scale, start, name="w1")(state))
        w2 = make_positive(MLP(size, embed, scale, start, name="w2")(state))
        b1 = Dense(embed, kernel_init=small(self.init_scale), name="b1")(state)
        value = MLP(embed, 1, self.init_scale, name="value")(state)
        w1 = w1.reshape(*w1.shape[:-1], num_agents, embed)
        hidden = elu(weigh(joint.chosen_q, w1) + b1)
        return jnp.sum(hidden * w2, axis=-1, keepdims=True) + value

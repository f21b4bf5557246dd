"""Shapley Q-learning: actions that are not greedy are weighted by marginal contributions."""

import itertools
import math
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qmix_jax.mixers.base import MLP, Mixer, StateNorm, elu, normalise_state, small
from qmix_jax.nn.linear import Dense
from qmix_jax.settings import Few, Scale, Size
from qmix_jax.types import MixerInput


class SHAQ(Mixer):
    """SHAQ (Wang et al. 2022, equations 9 to 11): a sum in which actions that are not greedy count for more.

        Q_tot = sum_i delta_i Q_i,    delta_i = 1 where agent i's action is greedy, else alpha_i(s, u)
        alpha_i = 1 + mean over orders m of |F_s(mean of Q_j over the agents j before i in order m, Q_i)|
        F_s(c, q) = ELU([c, q] W1(s) + b1(s)) W2(s) + b2(s),    W1, W2 >= 0

    The mean over all orders of the agents is the Shapley value's (no agent is before the first: mean 0). The
    joint action that makes a target is greedy throughout, so that the error is r + gamma sum_i max Q_i - sum_i delta_i
    Q_i. Greedy agents reach the sum of the largest Q_i, but weights above 1 may lift another joint action over that,
    unless its values are negative: individual-global-max is not promised.

    Layers and sizes are those of the authors' code. Here unlike there: the orders are the same everywhere (all N! where
    `num_orders` covers them, which makes the mean exact, or else as many drawn once) instead of drawn anew for each
    state and update; one optimiser serves agents and F, with one learning rate and one clipping of the gradient's norm,
    where the authors have two, and clip each part by itself (F's rate is 1e-3, on SMAC 1e-4 to 2e-3 by map, on
    predator-prey 1e-4); the state is normalised first, and W1, W2 and b start small, so that Q_tot starts near the sum
    of the Q_i.
    """

    is_monotonic: ClassVar[bool] = False
    promises_igm: ClassVar[bool] = False

    embed_size: Size = 32
    """Width of the network that weighs exploring agents."""
    hypernet_size: Size = 64
    """Hidden width of the hypernetworks that make its weights from the state."""
    num_orders: Few = 10
    """Orders of the agents over which contributions are averaged; all N! where that is no more."""
    state_norm: StateNorm = "layer_norm"
    """layer_norm: normalise the state first; none: use it as it is, as in the authors' code."""
    init_scale: Scale = 0.01
    """Scale of the hypernetworks' last layers at the start; small: Q_tot starts near the sum of the agents' values."""

    @nn.compact
    def __call__(self, joint: MixerInput) -> Float[Array, "*batch 1"]:
        """Q_tot of the joint action."""
        weight = jnp.where(joint.is_greedy, 1.0, self._weight(joint))
        return jnp.sum(weight * joint.chosen_q, axis=-1, keepdims=True)

    def _weight(self, joint: MixerInput) -> Float[Array, "*batch N"]:
        """alpha_i of every agent."""
        state, q = normalise_state(joint.state, self.state_norm), joint.chosen_q
        size, embed, scale = self.hypernet_size, self.embed_size, self.init_scale
        w1 = jnp.abs(MLP(size, 2 * embed, scale, name="w1")(state))[..., None, None, :]
        w2 = jnp.abs(MLP(size, embed, scale, name="w2")(state))[..., None, None, :]
        b1 = Dense(embed, kernel_init=small(scale), name="b1")(state)[..., None, None, :]
        b2 = MLP(embed, 1, scale, name="b2")(state)[..., None, None, 0]
        coalition = jnp.einsum("...j,mij->...mi", q, coalitions(q.shape[-1], self.num_orders))
        inputs = coalition[..., None] * w1[..., :embed] + q[..., None, :, None] * w1[..., embed:]
        contribution = jnp.sum(elu(inputs + b1) * w2, axis=-1) + b2
        return 1 + jnp.mean(jnp.abs(contribution), axis=-2)


def coalitions(num_agents: int, num_orders: int) -> Float[np.ndarray, "M N N"]:
    """Row (m, i) takes the mean over the agents before agent i in order m: 1 / their number for each."""
    if math.factorial(num_agents) <= num_orders:
        orders = np.array(list(itertools.permutations(range(num_agents))))
    else:
        orders = np.random.default_rng(0).permuted(np.tile(np.arange(num_agents), (num_orders, 1)), axis=1)
    place = np.argsort(orders, axis=1)
    before = place[:, None, :] < place[:, :, None]
    return (before / np.maximum(before.sum(-1, keepdims=True), 1)).astype(np.float32)

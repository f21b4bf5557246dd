"""Factorisation by transformation."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from qmix_jax.mixers.base import MLP, Mixer, StateNorm, normalise_state
from qmix_jax.settings import NotNegative, Scale, Size, Traced
from qmix_jax.types import MixerInput


class QTRAN(Mixer):
    """QTRAN-base (Son et al. 2019, equations 4 and 8 to 10): an unrestricted Q_jt, which the agents follow.

        Q_jt(s, h, u) = MLP(s, sum_i encode(h_i, u_i)),    L_td = (Q_jt - target)^2
        L_opt  = (sum_i Q_i(best) - Q_jt(best) + V(s))^2
        L_nopt = min(0, sum_i Q_i(u) - Q_jt(u) + V(s))^2

    Q_jt learns from L_td alone (it is held fixed in the other two), and its target is the target network's Q_jt of the
    greedy joint action. The agents' own values learn only through L_opt and L_nopt; where both are zero for every joint
    action, greedy agents maximise Q_jt. Sizes, weights and the held-fixed terms are PyMARL's (its small network). Here
    unlike there, the state is normalised first.
    """

    embed_size: Size = 64
    """Width of the networks of Q_jt and V."""
    opt_loss: Traced[NotNegative] = 1.0
    """Weight of the loss at the greedy joint action."""
    nopt_loss: Traced[NotNegative] = 0.1
    """Weight of the loss at the joint action that was taken."""
    state_norm: StateNorm = "layer_norm"
    """layer_norm: normalise the state first; none: use it as it is, as in PyMARL."""
    init_scale: Scale = 1.0
    """Scale of the last layers at the start."""

    is_monotonic: ClassVar[bool] = False
    promises_igm: ClassVar[bool] = False  # only where the penalties are zero

    @nn.compact
    def values(self, joint: MixerInput) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
        """Q_jt of the joint action, and V of the state."""
        state = normalise_state(joint.state, self.state_norm)
        agents = jnp.concatenate([joint.hidden, joint.action], axis=-1)
        size = agents.shape[-1]
        encoding = jnp.sum(MLP(size, size, 1.0, name="encode")(agents), axis=-2)
        inputs = jnp.concatenate([state, encoding], axis=-1)
        q = MLP(self.embed_size, 1, self.init_scale, num_layers=3, name="q")(inputs)
        v = MLP(self.embed_size, 1, self.init_scale, num_layers=3, name="v")(state)
        return q[..., 0], v[..., 0]

    def __call__(self, joint: MixerInput) -> Float[Array, "*batch 1"]:
        """Q_jt of the joint action."""
        return self.values(joint)[0][..., None]

    def penalty(self, chosen: MixerInput, best: MixerInput) -> Float[Array, "*batch"]:
        """The weighted sum of L_opt and L_nopt."""
        q, v = self.values(chosen)
        best_q, _ = self.values(best)
        opt = jnp.sum(best.chosen_q, axis=-1) - lax.stop_gradient(best_q) + v
        nopt = jnp.sum(chosen.chosen_q, axis=-1) - lax.stop_gradient(q) + v
        return self.opt_loss * jnp.square(opt) + self.nopt_loss * jnp.square(jnp.minimum(nopt, 0.0))

"""Weighted QMIX: a monotonic Q_tot with a weighted loss, and an unrestricted Q* that makes the targets."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from qmix_jax.mixers.base import MLP, Mixer, StateNorm, normalise_state
from qmix_jax.mixers.qmix import QMIX
from qmix_jax.settings import Share, Size, Traced
from qmix_jax.types import MixerInput


class Central(Mixer):
    """The feed-forward mixer of Q*: any function of the agents' values and the state (without monotonicity).

    Q* = MLP(s, Q_1, ..., Q_N) + V(s), four layers and two.
    """

    hidden_size: int = 256
    state_norm: StateNorm = "layer_norm"

    @nn.compact
    def __call__(self, joint: MixerInput) -> Float[Array, "*batch 1"]:
        """Q* of the joint action."""
        state = normalise_state(joint.state, self.state_norm)
        inputs = jnp.concatenate([state, joint.chosen_q], axis=-1)
        advantage = MLP(self.hidden_size, 1, 1.0, num_layers=4, name="advantage")(inputs)
        return advantage + MLP(self.hidden_size, 1, 1.0, name="value")(state)


class WeightedQMIX(QMIX):
    """What CW- and OW-QMIX share (Rashid et al. 2020, equations 5 to 7).

        L = mean of w(s, u) (Q_tot - G)^2 + mean of (Q* - G)^2,    w in {alpha, 1}

    Q_tot is QMIX's. Q* has recurrent agents of its own and the feed-forward mixer above. Both learn the same target G,
    which bootstraps from Q*'s target network at the joint action that is greedy by Q_tot's agents. The agents act by
    Q_tot alone. Sizes are the authors'. Here unlike there: the agents of Q* begin every sequence with the initial
    recurrent state (replay keeps that of the acting agents only; with whole episodes it is the same), their width is
    `agent.hidden_size`, targets may be lambda targets, and the state is normalised.
    """

    alpha: Traced[Share] = 0.1
    """Weight of all other joint actions; the authors' 0.1 (predator-prey) and 0.5 (SMAC)."""
    central_size: Size = 256
    """Width of the unrestricted Q* that makes the targets."""

    @property
    def central(self) -> Mixer:
        """The mixer of Q*."""
        return Central(self.central_size, self.state_norm, parent=None)


class CWQMIX(WeightedQMIX):
    """Centrally weighted QMIX (Rashid et al. 2020): full weight for what may be the best joint action.

    w = 1 where u is greedy or G exceeds Q*'s value of the greedy joint action, else alpha.
    """

    is_monotonic: ClassVar[bool] = True
    promises_igm: ClassVar[bool] = True

    def importance(self, chosen: Array, targets: Array, best: Array, is_best: Array) -> Array:
        """Full weight where the joint action may be the best."""
        del chosen
        return jnp.where(is_best | (targets > best), 1.0, self.alpha)


class OWQMIX(WeightedQMIX):
    """Optimistically weighted QMIX (Rashid et al. 2020): full weight for what Q_tot underestimates.

    w = 1 where Q_tot is below G, else alpha.
    """

    is_monotonic: ClassVar[bool] = True
    promises_igm: ClassVar[bool] = True

    def importance(self, chosen: Array, targets: Array, best: Array, is_best: Array) -> Array:
        """Full weight where Q_tot was too low."""
        del best, is_best
        return jnp.where(chosen < targets, 1.0, self.alpha)

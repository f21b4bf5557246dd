"""The attention mixing network."""

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from qmix_jax.mixers.base import MLP, Heads, Mixer, StateNorm, normalise_state
from qmix_jax.settings import Few, NotNegative, Scale, Size, Traced
from qmix_jax.types import MixerInput


class Qatten(Mixer):
    """Qatten (Yang et al. 2020, equations 13 to 17): every head weighs the agents by attention.

        Q_tot = sum over heads h of |w_h(s)| sum_i softmax_i(query_h(s) . key_h(u_i) / sqrt(embed_size)) Q_i + c(s)

    The loss adds `attention_penalty` times the mean square of the logits, summed over heads. Shapes and penalty are
    those of the authors' code with weighted heads, of which QPLEX's repository has a copy; PyMARL2's has no penalty.
    Here unlike there: u_i is the agent's recurrent state, through which no gradient flows, and not its slice of
    StarCraft's state, which other environments do not have; the penalty is a mean over the steps that count in the
    loss, there over padded ones too; the query's last layer has a bias, as in PyMARL2 and not as in QPLEX's copy, and
    the keys have none, as in that copy and not as in PyMARL2; the state is normalised first; the w_h start at
    N / num_heads, so that Q_tot starts near the sum of the Q_i. The variant whose keys see the Q_i is left out: it
    loses individual-global-max.
    """

    is_monotonic: ClassVar[bool] = True
    promises_igm: ClassVar[bool] = True

    embed_size: Size = 32
    """Length of queries and keys."""
    hypernet_size: Size = 64
    """Hidden width of the hypernetworks."""
    num_heads: Few = 4
    """Heads of the attention over agents."""
    weighted_heads: bool = True
    """Weigh the heads by the state; false: add them."""
    attention_penalty: Traced[NotNegative] = 0.001
    """Weight of the loss on the squared logits of the attention."""
    state_norm: StateNorm = "layer_norm"
    """layer_norm: normalise the state first; none: use it as it is, as in PyMARL2."""
    init_scale: Scale = 0.01
    """Scale of the last layers at the start; small: Q_tot starts as the sum of the Q_i (weighted_heads=false: as that
    times num_heads / N)."""

    @nn.compact
    def mix(self, joint: MixerInput) -> tuple[Float[Array, "*batch 1"], Float[Array, "*batch heads N"]]:
        """Q_tot of the joint action, and the attention's logits before they are divided by sqrt(embed_size)."""
        state = normalise_state(joint.state, self.state_norm)
        scale, heads, num_agents = self.init_scale, self.num_heads, joint.chosen_q.shape[-1]
        logits = attention_logits(state, joint.hidden, (heads, self.embed_size), self.hypernet_size)
        attention = jax.nn.softmax(logits / math.sqrt(self.embed_size), axis=-1)
        head_q = jnp.sum(attention * joint.chosen_q[..., None, :], axis=-1)
        if self.weighted_heads:
            start = num_agents / heads
            head_q = jnp.abs(MLP(self.hypernet_size, heads, scale, start, name="heads")(state)) * head_q
        value = MLP(self.embed_size, 1, scale, name="value")(state)
        return jnp.sum(head_q, axis=-1, keepdims=True) + value, logits

    def __call__(self, joint: MixerInput) -> Float[Array, "*batch 1"]:
        """Q_tot of the joint action."""
        return self.mix(joint)[0]

    def penalty(self, chosen: MixerInput, best: MixerInput) -> Float[Array, "*batch"]:
        """A cost of large logits."""
        del best
        _, logits = self.mix(chosen)
        return self.attention_penalty * magnitude(logits)


def attention_logits(
    state: Float[Array, "*batch Z"],
    hidden: Float[Array, "*batch N H"],
    heads: tuple[int, int],
    hypernet_size: int,
    prefix: str = "",
) -> Float[Array, "*batch heads N"]:
    """How every head's query, made of the state, matches the agents' keys. `heads`: their number, and the length of
    queries and keys. To be called within a compact method, whose module gets the parameters `query` and `key`, with
    `prefix` before their names.
    """
    query = Heads(heads[0], hypernet_size, heads[1], 1.0, name=f"{prefix}query")(state)
    key = nn.DenseGeneral(heads, use_bias=False, name=f"{prefix}key")(lax.stop_gradient(hidden))
    return jnp.einsum("...he,...nhe->...hn", query, key)


def magnitude(logits: Float[Array, "*batch heads N"]) -> Float[Array, "*batch"]:
    """The mean square of the logits over agents, summed over heads."""
    return jnp.sum(jnp.mean(jnp.square(logits), axis=-1), axis=-1)

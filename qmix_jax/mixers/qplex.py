"""The duplex dueling mixing networks."""

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from qmix_jax.mixers.base import MLP, Heads, Mixer, StateNorm, normalise_state
from qmix_jax.mixers.qatten import attention_logits, magnitude
from qmix_jax.settings import Few, NotNegative, Scale, Size, Traced
from qmix_jax.types import MixerInput

TINY = 1e-10  # added to the weights, so that they are positive and not just non-negative


class QPLEX(Mixer):
    """QPLEX (Wang et al. 2021, equations 8 to 11): every function that satisfies individual-global-max.

        Q_i' = w_i(s) Q_i + v_i(s),   V_i' = w_i(s) max_a Q_i + v_i(s),   w_i > 0
        Q_tot = sum_i Q_i' + sum_i (lambda_i(s, u) - 1) stop_gradient(Q_i' - V_i')
        lambda_i = sum over heads k of |key_k(s)| sigmoid(agents_ki(s)) sigmoid(actions_ki(s, u)) > 0

    The forward value is sum_i V_i' + sum_i lambda_i A_i; as in the authors' code, the advantages A_i = Q_i' - V_i'
    learn through the first sum alone. The maximum is over legal actions.

    `num_layers` is the depth of key, agents and actions. This is the mixer `dmaq` of the authors' code, with which they
    play games (10 heads of 3 layers) and learn StarCraft offline (4 of 1); online they use `dmaq_qatten`, here
    `QPLEXQatten`. Here unlike there: the state is normalised first, and w and lambda start near 1, so that Q_tot starts
    as the sum of the Q_i.
    """

    is_monotonic: ClassVar[bool] = False
    promises_igm: ClassVar[bool] = True

    hypernet_size: Size = 64
    """Hidden width of the hypernetworks that make weights and queries from the state."""
    num_heads: Few = 4
    """Heads of the attention that weighs the advantages; 10 in the authors' games."""
    num_layers: Few = 1
    """Layers of each head's networks; 3 in the authors' games."""
    attention_size: Size = 64
    """Hidden width of those networks, where there are several layers."""
    state_norm: StateNorm = "layer_norm"
    """layer_norm: normalise the state first; none: use it as it is, as in the authors' code."""
    init_scale: Scale = 0.01
    """Scale of the last layers at the start; small: Q_tot starts as the sum of the agents' values."""

    def __call__(self, joint: MixerInput) -> Float[Array, "*batch 1"]:
        """Q_tot of the joint action."""
        return self.mix(joint)[0]

    @nn.compact
    def mix(self, joint: MixerInput) -> tuple[Float[Array, "*batch 1"], Float[Array, "*batch"]]:
        """Q_tot of the joint action, and what the transformation adds to the loss."""
        state = normalise_state(joint.state, self.state_norm)
        weight, value, cost = self._transformation(state, joint)
        advantage = lax.stop_gradient(weight * (joint.chosen_q - joint.greedy_q))
        by_agent = weight * joint.chosen_q + value + (self._importance(state, joint) - 1) * advantage
        return jnp.sum(by_agent, axis=-1, keepdims=True), cost

    def _transformation(self, state: Array, joint: MixerInput) -> tuple[Array, Array, Array]:
        """w_i (*batch, N) and v_i (which broadcasts to it) of the state, and their cost (*batch,)."""
        num_agents, scale = joint.chosen_q.shape[-1], self.init_scale
        weight = jnp.abs(MLP(self.hypernet_size, num_agents, scale, 1.0, name="weight")(state)) + TINY
        value = MLP(self.hypernet_size, num_agents, scale, name="value")(state)
        return weight, value, jnp.zeros(state.shape[:-1])

    def _importance(self, state: Array, joint: MixerInput) -> Float[Array, "*batch N"]:
        """lambda_i of the joint action."""
        action = joint.action.reshape(*joint.action.shape[:-2], -1)
        num_agents, start = joint.chosen_q.shape[-1], 4 / self.num_heads  # 4 sigmoid(0)^2 = 1

        def heads(name: str, output_size: int, start: float = 0.0) -> Heads:
            size, scale = self.attention_size, self.init_scale
            return Heads(self.num_heads, size, output_size, scale, start, self.num_layers, name=name)

        key = jnp.abs(heads("key", 1, start)(state)) + TINY
        agents = jax.nn.sigmoid(heads("agents", num_agents)(state))
        actions = jax.nn.sigmoid(heads("actions", num_agents)(jnp.concatenate([state, action], axis=-1)))
        return jnp.sum(key * agents * actions, axis=-2)


class QPLEXQatten(QPLEX):
    """QPLEX as its authors train it online on StarCraft (`dmaq_qatten` in their code): w and v are Qatten's.

        w_i(s) = sum over heads h of w_h(s) softmax_i(query_h(s) . key_h(u_i) / sqrt(embed_size)),   v_i(s) = c(s) / N

    with w_h = 1, or |w_h(s)| with `weighted_heads` (theirs on MMM2 and 3s5z_vs_3s6z). The rest is QPLEX's, and the loss
    adds `attention_penalty` as with Qatten. Here unlike there: what `Qatten` says of u_i, of the penalty's mean and of
    the query's bias; weighted heads start so that the w_i are near 1. The keys that see the Q_i, theirs on MMM2, are
    left out.
    """

    embed_size: Size = 32
    """Length of queries and keys of Qatten's attention."""
    attention_heads: Few = 4
    """Heads of Qatten's attention."""
    weighted_heads: bool = False
    """Weigh those heads by the state; true: as the authors on MMM2 and 3s5z_vs_3s6z."""
    attention_penalty: Traced[NotNegative] = 0.001
    """Weight of the loss on the squared logits of Qatten's attention."""

    def _transformation(self, state: Array, joint: MixerInput) -> tuple[Array, Array, Array]:
        num_agents, heads, scale = joint.chosen_q.shape[-1], self.attention_heads, self.init_scale
        logits = attention_logits(state, joint.hidden, (heads, self.embed_size), self.hypernet_size, "attention_")
        attention = jax.nn.softmax(logits / math.sqrt(self.embed_size), axis=-1)
        if self.weighted_heads:
            by_head = MLP(self.hypernet_size, heads, scale, num_agents / heads, name="heads")(state)
            attention = jnp.abs(by_head)[..., None] * attention
        value = MLP(self.embed_size, 1, scale, name="value")(state) / num_agents
        return jnp.sum(attention, axis=-2) + TINY, value, self.attention_penalty * magnitude(logits)

    def penalty(self, chosen: MixerInput, best: MixerInput) -> Float[Array, "*batch"]:
        """A cost of large logits."""
        del best
        return self.mix(chosen)[1]

"""The duplex dueling mixing network."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from qmix_jax.config import Few, Scale, Size
from qmix_jax.mixers.base import MLP, Heads, Mixer, StateNorm, normalise_state
from qmix_jax.types import Joint

TINY = 1e-10  # added to the weights, so that they are positive and not just non-negative


class QPLEX(Mixer):
    """QPLEX (Wang et al. 2021, equations 8 to 11): every function that satisfies individual-global-max.

        Q_i' = w_i(s) Q_i + v_i(s),   V_i' = w_i(s) max_a Q_i + v_i(s),   w_i > 0
        Q_tot = sum_i Q_i' + sum_i (lambda_i(s, u) - 1) stop_gradient(Q_i' - V_i')
        lambda_i = sum over heads k of |key_k(s)| sigmoid(agents_ki(s)) sigmoid(actions_ki(s, u)) > 0

    The forward value is sum_i V_i' + sum_i lambda_i A_i; as in the authors' code, the advantages A_i = Q_i' - V_i'
    learn through the first sum alone. The maximum is over legal actions.

    `num_layers` is the depth of key, agents and actions. The authors' settings are 4 heads of 1 layer on SMAC and 10
    of 3 on games. Here unlike there: the state is normalised first, and w and lambda start near 1, so that Q_tot
    starts as the sum of the Q_i.
    """

    is_monotonic: ClassVar[bool] = False
    promises_igm: ClassVar[bool] = True

    hypernet_size: Size = 64
    num_heads: Few = 4
    num_layers: Few = 1
    attention_size: Size = 64
    state_norm: StateNorm = "layer_norm"
    init_scale: Scale = 0.01

    @nn.compact
    def __call__(self, joint: Joint) -> Float[Array, "*batch 1"]:
        """Q_tot of the joint action."""
        state = normalise_state(joint.state, self.state_norm)
        num_agents, scale = joint.chosen_q.shape[-1], self.init_scale
        weight = jnp.abs(MLP(self.hypernet_size, num_agents, scale, 1.0, name="weight")(state)) + TINY
        value = MLP(self.hypernet_size, num_agents, scale, name="value")(state)
        advantage = lax.stop_gradient(weight * (joint.chosen_q - joint.greedy_q))
        by_agent = weight * joint.chosen_q + value + (self._importance(state, joint) - 1) * advantage
        return jnp.sum(by_agent, axis=-1, keepdims=True)

    def _importance(self, state: Array, joint: Joint) -> Float[Array, "*batch N"]:
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

"""The GRU agents with entities as sets: an encoder for each kind, and aimed actions valued by their targets."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import initializers
from jaxtyping import Array

from qmix_jax.agents.gru import GruConfig, RecurrentAgents
from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.entities import Kinds, kinds_of
from qmix_jax.nn.linear import linear
from qmix_jax.settings import Size
from qmix_jax.types import AgentInput, AgentOutput, Params


@dataclass(frozen=True)
class DeepSetsConfig(GruConfig):
    """Entities as sets."""

    entity_size: Size = 64
    """Width of what is computed of each entity."""


@dataclass(frozen=True)
class DeepSetAgents(RecurrentAgents):
    """GRU, with entities as sets and aimed actions valued by their targets, in the manner of Hao et al. 2023.

    Two layers of the GRU agents are made for entities (`qmix_jax.envs.entities.Kinds`). The first takes those of each
    kind k as a set (Deep Sets, Zaheer et al. 2017, theorem 2), so that their order does not matter; where there is only
    one, as itself:

        x = ReLU(sum_k sum_e ReLU(W_k e + b_k) V_k + I[agent id] + A[last action])

    The value of an action that is aimed at an entity comes from that entity and the recurrent state h', so that what is
    learnt of one target holds for all (Action Semantics Network, Wang et al. 2020; there by an inner product):

        Q[aimed at e] = w ReLU(U h' + B e + c) + d

    Hao et al. (DPN and HPN) put both together for StarCraft: here without their generated weights. An entity that is
    not seen is zero, and counts as a constant. Where the environment has no layout, or one that tells no entities
    apart and aims no actions, these agents are the GRU's.
    """

    config: DeepSetsConfig
    kinds: Kinds

    Settings = DeepSetsConfig

    @classmethod
    def make(cls, settings: Any, env: TeamEnv) -> "DeepSetAgents":
        """The agents for an environment."""
        return cls(settings, env.spec, kinds_of(env))

    def _init_inputs(self, key: jax.Array) -> Params:
        hidden, size = self.config.hidden_size, self.config.entity_size
        dense, params = initializers.lecun_normal(), {}
        for k, (count, features) in enumerate(self.kinds.sizes):
            keys = jax.random.split(jax.random.fold_in(key, k))
            if count == 1:
                params[f"kind_{k}"] = dense(keys[0], (features, hidden))
                continue
            params[f"kind_{k}"] = dense(keys[0], (features, size))
            params[f"kind_{k}_bias"] = jnp.zeros(size)
            params[f"kind_{k}_sum"] = dense(keys[1], (size, hidden)) / np.sqrt(count)
        return params

    def _inputs(self, params: Params, obs: Array) -> Array:
        total = jnp.zeros(())
        for k, entities in enumerate(self.kinds.split(obs)):
            if self.kinds.sizes[k][0] == 1:
                total = total + linear(entities[..., 0, :], params[f"kind_{k}"])
            else:
                weights = params[f"kind_{k}"], params[f"kind_{k}_bias"]
                total = total + linear(self._by_step(_sum, weights, entities), params[f"kind_{k}_sum"])
        return total

    def _init_values(self, key: jax.Array) -> Params:
        hidden, size, kinds = self.config.hidden_size, self.config.entity_size, self.kinds
        dense = initializers.lecun_normal()
        params = {"q": dense(key, (hidden, kinds.num_plain)), "q_bias": jnp.zeros(kinds.num_plain)}
        for k in kinds.aimed:
            keys = jax.random.split(jax.random.fold_in(key, k), 3)
            params |= {
                f"aim_{k}": dense(keys[0], (kinds.sizes[k][1], size)),
                f"aim_{k}_hidden": dense(keys[1], (hidden, size)),
                f"aim_{k}_bias": jnp.zeros(size),
                f"aim_{k}_q": dense(keys[2], (size, kinds.num_aimed)),
                f"aim_{k}_q_bias": jnp.zeros(kinds.num_aimed),
            }
        return params

    def _values(self, params: Params, obs: Array, hidden: Array) -> Array:
        """The values of the plain actions, and then of those aimed at each entity (`Kinds.values`)."""
        values, entities = [super()._values(params, obs, hidden)], self.kinds.split(obs)
        for k in self.kinds.aimed:
            from_hidden = linear(hidden, params[f"aim_{k}_hidden"]) + params[f"aim_{k}_bias"]
            weights = params[f"aim_{k}"], params[f"aim_{k}_q"]
            aimed = self._by_step(_aim, weights, entities[k], from_hidden) + params[f"aim_{k}_q_bias"]
            values.append(aimed.reshape(*hidden.shape[:-1], -1))
        return jnp.concatenate(values, axis=-1)

    def _by_step(self, function, weights: tuple[Array, ...], entities: Array, *others: Array) -> Array:
        """`function(weights, entities, *others)`, on a CPU one time step after the other, each computed again for the
        gradient: an array with a row for each entity of all steps does not fit into its cache.
        """
        if entities.ndim == 3 + self.config.share_parameters:  # one step: (B, N, K, F), or each agent's (B, K, F)
            return function(weights, entities, *others)

        def in_turn(weights: tuple[Array, ...], *arrays: Array) -> Array:
            step = jax.checkpoint(function)
            return lax.scan(lambda _, now: ((), step(weights, *now)), (), arrays)[1]

        return lax.platform_dependent(weights, entities, *others, cpu=in_turn, default=function)

    def _apply(self, gru, params: Params, state: Array, inputs: AgentInput) -> AgentOutput:
        output = super()._apply(gru, params, state, inputs._replace(obs=self.kinds.arrange(inputs.obs)))
        places = np.array(self.kinds.values)
        if (places == np.arange(output.q.shape[-1])[: places.shape[1]]).all():
            return output
        return output._replace(q=output.q[..., np.arange(len(places))[:, None], places])


def _sum(weights: tuple[Array, ...], entities: Array) -> Array:
    """sum_e ReLU(W e + b)"""
    weight, bias = weights
    return jnp.sum(jax.nn.relu(linear(entities, weight) + bias), axis=-2)


def _aim(weights: tuple[Array, ...], entities: Array, from_hidden: Array) -> Array:
    """w ReLU(U h' + B e + c) of every entity, `from_hidden` being U h' + c."""
    weight, q = weights
    return linear(jax.nn.relu(linear(entities, weight) + from_hidden[..., None, :]), q)

"""QMIX whose mixing weights are the outputs of a transformer over entities, agents and three learnt tokens."""

import math
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.entities import Entities, state_of
from qmix_jax.mixers.base import Mixer, StateNorm, elu, normalise_state, weigh
from qmix_jax.nn.linear import Dense
from qmix_jax.nn.transformer import Transformer
from qmix_jax.settings import Few, Size
from qmix_jax.types import MixerInput


class TransfQMix(Mixer):
    """TransfQMix (Gallici et al. 2023): a transformer makes the mixing weights; agents: +preset=transfqmix.

        [..., w_1, ..., w_N, b_1, w_2, b_2] = Transformer([entities of the state, h_1, ..., h_N, three tokens])
        Q_tot = ELU(q^T |W1| + b_1) |w_2| + relu(W b_2 + b)

    h_i is agent i's recurrent state, through which no gradient flows, and its output w_i a row of W1. So Q_tot rises
    with every Q_i, and no parameter depends on the number of agents or entities. With agent=gru it is the
    authors' ablation of the agents, and QMIX on transformer agents that of the mixer; `+preset=transfqmix` has both
    (`transfqmix_mpe` for simple_spread). Layers and sizes are those of the authors' code. Here unlike there: the three
    tokens are learnt, where the authors carry their outputs from step to step; the weights are divided by
    sqrt(embed_size) where `is_scaled`, since the outputs of a normalised layer are large; the state is normalised
    first; recurrent states of another width are projected. Where the environment does not say which entity a number of
    the state describes, all of it is one entity; on simple_spread the entities are those of every agent's observation.
    """

    is_monotonic: ClassVar[bool] = True
    promises_igm: ClassVar[bool] = True

    embed_size: Size = 32
    """Width of a token and of the mixing network."""
    num_heads: Few = 4
    """Attention heads of the transformer."""
    num_layers: Few = 2
    """Layers of the transformer."""
    is_scaled: bool = True
    """Divide the mixing weights by sqrt(embed_size); false: as in the authors' code."""
    state_norm: StateNorm = "layer_norm"
    """layer_norm: normalise the state first; none: use it as it is, as in the authors' code."""
    entities: Entities | None = None

    def in_env(self, env: TeamEnv) -> "TransfQMix":
        """The mixer that knows the entities of the environment's state."""
        return self.clone(entities=state_of(env))

    @nn.compact
    def __call__(self, joint: MixerInput) -> Float[Array, "*batch 1"]:
        """Q_tot of the joint action."""
        embed, num_agents = self.embed_size, joint.chosen_q.shape[-1]
        state = normalise_state(joint.state, self.state_norm)
        entities = state[..., None, :] if self.entities is None else self.entities.rows(state)
        agents = lax.stop_gradient(joint.hidden)
        if agents.shape[-1] != embed:
            agents = Dense(embed, name="agents")(agents)
        own = self.param("tokens", nn.initializers.normal(1.0), (3, embed))
        own = jnp.broadcast_to(own, (*entities.shape[:-2], 3, embed))
        tokens = jnp.concatenate([Dense(embed, name="embed")(entities), agents, own], axis=-2)
        kept = slice(-num_agents - 3, None)
        tokens = Transformer(self.num_heads, self.num_layers, name="transformer")(tokens, kept)
        scale = math.sqrt(embed) if self.is_scaled else 1.0
        w1, w2 = jnp.abs(tokens[..., :-3, :]) / scale, jnp.abs(tokens[..., -2, :]) / scale
        hidden = elu(weigh(joint.chosen_q, w1) + tokens[..., -3, :])
        value = nn.relu(Dense(1, name="value")(tokens[..., -1, :]))
        return jnp.sum(hidden * w2, axis=-1, keepdims=True) + value

"""The agents of TransfQMix: attention over the entities that an agent sees, and over its recurrent state."""

from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from qmix_jax.agents.base import Agents
from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.entities import Team, team_of
from qmix_jax.nn.linear import Dense
from qmix_jax.nn.transformer import Transformer
from qmix_jax.settings import Few, Size
from qmix_jax.types import AgentInput, AgentOutput, Params, TeamSpec


@dataclass(frozen=True)
class TransformerConfig:
    """Attention over entities."""

    hidden_size: Size = 64
    """Width of the layers and of the recurrent state."""
    num_heads: Few = 4
    """Attention heads."""
    num_layers: Few = 2
    """Layers of attention."""


class AttentionNetwork(nn.Module):
    """TransfQMix's agent (Gallici et al. 2023).

        [h', e_1', ..., e_K'] = Transformer([h, e_1, ..., e_K]),    e_k = W entity_k + b
        Q = [W_plain h' + b_plain, w_aimed e_k' + b_aimed of every entity k]

    h is the recurrent state; the value of an action that is aimed at an entity comes from that entity ("policy
    decoupling").
    """

    size: int
    num_heads: int
    num_layers: int
    num_plain: int
    num_aimed: int
    """The most actions that are aimed at one entity; 0: none is."""

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "*batch E"], entities: Float[Array, "*batch K F"]
    ) -> tuple[Float[Array, "*batch E"], Float[Array, "*batch V"]]:
        """The next recurrent state; values of the plain actions, and then of those aimed at each entity."""
        embedded = Dense(self.size, name="embed")(entities)
        tokens = jnp.concatenate([hidden[..., None, :], embedded], axis=-2)
        kept = slice(None) if self.num_aimed else slice(1)
        tokens = Transformer(self.num_heads, self.num_layers, name="transformer")(tokens, kept)
        hidden = tokens[..., 0, :]
        values = Dense(self.num_plain, name="plain")(hidden)
        if self.num_aimed:
            aimed = Dense(self.num_aimed, name="aimed")(tokens[..., 1:, :])
            values = jnp.concatenate([values, aimed.reshape(*values.shape[:-1], -1)], axis=-1)
        return hidden, values


@dataclass(frozen=True)
class TransformerAgents(Agents):
    """Attention over the entities that an agent sees, as in TransfQMix (Gallici et al. 2023).

    The parameters know features and not entities, so that they fit a team of any size whose entities have the same
    features. They equal the agents of the authors' code, except that the environment's layout says which numbers
    describe an entity (`qmix_jax.envs.entities`): an entity that is not seen is zero but for its marks.
    """

    config: TransformerConfig
    spec: TeamSpec
    team: Team

    Settings = TransformerConfig

    @classmethod
    def make(cls, settings: TransformerConfig, env: TeamEnv) -> "TransformerAgents":
        """The agents for an environment."""
        return cls(settings, env.spec, team_of(env))

    @property
    def _network(self) -> AttentionNetwork:
        config, num_plain = self.config, self.team.num_plain
        return AttentionNetwork(config.hidden_size, config.num_heads, config.num_layers, num_plain, self.team.num_aimed)

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters."""
        zeros = jnp.zeros((1, self.spec.num_agents, self.spec.obs_size))
        return self._network.init(key, self.initial_state(1), self._entities(zeros))

    def initial_state(self, num_envs: int) -> Float[Array, "B N H"]:
        """The recurrent state before an episode: zeros."""
        return jnp.zeros((num_envs, self.spec.num_agents, self.config.hidden_size))

    def step(
        self, params: Params, state: Float[Array, "B N H"], inputs: AgentInput
    ) -> tuple[Float[Array, "B N H"], AgentOutput]:
        """One time step: the next recurrent state, and the output."""
        state = jnp.where(inputs.first[:, None, None], 0.0, state)
        state, values = self._network.apply(params, state, self._entities(inputs.obs))  # pyright: ignore
        places = np.array(self.team.values)[None]
        q = jnp.take_along_axis(values, places, axis=-1)  # pyright: ignore[reportArgumentType]
        return state, AgentOutput(q, state)

    def unroll(
        self, params: Params, state: Float[Array, "B N H"], inputs: AgentInput
    ) -> tuple[Float[Array, "B N H"], AgentOutput]:
        """T time steps from the state before the first: the state after the last, and the outputs (T, B, ...).

        The gradient computes every step again, which on a CPU is faster than to read its intermediate results.
        """
        return lax.scan(jax.checkpoint(partial(self.step, params)), state, inputs)

    def _entities(self, obs: Float[Array, "B N O"]) -> Float[Array, "B N K F"]:
        """What each agent sees, one row an entity."""
        rows = self.team.entities.rows(jnp.reshape(obs, (obs.shape[0], -1)))
        return jnp.reshape(rows, (*obs.shape[:2], -1, rows.shape[-1]))

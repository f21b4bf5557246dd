"""The recurrent Q-network of every agent: a linear layer, a GRU, a linear layer (DRQN, as in PyMARL)."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jaxtyping import Array, Float

from qmix_jax.agents.base import Agents
from qmix_jax.envs.base import TeamEnv
from qmix_jax.nn.gru import GruWeights, gru_step, gru_unroll
from qmix_jax.nn.linear import linear
from qmix_jax.settings import Size
from qmix_jax.types import AgentInput, AgentOutput, Params, TeamSpec


@dataclass(frozen=True)
class GruConfig:
    """Linear layer, GRU, linear layer."""

    hidden_size: Size = 64
    """Width of the layers and of the recurrent state."""
    layer_norm: bool = False
    """Normalise the first layer, and the recurrent state before the last layer."""
    use_agent_id: bool = True
    """Add the agent's number to its input, so that shared parameters can tell agents apart."""
    use_last_action: bool = True
    """Add the agent's last action to its input."""
    share_parameters: bool = True
    """One network for all agents; false: each agent has its own."""


@dataclass(frozen=True)
class RecurrentAgents(Agents):
    """Linear layer, GRU, linear layer, as in PyMARL.

        x = ReLU(W obs + I[agent id] + A[last action]),    h' = GRU(h, x),    Q = V h' + b

    I and A are embeddings: their rows are what one-hot inputs would add to the first layer. `layer_norm` normalises the
    argument of the ReLU, and h' before the last layer. With `share_parameters` all agents use the same weights;
    without, every parameter has a leading axis N. The recurrent state and the features for the mixer are h'.

    Here unlike in PyMARL: "no last action", before an episode's first, has a learnt row of its own (there it adds
    nothing); and r and z have one bias where PyTorch's GRU has two, of which only the sum matters (an optimiser that
    scales the step of each number, such as Adam or RMSprop, moves the sum of two twice as far).
    """

    config: GruConfig
    spec: TeamSpec

    Settings = GruConfig

    @classmethod
    def make(cls, settings: GruConfig, env: TeamEnv) -> "RecurrentAgents":
        """The agents for an environment."""
        return cls(settings, env.spec)

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters."""
        if self.config.share_parameters:
            return self._init_one(key)
        return jax.vmap(self._init_one)(jax.random.split(key, self.spec.num_agents))

    def _init_one(self, key: jax.Array) -> Params:
        size, spec, config = self.config.hidden_size, self.spec, self.config
        keys = iter(jax.random.split(key, 6))
        dense, rows = initializers.lecun_normal(), initializers.normal(0.05)
        recurrent = initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's default for a GRU
        params = {
            **self._init_inputs(next(keys)),
            "bias": jnp.zeros(size),
            "gru_input": dense(next(keys), (size, 3 * size)),
            "gru_bias": jnp.zeros(3 * size),
            "gru_recurrent": recurrent(next(keys), (size, 3 * size)),
            "gru_recurrent_bias": jnp.zeros(size),
            **self._init_values(next(keys)),
        }
        if config.use_agent_id and config.share_parameters:
            params["agent_id"] = rows(next(keys), (spec.num_agents, size))
        if config.use_last_action:
            params["last_action"] = rows(next(keys), (spec.num_actions + 1, size))
        if config.layer_norm:
            params |= {"norm_scale": jnp.ones((2, size)), "norm_bias": jnp.zeros((2, size))}
        return params

    def _init_inputs(self, key: jax.Array) -> Params:
        """The parameters of `_inputs`."""
        return {"obs": initializers.lecun_normal()(key, (self.spec.obs_size, self.config.hidden_size))}

    def _init_values(self, key: jax.Array) -> Params:
        """The parameters of `_values`."""
        size, num_actions = self.config.hidden_size, self.spec.num_actions
        return {"q": initializers.lecun_normal()(key, (size, num_actions)), "q_bias": jnp.zeros(num_actions)}

    def initial_state(self, num_envs: int) -> Float[Array, "B N H"]:
        """The recurrent state before an episode: zeros."""
        return jnp.zeros((num_envs, self.spec.num_agents, self.config.hidden_size))

    def step(
        self, params: Params, state: Float[Array, "B N H"], inputs: AgentInput
    ) -> tuple[Float[Array, "B N H"], AgentOutput]:
        """One time step: the next recurrent state, and the output."""
        output = self._apply(gru_step, params, state, inputs)
        return output.features, output

    def unroll(
        self, params: Params, state: Float[Array, "B N H"], inputs: AgentInput
    ) -> tuple[Float[Array, "B N H"], AgentOutput]:
        """T time steps from the state before the first: the state after the last, and the outputs (T, B, ...)."""
        output = self._apply(gru_unroll, params, state, inputs)
        return output.features[-1], output

    def _apply(self, gru, params: Params, state: Array, inputs: AgentInput) -> AgentOutput:
        """The output after one step, or after each of T steps with `gru_unroll`."""
        last_action = jnp.where(inputs.first[..., None], self.spec.num_actions, inputs.last_action)
        first = jnp.broadcast_to(inputs.first[..., None], last_action.shape)

        def network(params: Params, state: Array, obs: Array, last_action: Array, first: Array) -> AgentOutput:
            embedded = self._embed(params, obs, last_action[..., 0])
            weights = GruWeights(*[params[f"gru_{name}"] for name in GruWeights._fields])
            hidden = gru(weights, state, embedded, first[..., 0])
            return AgentOutput(self._values(params, obs, _normalise(params, 1, hidden)), hidden)

        return self._per_agent(network, params, state, inputs.obs, last_action[..., None], first[..., None])

    def _embed(self, params: Params, obs: Array, last_action: Array) -> Array:
        x = self._inputs(params, obs) + params["bias"]
        if "last_action" in params:
            x = x + params["last_action"][last_action]
        if "agent_id" in params:
            x = x + params["agent_id"]
        return jax.nn.relu(_normalise(params, 0, x))

    def _inputs(self, params: Params, obs: Array) -> Array:
        """What the observation adds to the first layer."""
        return linear(obs, params["obs"])

    def _values(self, params: Params, obs: Array, hidden: Array) -> Array:
        """The value of every action."""
        del obs  # a subclass may look at it again
        return linear(hidden, params["q"]) + params["q_bias"]

    def _per_agent(self, function, params: Params, *trees: Any) -> Any:
        """Call `function(params, *trees)` with the shared weights, or with each agent's own, along axis -2."""
        if self.config.share_parameters:
            return function(params, *trees)
        move = functools.partial(jnp.moveaxis, source=-2, destination=0)
        inputs = jax.tree.map(move, trees)
        return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -2), jax.vmap(function)(params, *inputs))


def _normalise(params: Params, layer: int, x: Array) -> Array:
    """Layer normalisation of the first layer (0) or the recurrent state (1), where the agents have it."""
    if "norm_scale" not in params:
        return x
    mean, variance = jnp.mean(x, -1, keepdims=True), jnp.var(x, -1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-6) * params["norm_scale"][layer] + params["norm_bias"][layer]

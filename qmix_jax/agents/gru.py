"""The recurrent Q-network of every agent: a linear layer, a GRU, a linear layer (DRQN, as in PyMARL)."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jaxtyping import Array, Bool, Float, Int

from qmix_jax.config import AgentConfig
from qmix_jax.nn.gru import GruWeights, gru_step, gru_unroll
from qmix_jax.nn.linear import linear
from qmix_jax.types import Params, TeamSpec


class AgentInput(NamedTuple):
    """What the agents know at one time, or at T times (a leading axis)."""

    obs: Float[Array, "*T B N O"]
    last_action: Int[Array, "*T B N"]
    """Ignored where `first` is true; num_actions stands for none."""
    first: Bool[Array, "*T B"]
    """The episode begins here: forget what came before."""


class RecurrentAgents(NamedTuple):
    """The team's networks as pure functions over `Params`.

    Per agent: ReLU(W obs + row of its id + row of its last action) -> GRU -> Q of every action. The two rows are
    what one-hot inputs would add to the first layer. `layer_norm` normalises what goes into the ReLU, and the
    recurrent state before the last layer. With `share_parameters` all agents use the same weights;
    without, every parameter has a leading axis N.

    Here unlike PyMARL: "no last action", before an episode's first, has a row of its own, which is learnt (there it
    adds nothing); and r and z have one bias where PyTorch's GRU has two, of which only the sum matters (an optimiser
    that scales each number's step, as Adam and RMSprop do, moves the sum of two twice as far).
    """

    config: AgentConfig
    spec: TeamSpec

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
            "obs": dense(next(keys), (spec.obs_size, size)),
            "bias": jnp.zeros(size),
            "gru_input": dense(next(keys), (size, 3 * size)),
            "gru_bias": jnp.zeros(3 * size),
            "gru_recurrent": recurrent(next(keys), (size, 3 * size)),
            "gru_recurrent_bias": jnp.zeros(size),
            "q": dense(next(keys), (size, spec.num_actions)),
            "q_bias": jnp.zeros(spec.num_actions),
        }
        if config.use_agent_id and config.share_parameters:
            params["agent_id"] = rows(next(keys), (spec.num_agents, size))
        if config.use_last_action:
            params["last_action"] = rows(next(keys), (spec.num_actions + 1, size))
        if config.layer_norm:
            params |= {"norm_scale": jnp.ones((2, size)), "norm_bias": jnp.zeros((2, size))}
        return params

    def initial_hidden(self, num_envs: int) -> Float[Array, "B N H"]:
        """The recurrent state before an episode: zeros."""
        return jnp.zeros((num_envs, self.spec.num_agents, self.config.hidden_size))

    def step(
        self, params: Params, hidden: Float[Array, "B N H"], inputs: AgentInput
    ) -> tuple[Float[Array, "B N H"], Float[Array, "B N A"]]:
        """One time step: the next recurrent state, and Q of every action."""
        hidden = self._recur(gru_step, params, hidden, inputs)
        return hidden, self._per_agent(_head, params, hidden)

    def unroll(
        self, params: Params, hidden: Float[Array, "B N H"], inputs: AgentInput
    ) -> tuple[Float[Array, "T B N H"], Float[Array, "T B N A"]]:
        """T time steps from the recurrent state before the first: the state after every step, and Q."""
        hiddens = self._recur(gru_unroll, params, hidden, inputs)
        return hiddens, self._per_agent(_head, params, hiddens)

    def _recur(self, gru, params: Params, hidden: Array, inputs: AgentInput) -> Array:
        """The recurrent layer's output: of one step, or of all with `gru_unroll`."""
        last_action = jnp.where(inputs.first[..., None], self.spec.num_actions, inputs.last_action)
        first = jnp.broadcast_to(inputs.first[..., None], last_action.shape)

        def layer(params: Params, hidden: Array, obs: Array, last_action: Array, first: Array) -> Array:
            embedded = _embed(params, obs, last_action[..., 0])
            return gru(
                GruWeights(*[params[f"gru_{name}"] for name in GruWeights._fields]), hidden, embedded, first[..., 0]
            )

        return self._per_agent(layer, params, hidden, inputs.obs, last_action[..., None], first[..., None])

    def _per_agent(self, function, params: Params, *trees: Any) -> Any:
        """Call `function(params, *trees)` with the shared weights, or with each agent's own, along axis -2."""
        if self.config.share_parameters:
            return function(params, *trees)
        move = functools.partial(jnp.moveaxis, source=-2, destination=0)
        inputs = jax.tree.map(move, trees)
        return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -2), jax.vmap(function)(params, *inputs))


def _embed(params: Params, obs: Array, last_action: Array) -> Array:
    x = linear(obs, params["obs"]) + params["bias"]
    if "last_action" in params:
        x = x + params["last_action"][last_action]
    if "agent_id" in params:
        x = x + params["agent_id"]
    return jax.nn.relu(_normalise(params, 0, x))


def _head(params: Params, hidden: Array) -> Array:
    return linear(_normalise(params, 1, hidden), params["q"]) + params["q_bias"]


def _normalise(params: Params, layer: int, x: Array) -> Array:
    """Layer normalisation of the first layer (0) or the recurrent state (1), where the agents have it."""
    if "norm_scale" not in params:
        return x
    mean, variance = jnp.mean(x, -1, keepdims=True), jnp.var(x, -1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-6) * params["norm_scale"][layer] + params["norm_bias"][layer]

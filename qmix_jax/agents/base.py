"""The contract of the agents: a recurrent Q-network for the whole team, as pure functions over `Params`."""

import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from qmix_jax.envs.base import TeamEnv
from qmix_jax.settings import constructor_settings, require
from qmix_jax.types import AgentInput, AgentOutput, Params, RecurrentState, TeamSpec


class _ConstructorSettings:
    def __get__(self, _: Any, cls: type) -> type:
        parameters = inspect.signature(cls).parameters.values()
        first = [each for each in parameters if each.kind not in (each.KEYWORD_ONLY, each.VAR_KEYWORD)][:1]
        takes_env = any(each.name == "env" or each.kind is each.VAR_POSITIONAL for each in first)
        require(takes_env, f"the constructor of {cls.__name__} must take env first")
        return constructor_settings(cls, ("env",))


class Agents(ABC):
    """The team's networks: derive from it, set `spec`, and define `init`, `initial_state` and `step`.

    The constructor takes the environment as `env`; its other arguments are the settings of the network. Where
    `inputs.first` is true, the recurrent state is reset before the step.
    """

    Settings: ClassVar[Any] = _ConstructorSettings()
    """The dataclass of its settings: those of the constructor, where a class does not set its own."""

    spec: TeamSpec
    """The team's sizes."""

    @classmethod
    def make(cls, settings: Any, env: TeamEnv) -> "Agents":
        """The agents for an environment; `settings` is an object of `Settings`."""
        return cls(env, **vars(settings))  # pyright: ignore[reportCallIssue]

    @abstractmethod
    def init(self, key: jax.Array) -> Params:
        """Fresh parameters."""

    @abstractmethod
    def initial_state(self, num_envs: int) -> RecurrentState:
        """The recurrent state before an episode: any pytree (B, ...)."""

    @abstractmethod
    def step(self, params: Params, state: RecurrentState, inputs: AgentInput) -> tuple[RecurrentState, AgentOutput]:
        """One time step (B, ...): the next recurrent state, and the output."""

    def unroll(self, params: Params, state: RecurrentState, inputs: AgentInput) -> tuple[RecurrentState, AgentOutput]:
        """T time steps from the state before the first: the state after the last, and the outputs (T, B, ...)."""
        return lax.scan(lambda carry, now: self.step(params, carry, now), state, inputs)


def num_features(agents: Agents) -> int:
    """The width H of the features that mixers get."""
    spec = agents.spec
    observed = jax.ShapeDtypeStruct((1, spec.num_agents, spec.obs_size), jnp.float32)
    acted = jax.ShapeDtypeStruct((1, spec.num_agents), jnp.int32)
    inputs = AgentInput(observed, acted, jax.ShapeDtypeStruct((1,), jnp.bool_))  # pyright: ignore[reportArgumentType]

    def step(inputs: AgentInput) -> AgentOutput:
        return agents.step(agents.init(jax.random.key(0)), agents.initial_state(1), inputs)[1]

    return jax.eval_shape(step, inputs).features.shape[-1]

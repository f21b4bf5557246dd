"""The contract of the agents: a recurrent Q-network for the whole team, as pure functions over `Params`."""

from typing import Any, ClassVar, Protocol, runtime_checkable

import jax

from qmix_jax.envs.base import TeamEnv
from qmix_jax.types import AgentInput, AgentOutput, Params, RecurrentState, TeamSpec


@runtime_checkable
class Agents(Protocol):
    """The team's networks. Where `inputs.first` is true, they reset the recurrent state before the step."""

    @property
    def spec(self) -> TeamSpec:
        """The team's sizes."""
        ...

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters."""
        ...

    def initial_state(self, num_envs: int) -> RecurrentState:
        """The recurrent state before an episode: any pytree (B, ...)."""
        ...

    def step(self, params: Params, state: RecurrentState, inputs: AgentInput) -> tuple[RecurrentState, AgentOutput]:
        """One time step (B, ...): the next recurrent state, and the output."""
        ...

    def unroll(self, params: Params, state: RecurrentState, inputs: AgentInput) -> tuple[RecurrentState, AgentOutput]:
        """T time steps from the state before the first: the state after the last, and the outputs (T, B, ...)."""
        ...


class Network(Agents, Protocol):
    """Agents in the registry: they can be made from the settings of a run. The first line of the class's docstring is
    printed by `qmix-jax train --help`.
    """

    Settings: ClassVar[type]
    """The dataclass of its settings, of which `hidden_size` is the width of the features."""

    @classmethod
    def make(cls, settings: Any, env: TeamEnv) -> Agents:
        """The agents for an environment."""
        ...

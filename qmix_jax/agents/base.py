"""The contract of the agents: a recurrent Q-network for the whole team, as pure functions over `Params`."""

from typing import Protocol, runtime_checkable

import jax

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

"""The contract between an environment and everything else: `reset`, `step` and `spec`."""

from typing import Any, Protocol, runtime_checkable

import jax

from qmix_jax.types import EnvState, Observation, Outcome, TeamSpec


@runtime_checkable
class TeamEnv(Protocol):
    """A cooperative environment as pure functions over one environment's arrays; callers `vmap` them.

    It never restarts by itself: `step` returns the true successor, and the rollout decides what comes after an end.
    """

    @property
    def spec(self) -> TeamSpec:
        """Sizes, names and limits."""
        ...

    def reset(self, key: jax.Array) -> tuple[EnvState, Observation]:
        """A fresh episode."""
        ...

    def step(self, key: jax.Array, state: EnvState, action: jax.Array) -> tuple[EnvState, Observation, Outcome]:
        """One step with the joint action (N,), integers that were available in the last observation."""
        ...

    def scene(self, state: EnvState) -> dict[str, Any]:
        """The arrays that a painter needs to draw this moment (see `qmix_jax.reporting.film`)."""
        ...

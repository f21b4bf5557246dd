"""The contract of an environment: `spec`, `reset`, `step`, what replay keeps of a moment, and what a painter needs."""

from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from qmix_jax.types import EnvState, Memory, Observation, Outcome, TeamSpec


class RemembersObservations:
    """For environments whose observations are small: replay keeps them as they are."""

    def remember(self, state: EnvState, observation: Observation) -> Observation:
        """The observation itself."""
        del state
        return observation

    def observe(self, memory: Observation) -> Observation:
        """The observation itself."""
        return memory


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

    def remember(self, state: EnvState, observation: Observation) -> Memory:
        """What replay keeps of a moment: the less the better, as long as `observe` can make the observation of it."""
        ...

    def observe(self, memory: Memory) -> Observation:
        """The observation of a remembered moment."""
        ...

    def scene(self, state: EnvState) -> dict[str, Any]:
        """The arrays that a painter needs to draw this moment (see `qmix_jax.film.film`)."""
        ...


@lru_cache(maxsize=16)
def metric_names(env: TeamEnv) -> tuple[str, ...]:
    """The names in every step's `Outcome.metrics`, in alphabetical order."""

    def step(key: jax.Array) -> dict[str, jax.Array]:
        state, _ = env.reset(key)
        return env.step(key, state, jnp.zeros(env.spec.num_agents, int))[2].metrics

    return tuple(sorted(jax.eval_shape(step, jax.random.key(0))))

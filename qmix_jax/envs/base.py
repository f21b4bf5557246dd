"""The contract of an environment."""

from functools import lru_cache
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from qmix_jax.types import CompactObservation, EnvState, Observation, Outcome, TeamSpec


class KeepsObservations:
    """For environments whose observations are small: the replay buffer keeps them as they are."""

    def compress(self, state: EnvState, observation: Observation) -> Observation:
        """The observation itself."""
        del state
        return observation

    def decompress(self, compact: Observation) -> Observation:
        """The observation itself."""
        return compact


@runtime_checkable
class TeamEnv(Protocol):
    """A cooperative environment as pure functions over one environment's arrays; callers `vmap` them.

    It never resets itself: `step` returns the true successor, also after the last step of an episode.
    """

    @property
    def spec(self) -> TeamSpec:
        """Sizes, names and limits."""
        ...

    def reset(self, key: jax.Array) -> tuple[EnvState, Observation]:
        """Start an episode."""
        ...

    def step(self, key: jax.Array, state: EnvState, action: jax.Array) -> tuple[EnvState, Observation, Outcome]:
        """One step with the joint action (N,), integers that were available in the last observation."""
        ...

    def compress(self, state: EnvState, observation: Observation) -> CompactObservation:
        """What the replay buffer keeps of an observation: as little as `decompress` needs to restore it."""
        ...

    def decompress(self, compact: CompactObservation) -> Observation:
        """The observation of which `compress` made this."""
        ...

    def scene(self, state: EnvState) -> dict[str, Any]:
        """The arrays that a painter needs to draw this state. An environment that has a painter names it as `painter`
        (a `qmix_jax.film.recording.Painter`, see `painted_by`); the films of the others are text.
        """
        ...


def painted_by(place: str) -> property:
    """The property `painter` of an environment: the function `module:name`, imported when it is needed, not before."""
    module, _, name = place.partition(":")
    return property(lambda _: getattr(import_module(module), name))


@lru_cache(maxsize=16)
def metric_names(env: TeamEnv) -> tuple[str, ...]:
    """The names in every step's `Outcome.metrics`, in alphabetical order."""

    def step(key: jax.Array) -> dict[str, jax.Array]:
        state, _ = env.reset(key)
        return env.step(key, state, jnp.zeros(env.spec.num_agents, int))[2].metrics

    return tuple(sorted(jax.eval_shape(step, jax.random.key(0))))

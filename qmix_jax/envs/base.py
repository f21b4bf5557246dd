"""The contract of an environment."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from qmix_jax.types import CompactObservation, EnvState, Observation, Outcome, TeamSpec


class TeamEnv(ABC):
    """A cooperative environment as pure functions over one environment's arrays; callers `vmap` them.

    Derive from it, set `spec`, and define `reset` and `step`; everything else is optional. An environment never resets
    itself: `step` returns the true successor, also after the last step of an episode.
    """

    spec: TeamSpec
    """Sizes, names and limits."""
    painter: str | None = None
    """The function that draws its films from `scene` (a `qmix_jax.film.recording.Painter`), as "module:function", which
    is imported where a film is made; None: the arrays of `scene` are shown as they are.
    """
    training: ClassVar[Mapping[str, Any]] = {}
    """The settings of training that suit it, nested as in a config: defaults where a run sets nothing else."""
    variant: ClassVar[str | None] = None
    """The setting that names a map, task or game; None where there is none."""
    variants: ClassVar[tuple[str, ...]] = ()
    """The values of that setting."""

    @abstractmethod
    def reset(self, key: jax.Array) -> tuple[EnvState, Observation]:
        """Start an episode."""

    @abstractmethod
    def step(self, key: jax.Array, state: EnvState, action: jax.Array) -> tuple[EnvState, Observation, Outcome]:
        """One step with the joint action (N,), integers that were available in the last observation."""

    def with_numbers(self, numbers: Mapping[str, Any]) -> "TeamEnv":
        """A copy with other values of its `Traced` settings, which are tracers when it is compiled. By default they are
        attributes with the names of the settings, which `reset` and `step` read.
        """
        made = copy.copy(self)
        vars(made).update(numbers)
        return made

    def compress(self, state: EnvState, observation: Observation) -> CompactObservation:
        """What the replay buffer keeps of an observation: as little as `decompress` needs to restore it. By default
        the observation itself.
        """
        del state
        return observation

    def decompress(self, compact: CompactObservation) -> Observation:
        """The observation of which `compress` made this."""
        return compact

    def scene(self, state: EnvState) -> dict[str, Any]:
        """The arrays that a film needs to show this state; empty: the small arrays of the state itself."""
        del state
        return {}


def start_of(env: TeamEnv, key: jax.Array) -> tuple[EnvState, Observation]:
    """A reset as other methods get it: numbers of Python and arrays of NumPy in the state have become JAX arrays."""
    return jax.tree.map(jnp.asarray, env.reset(key))


def metric_names(env: TeamEnv) -> tuple[str, ...]:
    """The names in every step's `Outcome.metrics`, in alphabetical order."""

    def step(key: jax.Array) -> dict[str, jax.Array]:
        state, _ = start_of(env, key)
        return env.step(key, state, jnp.zeros(env.spec.num_agents, int))[2].metrics

    return tuple(sorted(jax.eval_shape(step, jax.random.key(0))))

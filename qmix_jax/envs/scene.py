"""The arrays that a film shows of a state."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from qmix_jax.envs.base import TeamEnv
from qmix_jax.types import EnvState, Observation

MOST_AXES = 3
MOST_NUMBERS = 1024
"""Larger arrays of a state are left out: no film could show them."""
MOST_IN_ALL = 4 * MOST_NUMBERS
"""What would go beyond this is left out too: a recording holds every step of several episodes."""


def scene_of(env: TeamEnv, state: EnvState, observation: Observation) -> dict[str, Any]:
    """The environment's `scene`; where it is empty the small arrays of the state, or else what the agents see."""
    return env.scene(state) or dict(_small_arrays(state)) or {"observation": observation.agents}


def _small_arrays(state: EnvState) -> Iterator[tuple[str, Any]]:
    """The leaves of a state by their names, without random keys."""
    room = MOST_IN_ALL
    for path, leaf in jax.tree.leaves_with_path(state):
        array, name = jnp.asarray(leaf), jax.tree_util.keystr(path, simple=True, separator=".") or "state"
        if not _is_key(name, array) and array.ndim <= MOST_AXES and 0 < array.size <= min(MOST_NUMBERS, room):
            room -= array.size
            yield name, array


def _is_key(name: str, array: jax.Array) -> bool:
    """Whether this is a random key, new or old in style."""
    is_old = array.dtype == jnp.uint32 and array.shape[-1:] == (2,) and name.lower().endswith(("key", "rng"))
    return is_old or jnp.issubdtype(array.dtype, jax.dtypes.prng_key)

"""Whether attributes hold the same: numbers, arrays, and containers of them."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from qmix_jax.envs.check.calls import holds_numbers

DEEPEST = 5
"""How many containers in one another are looked into."""


def copied(value: Any, depth: int = DEEPEST) -> Any:
    """A copy that no change in place reaches; containers and dataclasses become dicts."""
    parts = _parts(value) if depth else None
    if parts is not None:
        return {key: copied(part, depth - 1) for key, part in parts.items()}
    return copy.copy(value) if isinstance(value, np.ndarray | set | bytearray) else value


def is_same(one: Any, other: Any) -> bool:
    """Whether two copies hold the same, up to the precision of float32. Other objects only are what they are."""
    if one is other:
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if _is_numeric(one) and _is_numeric(other):
        one, other = np.asarray(one), np.asarray(other)
        if one.shape != other.shape or "f" not in one.dtype.kind + other.dtype.kind:
            return np.array_equal(one, other)
        return np.allclose(one, other, rtol=1e-6, equal_nan=True)
    return isinstance(one, str | bytes | bytearray | set | frozenset) and one == other


def _parts(value: Any) -> dict | None:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name, None) for each in dataclasses.fields(value)}
    return None


def _is_numeric(value: Any) -> bool:
    is_array = isinstance(value, np.ndarray | np.generic | jax.Array) and not isinstance(value, Tracer)
    return isinstance(value, bool | int | float) or (is_array and holds_numbers(value))

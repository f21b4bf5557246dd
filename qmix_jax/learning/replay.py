"""A ring of sequences: knows pytrees and rows, nothing of reinforcement learning.

Leaves are (C, ...): row by row one sequence, time inside the row. Where the cursor stands and how full the ring is
follow from the clock, so they are arguments and not state.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int


def init(example: Any, capacity: int) -> Any:
    """An empty ring for `capacity` rows like `example` (a pytree of arrays or shapes of one row)."""
    return jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), example)


def insert(ring: Any, rows: Any, cursor: Int[Array, ""]) -> Any:
    """Write `rows` (B, ...) at `cursor`; the capacity is a multiple of B, so that no write wraps."""
    return jax.tree.map(lambda kept, new: lax.dynamic_update_slice_in_dim(kept, new, cursor, 0), ring, rows)


def minibatch(key: jax.Array, rows: Any, index: Int[Array, ""], batch_size: int) -> Any:
    """The `index`-th part, of `batch_size` rows, of pass after pass over all `rows` (B, ...), each newly shuffled.

    `key` is the same for every index; `batch_size` divides B.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    parts = count // batch_size
    order = jax.random.permutation(jax.random.fold_in(key, index // parts), count)
    part = lax.dynamic_slice_in_dim(order, index % parts * batch_size, batch_size)
    return jax.tree.map(lambda kept: kept[part], rows)


def sample(key: jax.Array, ring: Any, size: Int[Array, ""], batch_size: int) -> Any:
    """`batch_size` rows (B, ...) drawn uniformly, with replacement, from the first `size`."""
    index = (jax.random.uniform(key, (batch_size,)) * size).astype(int)  # randint draws four times as much
    return jax.tree.map(lambda kept: kept[index], ring)


def split_again(ring: Any, rows: int, before: int, after: int) -> Any:
    """A ring (S, C, ...) that `before` devices filled, laid out for `after` devices, on the host.

    Of every insert of `rows` each device takes an equal share and keeps it in its own part of C, so the rows of one
    insert lie apart: device by device, insert by insert, row by row. No row is lost, and each stays with its insert.
    """
    if before == after:
        return ring

    def lay_out(leaf: np.ndarray) -> np.ndarray:
        seeds, capacity, *rest = leaf.shape
        inserts = leaf.reshape(seeds, before, capacity // rows, rows // before, *rest).swapaxes(1, 2)
        parts = inserts.reshape(seeds, capacity // rows, after, rows // after, *rest).swapaxes(1, 2)
        return parts.reshape(leaf.shape)

    return jax.tree.map(lay_out, ring)

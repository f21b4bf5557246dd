"""A replay buffer of equally long sequences, and the form in which it keeps them.

`ReplayBuffer` knows pytrees and rows, nothing of reinforcement learning: every leaf is (C, ...), each row one sequence
with time inside the row. `SequenceFormat` turns sequences into rows and back.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

from qmix_jax.envs.base import TeamEnv, start_of
from qmix_jax.types import CompactObservation, RecurrentState, Sequence, action_dtype, swap_time_and_batch


@dataclass(frozen=True)
class ReplayBuffer:
    """A ring buffer, as pure functions over a pytree of arrays (C, ...). Cursor and fill follow from the number of
    inserts, which the caller counts.
    """

    capacity: int
    """C rows, a multiple of `insert_size`: no insert wraps."""
    insert_size: int
    """The rows that every insert brings."""

    def init(self, example: Any) -> Any:
        """An empty buffer for rows like `example` (a pytree of arrays or shapes of one row)."""
        return jax.tree.map(lambda leaf: jnp.zeros((self.capacity, *leaf.shape), leaf.dtype), example)

    def insert(self, buffer: Any, rows: Any, inserts: Int[Array, ""]) -> Any:
        """The buffer with new rows (insert_size, ...) in place of the oldest, after so many earlier inserts."""
        cursor = inserts % (self.capacity // self.insert_size) * self.insert_size
        return jax.tree.map(lambda kept, new: lax.dynamic_update_slice_in_dim(kept, new, cursor, 0), buffer, rows)

    def size(self, inserts: Int[Array, ""]) -> Int[Array, ""]:
        """How many rows are filled after so many inserts."""
        return jnp.minimum(inserts * self.insert_size, self.capacity)

    def sample(self, key: jax.Array, buffer: Any, inserts: Int[Array, ""], batch_size: int) -> Any:
        """`batch_size` rows (B, ...) drawn uniformly, with replacement, from those filled after so many inserts."""
        uniform = jax.random.uniform(key, (batch_size,))  # jax.random.randint draws four times as many numbers
        index = (uniform * self.size(inserts)).astype(int)
        return jax.tree.map(lambda kept: kept[index], buffer)


def minibatch(key: jax.Array, rows: Any, index: Int[Array, ""], batch_size: int) -> Any:
    """The `index`-th minibatch of repeated passes over all `rows` (R, ...), which are shuffled anew for each pass.

    `key` is the same for every index; `batch_size` divides R.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    parts = count // batch_size
    order = jax.random.permutation(jax.random.fold_in(key, index // parts), count)
    part = lax.dynamic_slice_in_dim(order, index % parts * batch_size, batch_size)
    return jax.tree.map(lambda kept: kept[part], rows)


def split_again(buffer: Any, rows: int, before: int, after: int) -> Any:
    """A buffer (S, C, ...) that `before` devices filled, laid out for `after` devices, on the host.

    Of every insert of `rows` each device takes an equal share and keeps it in its own part of C, so the rows of one
    insert lie apart: device by device, insert by insert, row by row. No row is lost, and each stays with its insert.
    """
    if before == after:
        return buffer

    def lay_out(leaf: np.ndarray) -> np.ndarray:
        seeds, capacity, *rest = leaf.shape
        inserts = leaf.reshape(seeds, before, capacity // rows, rows // before, *rest).swapaxes(1, 2)
        parts = inserts.reshape(seeds, capacity // rows, after, rows // after, *rest).swapaxes(1, 2)
        return parts.reshape(leaf.shape)

    return jax.tree.map(lay_out, buffer)


@dataclass(frozen=True)
class SequenceFormat:
    """How sequences are kept: as rows (B, T, ...), with compact observations in the precision of replay."""

    env: TeamEnv
    dtype: str
    """Of what is float32 in the environment's compact observations: float32 or bfloat16."""

    def example(self, num_steps: int, state: RecurrentState) -> Sequence:
        """The shapes of one row, for recurrent states with the shapes of `state` (1, ...)."""
        spec, time = self.env.spec, num_steps

        def shape(*sizes: int, dtype: Any = jnp.float32) -> Any:
            return jax.ShapeDtypeStruct(sizes, dtype)

        compact = jax.eval_shape(
            lambda key: self._round(self.env.compress(*start_of(self.env, key))), jax.random.key(0)
        )
        return Sequence(
            observation=jax.tree.map(lambda leaf: shape(time + 1, *leaf.shape, dtype=leaf.dtype), compact),
            action=shape(time, spec.num_agents, dtype=action_dtype(spec)),
            reward=shape(time),
            first=shape(time, dtype=bool),
            terminated=shape(time, dtype=bool),
            truncated=shape(time, dtype=bool),
            last_action=shape(spec.num_agents, dtype=action_dtype(spec)),
            hidden=jax.tree.map(lambda leaf: shape(*leaf.shape[1:], dtype=leaf.dtype), state),
        )

    def to_rows(self, sequences: Sequence) -> Sequence:
        """The rows of a rollout's sequences, whose observations are compact already."""
        return swap_time_and_batch(sequences._replace(observation=self._round(sequences.observation)))

    def decompress(self, batch: Sequence) -> Sequence:
        """A batch (T, B, ...) with full observations, in float32, in place of compact ones."""
        compact = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf, batch.observation
        )
        return batch._replace(observation=jax.vmap(jax.vmap(self.env.decompress))(compact))

    def _round(self, compact: CompactObservation) -> CompactObservation:
        dtype = jnp.dtype(self.dtype)
        return jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.dtype == jnp.float32 else leaf, compact)

"""The replay buffer by itself: a ring of rows of any pytree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax.learning.replay import ReplayBuffer

BUFFER = ReplayBuffer(capacity=6, insert_size=2)
ROW = {"number": jnp.zeros(()), "pair": jnp.zeros(2, jnp.int8)}


def filled(inserts):
    """The buffer after so many inserts, of the rows 0 and 1, 2 and 3, ..."""
    buffer = BUFFER.init(ROW)
    for i in range(inserts):
        number = 2 * i + jnp.arange(2.0)
        rows = {"number": number, "pair": jnp.stack([number, -number], axis=1).astype(jnp.int8)}
        buffer = BUFFER.insert(buffer, rows, jnp.array(i))
    return buffer


def test_a_fresh_buffer_has_the_shapes_and_types_of_its_rows():
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), BUFFER.init(ROW))
    assert shapes == {"number": ((6,), jnp.float32), "pair": ((6, 2), jnp.int8)}


@pytest.mark.parametrize(("inserts", "numbers"), [(1, [0, 1, 0, 0, 0, 0]), (3, range(6)), (4, [6, 7, 2, 3, 4, 5])])
def test_new_rows_replace_the_oldest(inserts, numbers):
    buffer = filled(inserts)
    np.testing.assert_array_equal(buffer["number"], numbers)
    np.testing.assert_array_equal(buffer["pair"][:, 1], -np.array(numbers))


@pytest.mark.parametrize(("inserts", "size"), [(0, 0), (2, 4), (3, 6), (100, 6)])
def test_the_size_grows_up_to_the_capacity(inserts, size):
    assert BUFFER.size(jnp.array(inserts)) == size


@pytest.mark.parametrize(("inserts", "numbers"), [(2, range(4)), (5, range(4, 10))])
def test_samples_are_whole_rows_from_the_filled_part_equally_often(inserts, numbers):
    batch = BUFFER.sample(jax.random.key(0), filled(inserts), jnp.array(inserts), 6000)
    np.testing.assert_array_equal(batch["pair"], np.stack([batch["number"], -batch["number"]], axis=1))
    found, counts = np.unique(batch["number"], return_counts=True)
    assert found.tolist() == list(numbers)
    np.testing.assert_allclose(counts / 6000, 1 / len(numbers), atol=0.02)

"""The processes of a run on several hosts: which of them this one is, and what they pass to each other.

Small values go through JAX's coordination service, which process 0 runs, with a time limit; arrays through the devices.
With one process nothing is passed, and nothing is computed.
"""

import itertools
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax._src.distributed import global_state  # JAX's own barriers on devices have no time limit
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from qmix_jax.run.exits import HostLostError
from qmix_jax.settings import LARGEST_INT

SECONDS = 3600.0
"""How long a process waits for the others in the host loop: as long as their chunks may differ."""


def count() -> int:
    """The number of processes."""
    return global_state.num_processes


def is_first() -> bool:
    """Whether this process is the one that writes and reports."""
    return global_state.process_id == 0


_numbers = itertools.count()


class Channel:
    """Passes values of JSON between all processes, which make their channels and call them in the same order.

    One thread uses it.
    """

    def __init__(self, name: str = "", seconds: float = SECONDS):
        """Without a name it gets the next number. `seconds` is the time limit of a call."""
        self.name, self._seconds = name or f"qmix_jax/{next(_numbers)}", seconds
        self._turns = itertools.count()

    def all(self, value: Any) -> list[Any]:
        """The value of every process, in their order; raises HostLostError where one does not pass its own in time."""
        if count() == 1:
            return [value]
        client, turn = global_state.client, next(self._turns)
        folder = f"{self.name}/{turn}/"
        assert client is not None
        try:
            client.key_value_set(f"{folder}{global_state.process_id:09}", json.dumps(value))
            client.wait_at_barrier(folder, min(int(1000 * self._seconds), LARGEST_INT))
            found = sorted(client.key_value_dir_get(folder))
            if turn and is_first():
                client.key_value_delete(f"{self.name}/{turn - 1}/")  # which all have read
        except jax.errors.JaxRuntimeError as error:
            raise HostLostError(f"another process did not answer within {self._seconds:g} s ({self.name})") from error
        return [json.loads(text) for _, text in found]

    def first(self, value: Any) -> Any:
        """The value of process 0; raises as `all`."""
        return self.all(value)[0]


# --- arrays ------------------------------------------------------------------------------------------------------


def gather(tree: Any) -> Any:
    """Arrays of all hosts as NumPy arrays on each of them."""
    if count() == 1:
        return jax.device_get(tree)
    leaves, structure = jax.tree.flatten(tree)
    spread = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable]
    if spread:
        mesh: Any = leaves[spread[0]].sharding
        for i, whole in zip(spread, _replicate(mesh.mesh)([leaves[i] for i in spread]), strict=True):
            leaves[i] = whole.addressable_data(0)
    return jax.tree.unflatten(structure, jax.device_get(leaves))


@lru_cache(maxsize=4)
def _replicate(mesh: Mesh) -> Any:
    return jax.jit(lambda leaves: leaves, out_shardings=NamedSharding(mesh, P()))


def place(tree: Any, shardings: Any) -> Any:
    """Whole arrays that every host has, such as random keys, on the devices; `shardings` has one for each array."""
    if count() == 1:
        return jax.device_put(tree, shardings)
    return jax.tree.map(_place, tree, shardings)


def _place(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_place(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


# --- shares: what each process writes of a checkpoint ------------------------------------------------------------


def shares(arrays: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """This process's parts of arrays of all hosts. An array of which another process has the same part, and writes it,
    is left out.
    """
    parts = {
        name: [shard for shard in leaf.addressable_shards if not shard.replica_id] for name, leaf in arrays.items()
    }
    return {name: _block(shards) for name, shards in parts.items() if shards}


def _block(shards: Sequence[Any]) -> np.ndarray:
    """The shards of an array on this process's devices, which are neighbours (`devices.make_mesh`), as one array."""
    begins = [[each.start or 0 for each in shard.index] for shard in shards]
    corner = np.min(begins, axis=0)
    ends = [np.add(begin, shard.data.shape) for begin, shard in zip(begins, shards, strict=True)]
    block = np.empty(np.subtract(np.max(ends, axis=0), corner).astype(int), shards[0].data.dtype)
    for begin, end, shard in zip(begins, ends, shards, strict=True):
        block[tuple(map(slice, begin - corner, end - corner))] = shard.data
    return block


def join(shares: Sequence[dict[str, np.ndarray]], columns: int) -> dict[str, np.ndarray]:
    """Arrays (S, B, ...) by name from the shares of all processes, `columns` of which split the axis B of their seeds.

    An array without the axis B stands in the first of these alone, a number in the very first share.
    """
    rows = [shares[i : i + columns] for i in range(0, len(shares), columns)]

    def whole(name: str) -> np.ndarray:
        blocks = [[share[name] for share in row if name in share] for row in rows]
        lines = [row[0] if len(row) == 1 else np.concatenate(row, axis=1) for row in blocks if row]
        return lines[0] if len(lines) == 1 else np.concatenate(lines)

    return {name: whole(name) for name in shares[0]}

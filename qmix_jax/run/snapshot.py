"""The training state on the host, as the arrays that a checkpoint stores, and back on the devices."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax.run import hosts
from qmix_jax.run.program import TrainState
from qmix_jax.settings import require

PARAMS, STATE, REPLAY = "params", "state", "replay"
"""The items of a checkpoint: parameters, everything else but the replay, and the replay."""


class Snapshot(NamedTuple):
    """The content of a checkpoint; nothing in it changes while training continues."""

    env_steps: int
    items: dict[str, Any]
    """Item -> pytree of NumPy arrays."""
    metrics: str
    """The text of metrics.jsonl."""
    about: dict[str, Any]
    """What about.json adds: score, settings, seconds."""
    share: int = 0
    """Of the snapshots of several processes the number of this one (`devices.share_of`)."""
    channel: hosts.Channel | None = None
    """Where these processes meet while they write one checkpoint."""


def to_host(tree: Any, seeds: slice | None = None) -> Any:
    """A pytree of all hosts as NumPy arrays that own their memory: on a CPU, they may be views of device buffers.

    With `seeds`, only theirs of arrays (S, ...); scalars belong to all.
    """

    def own(array: np.ndarray) -> np.ndarray:
        is_whole = seeds is None or array.ndim == 0 or len(array) == seeds.stop - seeds.start
        part = array if is_whole else array[seeds]
        return part if part.flags.owndata else part.copy()

    return jax.tree.map(own, hosts.gather(tree))


def state_to_host(state: TrainState, with_replay: bool, own: slice | None = None) -> dict[str, Any]:
    """The items of a training state, of all seeds or of `own`, copied: the next chunk may overwrite its buffers.

    Of several processes each gets its share of them, but for the parameters, which all get.
    """
    seeds = state.seeds
    rest = state._replace(seeds=seeds._replace(learner=seeds.learner._replace(params=None), replay=None))
    items = {PARAMS: seeds.learner.params, STATE: leaves_by_path(rest)}
    if with_replay and seeds.replay is not None:
        items[REPLAY] = leaves_by_path(seeds.replay)
    if hosts.count() > 1:
        items = {item: leaves if item == PARAMS else hosts.shares(leaves) for item, leaves in items.items()}
    return to_host(items, own)


def state_from_host(items: dict[str, Any], shapes: TrainState) -> TrainState:
    """The training state of these shapes from its items; a replay that was not saved starts empty.

    Raises:
        ConfigError: an array is missing or has another shape, as in a checkpoint of another version.
    """
    arrays = {
        **items[STATE],
        **leaves_by_path(items[PARAMS], "seeds/learner/params/"),
        **leaves_by_path(items.get(REPLAY, {}), "seeds/replay/"),
    }

    def fill(path: Any, leaf: Any) -> Any:
        name, plain = _name(path), jax.eval_shape(_key_data, leaf)
        not_saved = name.startswith("seeds/replay/") and REPLAY not in items
        not_saved |= name.startswith("seeds/rollout/episode_metrics/") and name not in arrays  # of an older version
        array = np.zeros(plain.shape, plain.dtype) if not_saved or plain.size == 0 else arrays.get(name)
        found = "nothing" if array is None else f"{array.dtype}{list(array.shape)}"
        wanted = f"{plain.dtype}{list(plain.shape)}"
        require(found == wanted, f"the checkpoint has {found} for {name} where this version needs {wanted}")
        return jax.random.wrap_key_data(jnp.asarray(array)) if leaf.dtype != plain.dtype else array

    state = jax.tree_util.tree_map_with_path(fill, shapes)
    if REPLAY in items or shapes.seeds.replay is None:
        return state
    return state._replace(clock=state.clock._replace(replay_start=state.clock.iteration))


def join(states: Sequence[TrainState]) -> TrainState:
    """The states of several runs at one time as the state of all their seeds, on the host."""
    if len(states) == 1:
        return states[0]

    def of_all(*leaves: Any) -> Any:
        return (np if isinstance(leaves[0], np.ndarray) else jnp).concatenate(leaves)  # jnp: random keys

    return TrainState(states[0].clock, jax.tree.map(of_all, *(state.seeds for state in states)))


def leaves_by_path(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The arrays of a pytree by their path, without empty ones, which Orbax does not store."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {prefix + _name(path): _key_data(leaf) for path, leaf in leaves if leaf.size}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _key_data(leaf: Any) -> Any:
    """Random keys as plain integers; any other array as it is."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

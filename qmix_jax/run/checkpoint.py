"""Checkpoints: the whole training state on disk, written behind training's back, and what is needed to use it again.

    RUN/checkpoints/<env_steps>/
        params/         the parameters by themselves      \\
        state/          everything else but the replay     > Orbax, one array a name
        replay/         may be left out                   /
        metrics.jsonl   the run's rows so far
        about.json      score, settings, seconds, how devices shared the replay, versions
        manifest.json   size and CRC-32 of every file above

Those that are kept for their score alone have parameters only. A checkpoint is drafted under a hidden name, the
manifest last, and gets its own name in one step. So one that has its name was whole when it was written; the manifest
tells whether it still is.
"""

import logging
import os
import shutil
import socket
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax.agents import Agents, make_agents
from qmix_jax.config import ENVIRONMENTS, CheckpointConfig, Config, ConfigError, by_name, from_mapping, require
from qmix_jax.console import warn
from qmix_jax.envs import make_team
from qmix_jax.envs.base import TeamEnv
from qmix_jax.learning import replay
from qmix_jax.learning.trainer import Trainer
from qmix_jax.mixers import MIXERS
from qmix_jax.records import known, read_json, to_json, versions, write_text_atomically
from qmix_jax.run.program import DATA, Program, TrainState
from qmix_jax.types import Params
from qmix_jax.untrusted import read_settings, require_plain

FORMAT = 1
"""Counted up when older checkpoints can no longer be read."""
PARAMS, STATE, REPLAY = "params", "state", "replay"
METRICS, ABOUT, MANIFEST = "metrics.jsonl", "about.json", "manifest.json"

T = TypeVar("T")

# --- between devices and host ------------------------------------------------------------------------------------


class Snapshot(NamedTuple):
    """What a checkpoint is written from; nothing in it changes any more."""

    env_steps: int
    items: dict[str, Any]
    """Item -> pytree of NumPy arrays."""
    metrics: str
    """The text of metrics.jsonl."""
    about: dict[str, Any]


def to_host(tree: Any) -> Any:
    """A pytree as NumPy arrays with memory of their own: on a CPU, `device_get` may hand out the device's."""
    return jax.tree.map(lambda array: array if array.flags.owndata else array.copy(), jax.device_get(tree))


def state_to_host(state: TrainState, with_replay: bool) -> dict[str, Any]:
    """The items of a whole state, copied: training may go on at once and overwrite its memory."""
    seeds = state.seeds
    rest = state._replace(seeds=seeds._replace(learner=seeds.learner._replace(params=None), replay=None))
    items = {PARAMS: seeds.learner.params, STATE: _by_path(rest)}
    if with_replay and seeds.replay is not None:
        items[REPLAY] = _by_path(seeds.replay)
    return to_host(items)


def state_from_host(items: dict[str, Any], shapes: TrainState) -> TrainState:
    """The state of these shapes from its items; a replay that was left out begins anew, empty.

    Raises:
        ConfigError: an array is missing or has another shape, as in a checkpoint of another version.
    """
    arrays = {
        **items[STATE],
        **_by_path(items[PARAMS], "seeds/learner/params/"),
        **_by_path(items.get(REPLAY, {}), "seeds/replay/"),
    }

    def fill(path: Any, leaf: Any) -> Any:
        name, plain = _name(path), jax.eval_shape(_plain, leaf)
        left_out = name.startswith("seeds/replay/") and REPLAY not in items
        left_out |= name.startswith("seeds/rollout/episode_metrics/") and name not in arrays  # of an older version
        array = np.zeros(plain.shape, plain.dtype) if left_out or plain.size == 0 else arrays.get(name)
        found = "nothing" if array is None else f"{array.dtype}{list(array.shape)}"
        wanted = f"{plain.dtype}{list(plain.shape)}"
        require(found == wanted, f"the checkpoint has {found} for {name} where this version needs {wanted}")
        return jax.random.wrap_key_data(jnp.asarray(array)) if leaf.dtype != plain.dtype else array

    state = jax.tree_util.tree_map_with_path(fill, shapes)
    if REPLAY in items or shapes.seeds.replay is None:
        return state
    return state._replace(clock=state.clock._replace(replay_start=state.clock.iteration))


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _plain(leaf: Any) -> Any:
    """Random keys as the numbers that they are."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _by_path(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The arrays of a pytree by their path; empty ones, which Orbax does not store, are left out."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {prefix + _name(path): _plain(leaf) for path, leaf in leaves if leaf.size}


# --- one checkpoint ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """A folder that says it is a checkpoint."""

    path: Path

    @property
    def env_steps(self) -> int:
        """Environment steps of each seed."""
        return int(self.path.name)

    @cached_property
    def about(self) -> dict[str, Any]:
        """What about.json says; nothing where it cannot be read."""
        about = read_json(self.path / ABOUT)
        return about if isinstance(about, dict) else {}

    @property
    def items(self) -> list[str]:
        """The items that about.json names."""
        items = self.about.get("items")
        return [item for item in items if isinstance(item, str)] if isinstance(items, list) else []

    @property
    def is_whole_state(self) -> bool:
        """Whether a run could go on from it; others have the parameters alone."""
        return STATE in self.items

    @property
    def has_replay(self) -> bool:
        """Whether the replay was saved too."""
        return REPLAY in self.items

    @property
    def is_for_score(self) -> bool:
        """Whether it was saved for its score alone, beside the run's whole states."""
        return self.about.get("saved_for") == "score"

    @property
    def score(self) -> float:
        """Larger is better; minus infinity where it is not known."""
        return next(iter(known(self.about.get("score"))), -np.inf)

    @property
    def settings(self) -> dict[str, Any] | None:
        """The settings that it was trained with; None where an older version did not save them.

        Raises:
            ConfigError: they hold what no setting is.
        """
        settings = self.about.get("settings")
        if not isinstance(settings, dict):
            return None
        require_plain(settings, self.path / ABOUT)
        return settings

    def seconds(self, kind: str) -> float:
        """`wall_seconds` or `compile_seconds` of the run until then; 0 where they are not known."""
        return next(iter(known(self.about.get(kind))), 0.0)

    def flaw(self, to_resume: bool = False) -> str:
        """What forbids to read its parameters, or to go on from it, in a few words; '' if nothing does."""
        if not self.path.is_dir():
            return "it is no folder"
        manifest = read_json(self.path / MANIFEST)
        if not isinstance(manifest, dict):
            return f"{MANIFEST} is missing or damaged"
        if manifest.get("format") != FORMAT:
            return f"another version wrote it (format {str(manifest.get('format'))[:20]} instead of {FORMAT})"
        files = manifest.get("files")
        if not isinstance(files, dict):
            return f"{MANIFEST} is damaged"
        return self._changed(files, to_resume) or self._missing(files) or self._unfit(to_resume)

    def _missing(self, files: Mapping[str, Any]) -> str:
        """What the manifest does not list and must."""
        for name in (METRICS, ABOUT):
            if name not in files:
                return f"{MANIFEST} does not list {name}"
        for item in dict.fromkeys((PARAMS, *self.items)):
            if not any(name.startswith(f"{item}/") for name in files):
                return f"{MANIFEST} lists nothing of {item}"
        return ""

    def _changed(self, files: Mapping[str, Any], to_resume: bool) -> str:
        """The first file, of those that are read, that is not as the manifest says."""
        unread = () if to_resume else (f"{STATE}/", f"{REPLAY}/")
        for name, expected in files.items():
            if name.startswith(unread):
                continue
            if name.startswith("/") or ".." in Path(name).parts:
                return f"{MANIFEST} lists a file outside"
            try:
                if [*_size_and_crc(self.path / name)] != expected:
                    return f"{name[:100]} is not as it was written"
            except (OSError, ValueError) as error:
                return " ".join(str(error).split())[:300]
        return ""

    def _unfit(self, to_resume: bool) -> str:
        if PARAMS not in self.items:
            return f"{ABOUT} is damaged"
        return "it has parameters only" if to_resume and not self.is_whole_state else ""

    def read(self, item: str) -> Any:
        """An item's pytree of NumPy arrays."""
        import orbax.checkpoint as ocp

        _hush_orbax()
        path = (self.path / item).resolve()
        with ocp.PyTreeCheckpointer() as checkpointer:
            structure = checkpointer.metadata(path).item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), structure)
            return checkpointer.restore(path, restore_args=as_numpy)

    @cached_property
    def params(self) -> Params:
        """The parameters, with a leading axis of seeds (NumPy arrays)."""
        return self.read(PARAMS)

    def restore(self, program: Program) -> TrainState:
        """The whole state on the program's devices, however many wrote it."""
        state = state_from_host({item: self.read(item) for item in self.items}, program.shapes)
        split = self.about["data_devices"], program.mesh.shape[DATA]
        memory = replay.split_again(state.seeds.replay, program.config.rollout.num_envs, *split)
        return program.place(state._replace(seeds=state.seeds._replace(replay=memory)))

    def remove(self) -> None:
        """Delete it, in one step as others see it."""
        hidden = _hidden(self.path, "removed")
        self.path.replace(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def _hidden(path: Path, why: str) -> Path:
    """A free name beside `path`, of this process alone, under which nothing counts as a checkpoint."""
    hidden = path.with_name(f".{path.name}.{why}.{socket.gethostname()}.{os.getpid()}")
    shutil.rmtree(hidden, ignore_errors=True)
    return hidden


def _size_and_crc(path: Path) -> tuple[int, int]:
    size = crc = 0
    if not path.is_file():  # a pipe would be waited for, a device read for ever
        raise OSError(f"{path.name} is missing, or no regular file")
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc


def _hush_orbax() -> None:
    """Of a write that fails, Orbax raises the first error; the other ones would be printed one by one."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    if sys.excepthook is not _drop_late_answers:
        global _excepthook
        _excepthook, sys.excepthook = sys.excepthook, _drop_late_answers


_excepthook = sys.excepthook


def _drop_late_answers(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
    """Python's hook for errors that nobody handles, but for those of stores that answer after Orbax has given up."""
    if str(error) != "Event loop is closed":
        _excepthook(kind, error, traceback)


# --- all of a run's ----------------------------------------------------------------------------------------------


def checkpoints(folder: Path) -> list[Checkpoint]:
    """The run's checkpoints, whole or not, by environment steps."""
    place = folder / "checkpoints"
    found = [Checkpoint(path) for path in place.iterdir() if _is_count(path.name)] if place.is_dir() else []
    return sorted(found, key=lambda checkpoint: checkpoint.env_steps)


def _is_count(name: str) -> bool:
    """Whether a folder's name is a number of environment steps, as this program writes it."""
    return name.isascii() and name.isdigit() and len(name) < 20 and name == str(int(name))


def first_usable(
    candidates: Iterable[Checkpoint], use: Callable[[Checkpoint], T], to_resume: bool = False
) -> tuple[Checkpoint, T] | None:
    """The first checkpoint without a flaw that `use` can work with, and what it made of it; None where there is none.

    Those passed over are named. A ConfigError that `use` raises is about the settings and not the checkpoint: it is
    raised.
    """
    for checkpoint in candidates:
        flaw = checkpoint.flaw(to_resume)
        if not flaw:
            try:
                return checkpoint, use(checkpoint)
            except ConfigError:
                raise
            except Exception as error:  # whatever Orbax and its stores raise
                flaw = f"it cannot be read: {' '.join(str(error).split())[:300] or type(error).__name__}"
        warn(f"{checkpoint.path} is skipped: {flaw}")
    return None


def find(folder: Path, which: str | int = "last") -> Checkpoint:
    """The checkpoint `last`, `best` (by score) or of so many environment steps, if its parameters can be read.

    Raises:
        ConfigError: there is none, or none whose parameters can be read.
    """
    found = checkpoints(folder)
    if which == "last":
        order = found[::-1]
    elif which == "best":
        order = _best_first(found)
    else:
        require(str(which).replace("_", "").isdigit(), f"checkpoint={which} must be last, best or environment steps")
        order = [each for each in found if each.env_steps == int(which)]
    names = ", ".join(each.path.name for each in found) or "none"
    require(bool(order), f"{folder} holds no checkpoint '{which}'; it has {names}")
    usable = first_usable(order, lambda checkpoint: checkpoint.params)
    if usable is None:
        raise ConfigError(f"no checkpoint '{which}' of {folder} can be read; it has {names}")
    return usable[0]


def write(folder: Path, snapshot: Snapshot) -> None:
    """Write a checkpoint; it is there either whole or not at all."""
    import orbax.checkpoint as ocp  # takes a second to import, so only when something is saved

    _hush_orbax()
    place = folder.resolve() / "checkpoints"
    path = place / str(snapshot.env_steps)
    draft = _hidden(path, "draft")
    try:
        draft.mkdir(parents=True)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_zarr3=True)) as checkpointer:
            for item, tree in snapshot.items.items():
                checkpointer.save(draft / item, args=ocp.args.PyTreeSave(tree))
        write_text_atomically(draft / METRICS, snapshot.metrics)
        about = {"env_steps": snapshot.env_steps, "items": list(snapshot.items), **snapshot.about}
        write_text_atomically(draft / ABOUT, to_json({**about, "saved": time.time(), "versions": versions()}, indent=2))
        files = sorted(file for file in draft.rglob("*") if file.is_file())
        listed = {file.relative_to(draft).as_posix(): _size_and_crc(file) for file in files}
        write_text_atomically(draft / MANIFEST, to_json({"format": FORMAT, "files": listed}, indent=2))
        _sync(draft)
        if path.exists():  # broken, or from a run that NaN ended
            Checkpoint(path).remove()
        draft.replace(path)
        _sync(place)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _sync(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def retain(folder: Path, keep_last: int, keep_best: int) -> None:
    """Delete all checkpoints but the last ones (of each kind: whole states, and parameters that a run which met NaN
    left) and the best.
    """
    found = checkpoints(folder)
    whole = [each for each in found if each.is_whole_state]
    left = [each for each in found if not each.is_whole_state and not each.is_for_score]
    best = [each for each in _best_first(found) if each.score > -np.inf][:keep_best]
    for each in set(found) - {*whole[-keep_last:], *left[-keep_last:], *best}:
        each.remove()


def _best_first(found: list[Checkpoint]) -> list[Checkpoint]:
    """By score, where that is of the newest one's metric; the metric of a resumed run may have changed."""
    metric = next((each.about["metric"] for each in reversed(found) if "metric" in each.about), None)

    def rank(each: Checkpoint) -> tuple[float, int]:
        return each.score if each.about.get("metric") == metric else -np.inf, each.env_steps

    return sorted(found, key=rank, reverse=True)


PATIENCE = 300.0
"""Seconds without any progress after which a checkpoint that is being written counts as lost; slow progress is some."""


class Saver:
    """Writes checkpoints on a thread of its own. A failure is said once; training goes on, older checkpoints stay.

    The thread exists from the start, since none can be started once memory has run out, and does not keep the process
    alive. Whoever waits for it gives up once it has made no progress for `PATIENCE`.
    """

    def __init__(
        self, folder: Path, config: CheckpointConfig, say: Callable[[str], None], begin: Checkpoint | None = None
    ):
        self.failure = ""
        """Why the last checkpoint could not be written; '' if it was."""
        self.listeners: list[Callable[[Path], None]] = []
        """Told where every checkpoint lies once it is written, but for those that are kept for their score alone."""
        self._folder, self._config, self._say = folder, config, say
        self._newest = begin.env_steps if begin else 0
        """Environment steps of the newest checkpoint asked for with `save`, or gone on from."""
        self._saved = begin.env_steps if begin else None
        """Environment steps of the last of these that was written, or gone on from."""
        self._scores: list[float] = []
        """Of the parameters given to `save_for_score`, in order."""
        self._asked: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._is_idle, self._is_closed = Event(), Event()
        self._is_idle.set()
        self._is_stuck = self._has_warned = False
        for leftover in (folder / "checkpoints").glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)
        Thread(target=self._serve, name="checkpoint", daemon=True).start()

    def is_due(self, env_steps: int) -> bool:
        """Whether a multiple of `every_env_steps` was passed. Not while one is written: training does not wait."""
        every = self._config.every_env_steps
        return every is not None and env_steps // every > self._newest // every and self._is_idle.is_set()

    def is_saved(self, env_steps: int) -> bool:
        """Whether the newest checkpoint is of this time and was written."""
        self.wait()
        return self._saved == env_steps

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write, once the one before is written."""
        self.wait()
        self._newest = snapshot.env_steps
        if self._is_stuck:
            self._fail(snapshot.env_steps, self.failure)
            return
        self._is_idle.clear()
        self._asked.put(partial(self._write_newest, snapshot))

    def save_for_score(self, snapshot: Snapshot) -> None:
        """Write parameters once what was asked for before is written, unless `keep_best` better ones came meanwhile."""
        self._scores.append(snapshot.about["score"])
        about = {**snapshot.about, "saved_for": "score"}
        self._asked.put(partial(self._write_best, snapshot._replace(about=about), len(self._scores)))

    def wait(self) -> None:
        """Until what was asked for with `save` is written, or makes no progress: then that is its failure."""
        self._wait_for(self._is_idle)

    def close(self) -> None:
        """Until everything is written, as in `wait`; nothing follows."""
        self._asked.put(None)
        self._wait_for(self._is_closed)

    def _wait_for(self, event: Event) -> None:
        progress, since = (), time.monotonic()
        while not self._is_stuck and not event.wait(min(1.0, PATIENCE)):
            before, progress = progress, self._progress()
            if progress != before:
                since = time.monotonic()
            elif time.monotonic() - since >= PATIENCE:
                self._is_stuck = True
                self._fail(self._newest, f"writing it made no progress for {PATIENCE:g} s")

    def _progress(self) -> tuple[int, ...]:
        """What changes while a checkpoint is being written: how many files there are, their bytes and their times."""
        files = 0, 0, 0
        for path in (self._folder / "checkpoints").rglob("*"):
            with suppress(OSError):  # renamed or removed meanwhile
                found = path.stat()
                files = files[0] + 1, files[1] + found.st_size, max(files[2], found.st_mtime_ns)
        return files

    def _serve(self) -> None:
        while (write_it := self._asked.get()) is not None:
            write_it()
            del write_it  # the snapshot's memory
        self._is_closed.set()

    def _write_newest(self, snapshot: Snapshot) -> None:
        try:
            if self._write(snapshot):
                self._saved = snapshot.env_steps
                for listener in self.listeners:
                    listener(self._folder / "checkpoints" / str(snapshot.env_steps))
        finally:
            self._is_idle.set()

    def _write_best(self, snapshot: Snapshot, number: int) -> None:
        better = sum(score >= snapshot.about["score"] for score in self._scores[number:])
        if better < self._config.keep_best:
            self._write(snapshot)

    def _write(self, snapshot: Snapshot) -> bool:
        """Write one and delete what is not kept; whether it was written."""
        try:
            write(self._folder, snapshot)
        except Exception as error:  # whatever Orbax and its stores raise
            self._fail(snapshot.env_steps, " ".join(str(error).split())[:300] or type(error).__name__)
            return False
        if not self._is_stuck:
            self.failure = ""
        with suppress(OSError):  # one too many is no harm
            retain(self._folder, self._config.keep_last, self._config.keep_best)
        return True

    def _fail(self, env_steps: int, why: str) -> None:
        self.failure = why
        if not self._has_warned:
            self._has_warned = True
            self._say(f"warning: no checkpoint at step {env_steps:,}, older ones stay: {why}")


# --- a run that was trained --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainedRun:
    """A run's settings, its environment, its agents and their parameters."""

    config: Config
    env: TeamEnv
    all_params: Params
    """{"agent": ..., "mixer": ...}; every leaf with a leading axis of seeds."""
    env_steps: int | None = None
    """Of the checkpoint that the parameters are from."""

    @property
    def agents(self) -> Agents:
        """The team's networks; `agents.step` with `params(seed)["agent"]` is the decentralised policy."""
        return make_agents(self.config.agent, self.env)

    def agents_in(self, env: TeamEnv) -> Agents | None:
        """The same networks in another environment; None where the parameters do not fit it."""
        agents = make_agents(self.config.agent, env)
        wanted = jax.eval_shape(agents.init, jax.random.key(0))
        held = jax.tree.map(lambda leaf: leaf.shape[1:], self.all_params["agent"])
        return agents if held == jax.tree.map(lambda leaf: leaf.shape, wanted) else None

    def params(self, seed: int = 0) -> Params:
        """The parameters of the run's seed number `seed`, counted from 0, as JAX arrays."""
        count = self.config.num_seeds
        require(0 <= seed < count, f"seed={seed}, but the run has {count}, numbered from 0")
        return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[seed]), self.all_params)


def read_config(folder: Path) -> Config:
    """The settings of the run in a folder; raises ConfigError, in one line, where this version cannot read them."""
    return _to_config(read_settings(folder), folder)


def _to_config(settings: Mapping[str, Any], path: Path) -> Config:
    """The config of settings that were read from `path`."""
    for group, choices in {"env": ENVIRONMENTS, "algorithm": MIXERS}.items():
        _require_known(path, group, settings.get(group), list(choices))
    try:
        return from_mapping(settings)
    except ConfigError as error:
        raise ConfigError(f"{path} was made by another version of qmix_jax: {error}") from error


def _require_known(path: Path, group: str, section: Any, choices: list[str]) -> None:
    """Raise ConfigError where a run's environment or mixer is one that was added to another installation."""
    name = section.get("name") if isinstance(section, dict) else None
    require(
        not isinstance(name, str) or name in choices,
        f"{path} was trained with {group}={name}, which this installation does not know (it has {', '.join(choices)}); "
        f"use the installation that it was trained with, or add {name} to this one",
    )


def load_run(folder: str | Path, checkpoint: str | int = "last") -> TrainedRun:
    """A run from its folder, with the parameters of one checkpoint: `last`, `best`, or its environment steps.

    Its settings are those that the checkpoint was trained with; where config.yaml says something else, that is named.
    Neither the replay nor the rest of the state is read. A checkpoint that is broken is named and passed over.

    Raises:
        ConfigError: the folder holds no run, or one of another version, or no such checkpoint that could be read.
    """
    folder = Path(folder)
    written = read_config(folder)
    chosen = find(folder, checkpoint)
    config = read_config_of(chosen)
    now, before = by_name(written), by_name(config)
    edited = [name for name in now if now[name] != before.get(name) and name.split(".")[0] not in UNTRAINED]
    if edited:
        shown = ", ".join(f"{name}={now[name]} (trained with {before.get(name)})" for name in edited[:3])
        warn(f"{folder / 'config.yaml'} was changed since; the checkpoint's settings are used: {shown}")
    params = jax.tree.map(jnp.asarray, chosen.params)  # which jax.jit can close over, unlike NumPy's
    run = TrainedRun(config, make_team(config), params, chosen.env_steps)
    require(_fits(run), f"{folder} was made by another version of qmix_jax: its networks have other parameters")
    return run


UNTRAINED = ("logging", "checkpoint", "evaluation", "devices", "total_env_steps")
"""Settings, and groups of them, that do not matter to a team that was trained."""


def read_config_of(checkpoint: Checkpoint) -> Config:
    """The settings that a checkpoint keeps, or else its run's; raises ConfigError where they cannot be read."""
    path, settings = checkpoint.path, checkpoint.settings
    return read_config(path.parents[1]) if settings is None else _to_config(settings, path)


def _fits(run: TrainedRun) -> bool:
    """Whether the parameters are those that the run's settings ask for today."""
    wanted = jax.eval_shape(Trainer(run.config, run.env).learner.init, jax.random.key(0)).params
    held = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), run.all_params)
    return _by_path(held) == _by_path(wanted)

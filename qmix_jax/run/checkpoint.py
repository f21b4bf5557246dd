"""Checkpoints of a run on disk: reading, checking and writing one, and choosing among all of them.

    RUN/checkpoints/<env_steps>/
        params/         the parameters                    \\
        state/          everything else but the replay     > Orbax, one array a name
        replay/         unless checkpoint.replay=false    /
        metrics.jsonl   the run's rows so far
        about.json      score, settings, seconds, how devices shared the replay, versions
        manifest.json   size and CRC-32 of every file above

Of several processes each writes its share of the seeds and of their data: the one numbered i > 0 as state-i/ and
replay-i/, and process 0 everything else.

A checkpoint that is kept for its score alone has parameters only. A checkpoint is written under a hidden name, the
manifest last, and then renamed. So every one with a proper name was complete when it was written; the manifest tells
whether it still is.
"""

import os
import shutil
import socket
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from qmix_jax.console import reason, warn
from qmix_jax.deployed_agent import ArtifactError, read_file
from qmix_jax.files import MAX_JSON, parse_json, read_json, write_file, write_json
from qmix_jax.learning import replay
from qmix_jax.records import known, versions
from qmix_jax.run import hosts, orbax
from qmix_jax.run.program import DATA, Program, TrainState
from qmix_jax.run.snapshot import PARAMS, REPLAY, STATE, Snapshot, state_from_host
from qmix_jax.settings import ConfigError, require
from qmix_jax.types import Params
from qmix_jax.untrusted import require_plain

FORMAT = 1
"""Increased when older checkpoints can no longer be read."""
METRICS, ABOUT, MANIFEST = "metrics.jsonl", "about.json", "manifest.json"

GONE = (FileNotFoundError, NotADirectoryError)
"""Errors of a file that is not there; others tell nothing of its content."""

T = TypeVar("T")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's folder, complete or damaged."""

    path: Path

    @property
    def env_steps(self) -> int:
        """Environment steps of each seed."""
        return int(self.path.name)

    @cached_property
    def about(self) -> dict[str, Any]:
        """The content of about.json; empty where it cannot be read."""
        about = read_json(self.path / ABOUT)
        return about if isinstance(about, dict) else {}

    @property
    def items(self) -> list[str]:
        """The items that about.json names."""
        items = self.about.get("items")
        return [item for item in items if isinstance(item, str)] if isinstance(items, list) else []

    @property
    def is_whole_state(self) -> bool:
        """Whether it holds the whole training state, so that a run can resume from it; others have parameters only."""
        return STATE in self.items

    @property
    def shares(self) -> tuple[int, int]:
        """How many processes wrote it, and how many of these split the data of the same seeds."""
        match self.about.get("shares"):
            case [int(count), int(columns)] if 0 < columns <= count < 10_000:
                return count, columns
        return 1, 1

    @property
    def has_replay(self) -> bool:
        """Whether the replay was saved too."""
        return REPLAY in self.items

    @property
    def is_for_score(self) -> bool:
        """Whether it was saved for its score alone, between two whole states."""
        return self.about.get("saved_for") == "score"

    @property
    def score(self) -> float:
        """The score, larger is better; minus infinity where it is unknown."""
        return next(iter(known(self.about.get("score"))), -np.inf)

    @property
    def settings(self) -> dict[str, Any] | None:
        """The settings that it was trained with; None where an older version did not save them.

        Raises:
            ConfigError: they hold a value that no setting can have.
        """
        settings = self.about.get("settings")
        if not isinstance(settings, dict):
            return None
        require_plain(settings, self.path / ABOUT)
        return settings

    def total(self, column: str) -> float:
        """A column that adds up (`metrics.SUMS`) of the run so far; 0 where unknown."""
        return next(iter(known(self.about.get(column))), 0.0)

    def flaw(self, to_resume: bool = False) -> str:
        """Why its parameters cannot be read, or a run cannot resume from it, in a few words; '' if they can.

        Raises:
            OSError: it may be whole, but could not be read this time, or another version wrote it.
        """
        if not self.path.is_dir():
            return "it is not a folder"
        manifest = self._manifest()
        if not isinstance(manifest, dict):
            return f"{MANIFEST} is missing or damaged"
        if manifest.get("format") != FORMAT:
            wrote = str(manifest.get("format"))[:20]
            raise OSError(f"another version wrote it (format {wrote} instead of {FORMAT})")
        files = manifest.get("files")
        if not isinstance(files, dict):
            return f"{MANIFEST} is damaged"
        return self._changed(files, to_resume) or self._missing(files) or self._unfit(to_resume)

    def _manifest(self) -> Any:
        """The value in manifest.json; None where it is missing or damaged. Raises OSError as `flaw`."""
        try:
            return parse_json(read_file(self.path / MANIFEST, MAX_JSON))
        except ArtifactError as error:
            cause = error.__cause__
            if cause is None or isinstance(cause, GONE):
                return None
            raise cause from error

    def _missing(self, files: Mapping[str, Any]) -> str:
        """What the manifest should list and does not."""
        for name in (METRICS, ABOUT):
            if name not in files:
                return f"{MANIFEST} does not list {name}"
        for folder in [PARAMS, *(folder for item in self.items for folder in self._folders(item))]:
            if not any(name.startswith(f"{folder}/") for name in files):
                return f"{MANIFEST} lists nothing of {folder}"
        return ""

    def _changed(self, files: Mapping[str, Any], to_resume: bool) -> str:
        """The first file, of those to be read, that differs from the manifest."""
        unread = () if to_resume else (STATE, REPLAY)
        for name, expected in files.items():
            if name.startswith(unread):
                continue
            if name.startswith("/") or ".." in Path(name).parts:
                return f"{MANIFEST} lists a file outside"
            try:
                if [*_size_and_crc(self.path / name)] != expected:
                    return f"{name[:100]} is not as it was written"
            except (*GONE, ValueError) as error:
                return reason(error)
        return ""

    def _unfit(self, to_resume: bool) -> str:
        if PARAMS not in self.items:
            return f"{ABOUT} is damaged"
        return "it has parameters only" if to_resume and not self.is_whole_state else ""

    def _folders(self, item: str) -> list[str]:
        """Where an item is, share by share."""
        return [_folder(item, i) for i in range(1 if item == PARAMS else self.shares[0])]

    def read(self, item: str) -> Any:
        """An item's pytree of NumPy arrays."""
        shares = [orbax.read(self.path / folder) for folder in self._folders(item)]
        return shares[0] if len(shares) == 1 else hosts.join(shares, self.shares[1])

    @cached_property
    def params(self) -> Params:
        """The parameters, with a leading axis of seeds (NumPy arrays)."""
        return self.read(PARAMS)

    def restore(self, program: Program) -> TrainState:
        """The training state on the host; raises ConfigError where the program's state has other arrays."""
        return state_from_host({item: self.read(item) for item in self.items}, program.shapes)

    def laid_out(self, state: TrainState, program: Program) -> TrainState:
        """The restored state as the program's devices share it, whatever devices it was saved from."""
        split = self.about["data_devices"], program.mesh.shape[DATA]
        buffer = replay.split_again(state.seeds.replay, program.config.rollout.num_envs, *split)
        return state._replace(seeds=state.seeds._replace(replay=buffer))

    def remove(self) -> None:
        """Delete it; it leaves the folder of checkpoints in one step."""
        hidden = _hidden(self.path, "removed")
        self.path.replace(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def _hidden(path: Path, why: str) -> Path:
    """An unused path beside `path`, for this process alone, whose name is not a checkpoint's."""
    hidden = path.with_name(f".{path.name}.{why}.{socket.gethostname()}.{os.getpid()}")
    shutil.rmtree(hidden, ignore_errors=True)
    return hidden


def _size_and_crc(path: Path) -> tuple[int, int]:
    size = crc = 0
    if not path.is_file():  # reading a pipe would block, reading a device never end
        raise FileNotFoundError(f"{path.name} is missing, or no regular file")
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc


def _folder(item: str, share: int) -> str:
    return f"{item}-{share}" if share and item != PARAMS else item


# --- all checkpoints of a run ------------------------------------------------------------------------------------


def checkpoints(folder: Path) -> list[Checkpoint]:
    """The checkpoints in a run's folder, damaged ones too, by environment steps."""
    place = folder / "checkpoints"
    found = [Checkpoint(path) for path in place.iterdir() if _is_count(path.name)] if place.is_dir() else []
    return sorted(found, key=lambda checkpoint: checkpoint.env_steps)


def _is_count(name: str) -> bool:
    """Whether a name is a number of environment steps as this program writes it."""
    return name.isascii() and name.isdigit() and len(name) < 20 and name == str(int(name))


def first_usable(
    candidates: Iterable[Checkpoint], use: Callable[[Checkpoint], T], to_resume: bool = False
) -> tuple[Checkpoint, T] | None:
    """The first checkpoint without a flaw for which `use` succeeds, and what `use` returned; None where there is none.

    The others are skipped with a warning. To resume, only damaged ones are: the run writes them anew. A ConfigError of
    `use` is about the settings, not the checkpoint, and is not caught.

    Raises:
        OSError: to resume, where a checkpoint cannot be read that may be whole.
    """
    for checkpoint in candidates:
        try:
            flaw = checkpoint.flaw(to_resume)
            if not flaw:
                return checkpoint, use(checkpoint)
        except ConfigError:
            raise
        except Exception as error:  # whatever Orbax and its stores raise
            flaw = f"it cannot be read: {reason(error)}"
            if to_resume:
                way_out = "make it readable, or move it away to go on from an older one"
                raise OSError(f"{checkpoint.path} may be whole, but {flaw}; {way_out}") from error
        warn(f"{checkpoint.path} is skipped: {flaw}")
    return None


def find(folder: Path, which: str | int = "last") -> Checkpoint:
    """The checkpoint `last`, `best` (by score) or of a number of environment steps, with readable parameters.

    Raises:
        ConfigError: there is none whose parameters can be read.
    """
    found = checkpoints(folder)
    if which == "last":
        order = found[::-1]
    elif which == "best":
        order = _best_first(found)
    else:
        number = str(which).replace("_", "")
        require(_is_count(number), f"checkpoint={which} must be last, best or environment steps")
        order = [each for each in found if each.env_steps == int(number)]
    names = ", ".join(each.path.name for each in found) or "none"
    require(bool(order), f"{folder} holds no checkpoint '{which}'; it has {names}")
    usable = first_usable(order, lambda checkpoint: checkpoint.params)
    if usable is None:
        raise ConfigError(f"no checkpoint '{which}' of {folder} can be read; it has {names}")
    return usable[0]


def write(folder: Path, snapshot: Snapshot) -> None:
    """Write a checkpoint, completely or not at all; of several processes each its share, and process 0 the rest."""
    place = folder.resolve() / "checkpoints"
    path = place / str(snapshot.env_steps)
    draft = _hidden(path, "draft")
    try:
        draft = Path(_agreed(snapshot, lambda: _make(draft))[0])
        shares = _agreed(snapshot, lambda: _write_share(draft, snapshot))
        files = {name: listed for share in shares for name, listed in share.items()}
        _agreed(snapshot, lambda: _complete(draft, snapshot, files, path) if hosts.is_first() else None)
    except BaseException:
        if hosts.is_first():
            shutil.rmtree(draft, ignore_errors=True)
        raise


def _agreed(snapshot: Snapshot, step: Callable[[], T]) -> list[T]:
    """Do a step in every process, and return what it returned in each; raises in all where it fails in one."""
    if snapshot.channel is None:
        return [step()]
    try:
        done, failure = step(), None
    except Exception as error:  # whatever Orbax and its stores raise
        done, failure = None, error
    ends = snapshot.channel.all([done, failure and reason(failure)])
    if failure is not None:
        raise failure
    why = next((why for _, why in ends if why), None)
    if why is not None:
        raise OSError(why)
    return [done for done, _ in ends]


def _make(draft: Path) -> str:
    if hosts.is_first():
        draft.mkdir(parents=True)
    return str(draft)


def _write_share(draft: Path, snapshot: Snapshot) -> dict[str, tuple[int, int]]:
    """Write this process's share; returns size and CRC-32 of its files."""
    own = {item: tree for item, tree in snapshot.items.items() if hosts.is_first() or item != PARAMS}
    folders = {_folder(item, snapshot.share): tree for item, tree in own.items()}
    orbax.write(draft, folders)
    files = sorted(file for folder in folders for file in (draft / folder).rglob("*") if file.is_file())
    return {file.relative_to(draft).as_posix(): _size_and_crc(file) for file in files}


def _complete(draft: Path, snapshot: Snapshot, files: dict[str, tuple[int, int]], path: Path) -> None:
    """Write the rest, and the manifest of all files, and give the checkpoint its name."""
    write_file(draft / METRICS, snapshot.metrics)
    about = {"env_steps": snapshot.env_steps, "items": list(snapshot.items), **snapshot.about}
    write_json(draft / ABOUT, {**about, "saved": time.time(), "versions": versions()}, indent=2)
    files |= {name: _size_and_crc(draft / name) for name in (METRICS, ABOUT)}
    write_json(draft / MANIFEST, {"format": FORMAT, "files": dict(sorted(files.items()))}, indent=2)
    _sync(draft)
    if path.exists():  # broken, or from a run that NaN ended
        Checkpoint(path).remove()
    draft.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def retain(folder: Path, keep_last: int, keep_best: int) -> None:
    """Delete all checkpoints but the best and the last of each kind: whole states, and the parameters that a run
    ended by NaN left.
    """
    found = checkpoints(folder)
    whole = [each for each in found if each.is_whole_state]
    left = [each for each in found if not each.is_whole_state and not each.is_for_score]
    best = [each for each in _best_first(found) if each.score > -np.inf][:keep_best]
    for each in set(found) - {*whole[-keep_last:], *left[-keep_last:], *best}:
        each.remove()


def scored(folder: Path, metric: str) -> list[Checkpoint]:
    """Those in a run's folder that have a score of this metric, the best first, and of equal ones the newest."""
    found = [each for each in checkpoints(folder) if each.about.get("metric") == metric and each.score > -np.inf]
    return sorted(found, key=lambda each: (each.score, each.env_steps), reverse=True)


def _best_first(found: list[Checkpoint]) -> list[Checkpoint]:
    """By score; scores of another metric than the newest one's (a resumed run may change it) come last."""
    metric = next((each.about["metric"] for each in reversed(found) if "metric" in each.about), None)

    def rank(each: Checkpoint) -> tuple[float, int]:
        return each.score if each.about.get("metric") == metric else -np.inf, each.env_steps

    return sorted(found, key=rank, reverse=True)

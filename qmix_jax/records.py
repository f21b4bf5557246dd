"""The files of a run folder: metrics.jsonl and run.json.

A *row* is one line of metrics.jsonl: a flat dict with one entry a metric, which is a number, a list with one number
for each seed, or None where nothing is known yet.
"""

import errno
import json
import math
import os
import platform
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import psutil

from qmix_jax.console import warn
from qmix_jax.deployed_agent import ArtifactError, read_file

PACKAGE = Path(__file__).resolve().parent
"""The folder that holds this package's source."""
DISTRIBUTIONS = (
    "qmix-jax",
    "jax",
    "jaxlib",
    "jaxmarl",
    "flax",
    "optax",
    "chex",
    "orbax-checkpoint",
    "hydra-core",
    "wandb",
    "numpy",
)
"""What a manifest names the versions of."""


class Reporter(Protocol):
    """Something that is told of every evaluation."""

    def log(self, row: dict) -> None:
        """Take in one row."""
        ...

    def close(self) -> None:
        """Let go of everything; nothing follows."""
        ...


MAX_METRICS, MAX_JSON = 1 << 30, 1 << 26
"""Bytes, at most, of a metrics.jsonl and of any other record."""
FROZEN = "train/frozen_since"
"""In a row, once a seed has met NaN: for each seed the environment step of that evaluation, or null."""

# --- metrics.jsonl -----------------------------------------------------------------------------------------------


class MetricsFile:
    """Appends rows to folder/metrics.jsonl; a row that `log` has returned from survives a crash.

    Where the disk refuses a row, that is said once, and the row waits in memory to be written with the next.
    """

    def __init__(self, folder: Path, begin: str = "", say: Callable[[str], None] = print):
        """`begin`: the text that the file begins with, whatever was there before."""
        self.path = folder / "metrics.jsonl"
        self.failure = ""
        """Why rows are waiting; '' where none is."""
        write_text_atomically(self.path, begin)
        self._size = len(begin.encode())
        self._waiting = b""
        self._say, self._has_warned = say, False

    @staticmethod
    def text(rows: Sequence[dict]) -> str:
        """The text of a file with these rows."""
        return "".join(to_json(row) + "\n" for row in rows)

    def log(self, row: dict) -> None:
        """Append one line and wait until it is on the disk."""
        self._waiting += self.text([row]).encode()
        self._write()

    def close(self) -> None:
        """Try a last time to write what is waiting."""
        if self._waiting:
            self._write()

    def _write(self) -> None:
        try:
            with self.path.open("r+b", buffering=0) as file:
                file.truncate(self._size)  # what a full disk took of a line
                file.seek(self._size)
                if file.write(self._waiting) < len(self._waiting):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                os.fsync(file.fileno())
        except OSError as error:
            self.failure = str(error)
            if not self._has_warned:
                self._has_warned = True
                self._say(f"warning: rows of metrics.jsonl wait in memory: {error}")
            return
        self._size, self._waiting, self.failure = self._size + len(self._waiting), b"", ""


def read_metrics(path: str | Path, say: Callable[[str], None] = warn) -> list[dict]:
    """All rows of a metrics.jsonl. A last line that a crash cut short is left out; other lines that are no rows are
    left out too, and `say` is told of them.

    Raises:
        ArtifactError: it cannot be read, or is no regular file.
    """
    lines = read_file(Path(path), MAX_METRICS).splitlines()
    rows = [_parse_row(line) for line in lines]
    wrong = [str(number) for number, row in enumerate(rows[:-1], 1) if row is None]
    if wrong:
        say(f"{path}: line {', '.join(wrong[:5])}{' and others' * (len(wrong) > 5)} hold no row and are skipped")
    return [row for row in rows if row is not None]


def _parse_row(line: bytes) -> dict | None:
    """The row that a line holds; None where it holds none."""
    row = parse_json(line)
    is_row = isinstance(row, dict) and type(row.get("env_steps")) is int and row["env_steps"] >= 0
    return row if is_row else None


def best_seed(row: dict) -> int:
    """The index of the seed whose evaluation in this row was best: by win rate where there is one, else by return; 0
    where the row has neither.
    """
    scores = row.get("eval/win_rate", row.get("eval/return"))
    values = [_number(score) for score in scores] if isinstance(scores, list) and scores else [None]
    ranked = [-math.inf if value is None else value for value in values]
    return ranked.index(max(ranked))


def _number(value: Any) -> float | None:
    """A finite number of JSON as it is, anything else as None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def read_json(path: Path) -> Any:
    """What a JSON file holds; None where it cannot be read (a pipe, or more than `MAX_JSON` bytes) or is damaged."""
    try:
        return parse_json(read_file(path, MAX_JSON))
    except ArtifactError:
        return None


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says; None where it is damaged, nested too deeply included."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError, MemoryError):
        return None


def to_json(value: Any, **options: Any) -> str:
    """Strict JSON: NaN and infinities become null, arrays lists, and what JSON does not know a string."""
    return json.dumps(_plain(value), allow_nan=False, default=str, **options)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# --- over seeds --------------------------------------------------------------------------------------------------


def known(value: Any) -> list[float]:
    """The numbers of a row's entry: of every seed that has one."""
    values = value if isinstance(value, Sequence) else [value]
    return [number for item in values if (number := _number(item)) is not None]


# --- run.json ----------------------------------------------------------------------------------------------------


def write_manifest(folder: Path, extra: dict) -> None:
    """Write folder/run.json: the machine and the versions, and what `extra` adds."""
    _replace_manifest(folder, {**describe_machine(), **extra, HAS_STATE: False})


def add_to_manifest(folder: Path, resumed: dict) -> None:
    """Add to folder/run.json that the run was resumed, how, and on what machine."""
    manifest = read_manifest(folder)
    before = manifest.get("resumed")
    manifest["resumed"] = [*(before if isinstance(before, list) else []), {**resumed, **describe_machine()}]
    _replace_manifest(folder, manifest)


HAS_STATE = "has_saved_its_state"


def note_saved_state(folder: Path) -> None:
    """Note in folder/run.json that a whole training state was saved: one must be there to go on from."""
    manifest = read_manifest(folder)
    if manifest.get(HAS_STATE) is not True:
        with suppress(OSError):
            _replace_manifest(folder, {**manifest, HAS_STATE: True})


def read_manifest(folder: Path) -> dict:
    """What folder/run.json holds; nothing where it is missing or damaged."""
    manifest = read_json(folder / "run.json")
    return manifest if isinstance(manifest, dict) else {}


def _replace_manifest(folder: Path, manifest: dict) -> None:
    write_text_atomically(folder / "run.json", to_json(manifest, indent=2) + "\n")


def draft_of(path: Path) -> Path:
    """The hidden name under which this process writes a file before it gets its own."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_drafts(folder: Path) -> None:
    """Delete what processes that were killed while they wrote have left; for the only process that writes there."""
    with suppress(OSError):
        for draft in folder.glob(".*.tmp"):
            draft.unlink()


def write_text_atomically(path: Path, text: str) -> None:
    """Write a file that others see either whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path)
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def describe_machine() -> dict:
    """What a run ran on and with: everything needed to judge its speed and to repeat it."""
    import jax

    devices = jax.devices()
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpu_cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "devices": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "versions": versions(),
        "git": git_state(),
    }


def git_state(package: Path = PACKAGE) -> dict | None:
    """The commit that the package's source is checked out from, and whether files differ; None outside a checkout.

    An installed package may lie within somebody's repository; only one whose top level holds the package and its
    pyproject.toml is the package's own.
    """
    try:
        project = tomllib.loads((package.parent / "pyproject.toml").read_text(encoding="utf-8"))
        top, commit = _git(package, "rev-parse", "--show-toplevel", "HEAD").split("\n")
        if project["project"]["name"] != "qmix-jax" or Path(top).resolve() != package.parent.resolve():
            return None
        return {"commit": commit, "dirty": bool(_git(package, "status", "--porcelain"))}
    except (OSError, ValueError, LookupError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()


def versions() -> dict[str, str | None]:
    """The versions of every package that matters."""
    return {name: _version(name) for name in DISTRIBUTIONS}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

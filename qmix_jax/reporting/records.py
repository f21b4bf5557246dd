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

PACKAGE = Path(__file__).resolve().parents[1]
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


def read_metrics(path: Path) -> list[dict]:
    """All rows of a metrics.jsonl; a last line that was cut short by a crash is left out."""
    lines = path.read_bytes().splitlines()
    rows = [json.loads(line) for line in lines[:-1]]
    try:
        return rows + [json.loads(line) for line in lines[-1:]]
    except ValueError:
        return rows


def best_seed(row: dict) -> int:
    """The index of the seed whose evaluation in this row was best: by win rate where there is one, else by return."""
    scores = row.get("eval/win_rate", row["eval/return"])
    return max(range(len(scores)), key=lambda i: -math.inf if scores[i] is None else scores[i])


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
    return [float(item) for item in values if item is not None and math.isfinite(item)]


def mean_interval(value: Any) -> tuple[float, float] | None:
    """Mean over seeds, and half of its 95 % interval (0 for one seed); None where nothing is known."""
    values = known(value)
    if not values:
        return None
    count, mean = len(values), sum(values) / len(values)
    if count == 1:
        return mean, 0.0
    variance = sum((item - mean) ** 2 for item in values) / (count - 1)
    return mean, _student_t(count - 1) * math.sqrt(variance / count)


_STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def _student_t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t: a table, and its series in 1 / freedom beyond."""
    if freedom <= len(_STUDENT_T):
        return _STUDENT_T[freedom - 1]
    return 1.95996 + 2.37227 / freedom + 2.8225 / freedom**2


# --- run.json ----------------------------------------------------------------------------------------------------


def write_manifest(folder: Path, extra: dict) -> None:
    """Write folder/run.json: the machine and the versions, and what `extra` adds."""
    write_text_atomically(folder / "run.json", to_json({**describe_machine(), **extra}, indent=2) + "\n")


def add_to_manifest(folder: Path, resumed: dict) -> None:
    """Add to folder/run.json that the run was resumed, how, and on what machine."""
    path = folder / "run.json"
    manifest = {}
    with suppress(FileNotFoundError, ValueError):  # a damaged one is no reason to lose a run
        manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["resumed"] = [*manifest.get("resumed", []), {**resumed, **describe_machine()}]
    write_text_atomically(path, to_json(manifest, indent=2) + "\n")


def write_text_atomically(path: Path, text: str) -> None:
    """Write a file that others see either whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
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

"""The formats of a run folder: the rows of metrics.jsonl and the manifest run.json.

A *row* is one line of metrics.jsonl: a flat dict of metrics by name. The value of a metric is a number, a list with one
number per seed, or None where it is not known.
"""

import math
import os
import platform
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from qmix_jax.console import warn
from qmix_jax.deployed_agent import read_file
from qmix_jax.files import parse_json, read_json, to_json, write_json

PACKAGE = Path(__file__).resolve().parent
"""The folder with this package's source."""
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
"""The packages whose versions a manifest lists."""
MAX_METRICS = 1 << 30
"""The largest metrics.jsonl that is read, in bytes."""
FROZEN = "train/frozen_since"
"""Present once a seed has met NaN: for each seed the environment step of that evaluation, or None."""
RESERVED_METRICS = frozenset(
    {
        *(
            "return",
            "episode_length",
            "length",
            "episodes",
            "steps_per_second",
            "frozen_since",
            "environment_nan_at",
            "epsilon",
            "learning_rate",
        ),
        *("loss", "td_error", "q_mean", "target_mean", "grad_norm", "updates", "replay_fill"),
    }
)
"""Names that no metric of an environment may have: those in rows, after `train/` or `eval/`, and `length`, which is an
episode's in the scores of an evaluation.
"""
ENVIRONMENT_NAN = "train/environment_nan_at"
"""Beside it: for each seed the environment step at which its environment gave NaN or infinity, or None: the loss itself
diverged, or the seed has met no NaN."""
SEEDS = "seeds"
"""The folder, within that of a run whose seeds do not train at once, with a run for each batch of them: FIRST-LAST."""
HAS_STATE = "has_saved_its_state"
"""In run.json: whether a whole training state was ever saved."""

# --- rows --------------------------------------------------------------------------------------------------------


def format_rows(rows: Sequence[dict]) -> str:
    """The text of a metrics.jsonl with these rows."""
    return "".join(to_json(row) + "\n" for row in rows)


def read_metrics(path: str | Path, say: Callable[[str], None] = warn) -> list[dict]:
    """All rows of a metrics.jsonl. A last line cut short by a crash is ignored; other invalid lines are skipped and
    reported to `say`.

    Raises:
        ArtifactError: the file cannot be read, or is no regular file.
    """
    lines = read_file(Path(path), MAX_METRICS).splitlines()
    rows = [_parse_row(line) for line in lines]
    wrong = [str(number) for number, row in enumerate(rows[:-1], 1) if row is None]
    if wrong:
        say(f"{path}: line {', '.join(wrong[:5])}{' and others' * (len(wrong) > 5)} hold no row and are skipped")
    return [row for row in rows if row is not None]


def _parse_row(line: bytes) -> dict | None:
    """The row on a line, or None."""
    row = parse_json(line)
    is_row = isinstance(row, dict) and type(row.get("env_steps")) is int and row["env_steps"] >= 0
    return row if is_row else None


def known(value: Any) -> list[float]:
    """The finite numbers of a metric, over seeds."""
    values = value if isinstance(value, Sequence) else [value]
    return [number for item in values if (number := _number(item)) is not None]


def mean(value: Any) -> float | None:
    """The mean of a metric over the seeds that have a value; None where none has."""
    values = known(value)
    return sum(values) / len(values) if values else None


def _number(value: Any) -> float | None:
    """A finite number as it is, anything else as None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


# --- metrics of episodes -----------------------------------------------------------------------------------------


def metric_names(row: dict) -> list[str]:
    """The NAME of every metric `eval/NAME` with a value per seed: win_rate first, then return, then the others."""
    names = [name[5:] for name, value in row.items() if name.startswith("eval/") and isinstance(value, list)]
    rank = {"win_rate": 0, "return": 1}
    return sorted((name for name in names if name != "episodes"), key=lambda name: rank.get(name, 2))


def is_share(name: str) -> bool:
    """Whether a metric is 0 or 1 in every episode (its mean is then a share of the episodes), as in `eval/win_rate`."""
    return name.endswith("_rate") and name != "train/learning_rate"


def count_episodes(row: dict, name: str) -> int | None:
    """The number of episodes, of all seeds together, behind the share `name`, such as eval/win_rate; None for other
    metrics, and in rows that do not count episodes.
    """
    counts = known(row.get(f"{name.rpartition('/')[0]}/episodes")) if is_share(name) else []
    return int(sum(counts)) or None


def best_seed(row: dict) -> int:
    """The index of the seed with the best evaluation, by win rate or else by return; 0 if the row has neither."""
    scores = row.get("eval/win_rate", row.get("eval/return"))
    values = [_number(score) for score in scores] if isinstance(scores, list) and scores else [None]
    ranked = [-math.inf if value is None else value for value in values]
    return ranked.index(max(ranked))


# --- batches of seeds --------------------------------------------------------------------------------------------


def batch_folder(folder: Path, seeds: range) -> Path:
    """The folder of the run of a batch of the seeds of the run in `folder`."""
    return folder / SEEDS / f"{seeds[0]}-{seeds[-1]}"


def seed_batches(folder: Path) -> list[range]:
    """The seeds of each batch that has a folder, in order; empty for a run that trains them at once."""
    names = [re.fullmatch(r"(\d{1,10})-(\d{1,10})", path.name, re.ASCII) for path in (folder / SEEDS).glob("*-*")]
    found = [range(int(name[1]), int(name[2]) + 1) for name in names if name]
    return sorted((seeds for seeds in found if seeds), key=lambda seeds: seeds.start)


# --- run.json ----------------------------------------------------------------------------------------------------


def write_manifest(folder: Path, extra: dict) -> None:
    """Write folder/run.json: the machine, the versions, and `extra`."""
    _replace_manifest(folder, {**describe_machine(), **extra, HAS_STATE: False})


def add_to_manifest(folder: Path, resumed: dict) -> None:
    """Record in folder/run.json that the run was resumed, with the details `resumed` and the machine."""
    manifest = read_manifest(folder)
    before = manifest.get("resumed")
    manifest["resumed"] = [*(before if isinstance(before, list) else []), {**resumed, **describe_machine()}]
    _replace_manifest(folder, manifest)


def note_saved_state(folder: Path) -> None:
    """Record in folder/run.json that a whole training state was saved, so that a resume requires one."""
    manifest = read_manifest(folder)
    if manifest.get(HAS_STATE) is not True:
        with suppress(OSError):
            _replace_manifest(folder, {**manifest, HAS_STATE: True})


def read_manifest(folder: Path) -> dict:
    """The contents of folder/run.json; empty if it is missing or damaged."""
    manifest = read_json(folder / "run.json")
    return manifest if isinstance(manifest, dict) else {}


def _replace_manifest(folder: Path, manifest: dict) -> None:
    write_json(folder / "run.json", manifest, indent=2)


def describe_machine() -> dict:
    """Hardware, versions and command: what is needed to judge the speed of a run and to repeat it."""
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
    """The commit of the package's checkout, and whether files differ from it; None outside a checkout.

    An installed package may lie inside another repository. The package's own has the package and its pyproject.toml at
    the top level.
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
    """The installed versions of `DISTRIBUTIONS`."""
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

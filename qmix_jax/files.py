"""JSON, and files that are replaced as a whole."""

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from qmix_jax.deployed_agent import ArtifactError, read_file

MAX_JSON = 1 << 26
"""The largest JSON file that is read, in bytes."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden path to write a file to, which becomes `path` when the block ends: readers see the old file or the
    whole new one, also after a crash. After an exception the old file stays; an OSError names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield scratch
        with scratch.open("r+b") as file:
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        if error.filename in (None, str(scratch)):
            error.filename = str(path)  # a write to a full disk names no file
        raise
    finally:
        scratch.unlink(missing_ok=True)


def write_file(path: Path, content: str | bytes) -> None:
    """Replace a file by one with this content."""
    with replacing(path) as scratch:
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)


def write_figure(path: Path, figure: Any) -> None:
    """Replace a file by a matplotlib figure, as the format that its suffix names."""
    with replacing(path) as scratch:
        figure.savefig(scratch, format=path.suffix[1:].lower())


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """Replace a file by the JSON of a value."""
    write_file(path, to_json(value, indent=indent) + "\n")


def remove_scratch_files(folder: Path) -> None:
    """Delete the scratch files of processes that were killed; only for the one process that writes in `folder`."""
    with suppress(OSError):
        for path in folder.glob(".*.tmp"):
            if re.fullmatch(r"\..+\.\d+\.tmp", path.name, re.ASCII):  # as `replacing` names them
                path.unlink()


def read_json(path: Path) -> Any:
    """The value in a JSON file; None if it is no regular file, larger than `MAX_JSON`, unreadable or no JSON."""
    try:
        return parse_json(read_file(path, MAX_JSON))
    except ArtifactError:
        return None


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; None if it is no JSON, or nested too deeply."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError, MemoryError):
        return None


def to_json(value: Any, indent: int | None = None) -> str:
    """Strict JSON: NaN and infinities become null, arrays lists, and objects unknown to JSON strings."""
    return json.dumps(_plain(value), allow_nan=False, default=str, indent=indent)


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

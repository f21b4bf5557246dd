"""JSON, and files that are replaced as a whole."""

import errno
import math
import os

import numpy as np
import pytest

from qmix_jax.console import reason
from qmix_jax.files import parse_json, read_json, remove_scratch_files, replacing, to_json, write_file, write_json


def test_a_file_is_replaced_when_the_block_ends_and_not_before(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_file(path, "old")
    with replacing(path) as scratch:
        scratch.write_text("new")
        assert path.read_text() == "old" and scratch.parent == path.parent
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


def test_after_an_exception_the_old_file_stays_and_no_scratch_file(tmp_path):
    path = tmp_path / "file.bin"
    write_file(path, b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as scratch:
        scratch.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_scratch_files_of_killed_processes_are_deleted(tmp_path):
    (tmp_path / ".run.json.123.tmp").touch()
    for name in ("run.json", ".notes.tmp", ".tmp"):
        (tmp_path / name).touch()
    remove_scratch_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", ".notes.tmp", ".tmp"}


def test_json_is_strict(tmp_path):
    value = {1: np.array([1.5, math.nan]), "path": tmp_path, "pair": (math.inf, np.float32(2))}
    assert to_json(value) == f'{{"1": [1.5, null], "path": "{tmp_path}", "pair": [null, 2.0]}}'
    write_json(tmp_path / "file.json", [1, None], indent=1)
    assert (tmp_path / "file.json").read_text() == "[\n 1,\n null\n]\n" and read_json(tmp_path / "file.json") == [
        1,
        None,
    ]


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, b"\xff"])
def test_damaged_json_is_none(tmp_path, text):
    assert parse_json(text) is None
    write_file(tmp_path / "file.json", text)
    assert read_json(tmp_path / "file.json") is None and read_json(tmp_path / "none.json") is None


def test_an_error_of_a_write_names_the_file_that_was_to_be_written(tmp_path):
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*/report\.html'"),
        replacing(tmp_path / "report.html"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError, match="nowhere"), replacing(tmp_path / "report.html"):
        (tmp_path / "nowhere").read_text()
    assert not list(tmp_path.iterdir())


def test_of_a_long_reason_the_start_and_the_end_are_told():
    told = reason(OSError("Error writing " + "a/long/path/" * 50 + ": No space left\non device"))
    assert told.startswith("Error writing a/long") and told.endswith(": No space left on device") and len(told) <= 300
    assert reason(KeyError()) == "KeyError" and reason(OSError("short")) == "short"

"""Tiny runs that stop and resume: shared by the tests of resuming, of checkpoints and of saving."""

import dataclasses
import os
import resource
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import TINY, merge

from qmix_jax.build import from_mapping
from qmix_jax.config import CheckpointConfig, LoggingConfig
from qmix_jax.records import read_metrics
from qmix_jax.reporters.metrics_file import MetricsFile
from qmix_jax.run import exits, experiment, pictures
from qmix_jax.run.checkpoint import checkpoints
from qmix_jax.run.metrics import SUMS
from qmix_jax.run.program import Program
from qmix_jax.run.saver import Saver
from qmix_jax.run.snapshot import Snapshot
from qmix_jax.traced import program_key

TIMING = {*SUMS, "train/steps_per_second"}
LONG = merge(
    TINY,
    {
        "total_env_steps": 256,
        "devices": 1,
        "exploration": {"decay_env_steps": 160},
        "learner": {"start_env_steps": 96},
        "evaluation": {"every_env_steps": 32},
        "logging": {"film": False},
    },
)
"""Eight evaluations: learning starts with the third, exploration ends with the fifth, replay holds four."""


_compile_chunk, _compiled = Program.compile_chunk, {}


def executables(program: Program) -> tuple:
    """A program's initialisation and its chunk: the length of the run matters only by that of a chunk."""
    chunk = program.config.chunk_env_steps
    around = {"checkpoint": CheckpointConfig(), "logging": LoggingConfig(), "total_env_steps": chunk}
    evaluation = dataclasses.replace(program.config.evaluation, every_env_steps=chunk)
    config = dataclasses.replace(program.config, evaluation=evaluation, **around)
    name = f"{program_key(config)} {program.vmaps_seeds} {program.mesh}"
    if name not in _compiled:
        _compiled[name] = Program.compile_init(program), _compile_chunk(program)
    return _compiled[name]


@contextmanager
def compiled_once_each():
    """Runs that differ only around the compiled program share it, and draw no curve."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "init", lambda self: executables(self)[0](self._seeds, self.numbers))
        patch.setattr(Program, "start", lambda self, make_state: (make_state(), executables(self)[1]))
        patch.setattr(pictures, "draw_curve", lambda rows, path, title: path.touch())
        yield


@pytest.fixture(scope="module")
def shared_programs():
    """The runs of a module share compiled programs (`compiled_once_each`)."""
    with compiled_once_each():
        yield


@contextmanager
def stopped_after(row: int | None, number: int = signal.SIGTERM):
    """A signal arrives right after the row of this number, counted from 1 over the whole run."""
    log = MetricsFile.on_evaluation

    def log_and_stop(self, new):
        log(self, new)
        if row is not None and new["env_steps"] == 32 * row:
            os.kill(os.getpid(), number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsFile, "on_evaluation", log_and_stop)
        yield


@contextmanager
def no_file_larger_than(size: int):
    """The kernel refuses to write further into any file, as a full disk or a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def train(folder: Path, settings: dict, stop_after: int | None = None, **changes) -> int:
    """Start or resume, until the end or until the signal after a row."""
    settings = merge(settings, changes)
    with stopped_after(stop_after):
        return experiment.train(from_mapping(settings), folder, settings, resumes=True).status


def numbers(folder: Path) -> list[dict]:
    """The rows of a run without wall-clock times."""
    return [{k: v for k, v in row.items() if k not in TIMING} for row in read_metrics(folder / "metrics.jsonl")]


def assert_same_end(folder: Path, other: Path) -> None:
    """The same rows, and the same arrays in the last checkpoint: parameters, optimiser, replay, environments, keys."""
    assert numbers(folder) == numbers(other)
    ours, theirs = checkpoints(folder)[-1], checkpoints(other)[-1]
    assert ours.env_steps == theirs.env_steps
    for item in ("params", "state", "replay"):
        jax.tree.map(np.testing.assert_array_equal, ours.read(item), theirs.read(item))


@pytest.fixture(scope="session")
def never_stopped(tmp_path_factory):
    """The folder of a whole run; not to be changed."""
    folder = tmp_path_factory.mktemp("never") / "run"
    with compiled_once_each():
        assert train(folder, LONG) == exits.DONE
    return folder


@pytest.fixture(scope="session")
def stopped(tmp_path_factory):
    """The folder of a run stopped after row 6, with checkpoints of rows 4, 5 and 6; not to be changed."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    saved = {"every_env_steps": 32, "keep_last": 3, "keep_best": 0}
    with compiled_once_each(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saver, "is_due", lambda self, env_steps: True)  # never skip one because the disk is slow
        assert train(folder, LONG, stop_after=6, checkpoint=saved) == exits.TERMINATED
    assert [each.env_steps for each in checkpoints(folder)] == [128, 160, 192]
    return folder


@pytest.fixture
def copy(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "copy")


def a_snapshot(
    env_steps: int, score: float | None = None, items: tuple = ("params", "state"), metric: str = "eval/return"
) -> Snapshot:
    about = {"metric": metric, "score": score}
    return Snapshot(env_steps, {item: {"x": np.arange(3.0)} for item in items}, "", about)

"""Sweeps on real clusters of this machine alone: `make test-cluster`."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qmix_jax.records import read_metrics
from qmix_jax.sweep.record import JobRecord, read_record

TINY = (
    *("env=probe", "agent.hidden_size=8", "algorithm.embed_size=4", "algorithm.hypernet_size=8"),
    *("rollout.num_envs=4", "learner.batch_size=8", "replay.capacity=128", "devices=1"),
    *("evaluation.every_env_steps=3200", "evaluation.episodes=8", "logging.film=false", "logging.display=none"),
)


class Sweep:
    """A sweep in a process of its own; jobs are named by their numbers."""

    def __init__(self, folder: Path, environment: dict[str, str], *words: str):
        self.folder, self._log = folder, folder.with_suffix(".log")
        own = {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"}
        self._words, self._environment = words, {**os.environ, **own, **environment}
        self.start()

    def start(self) -> None:
        """Start the same line, again where it ran before."""
        command = [sys.executable, "-m", "qmix_jax", "train", "-m", *TINY, *self._words]
        with self._log.open("w") as log:
            command.append(f"hydra.sweep.dir={self.folder}")
            self.process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)

    @property
    def said(self) -> str:
        """What the line has said since its last start."""
        return self._log.read_text()

    def end(self, seconds: float = 400) -> tuple[int, str]:
        """Wait for its end; returns its exit status and what it said."""
        return self.process.wait(seconds), self.said

    def job(self, number: int) -> Path:
        """The folder of a job."""
        return self.folder / f"{number}_probe-qmix_seed0"

    def record(self, number: int) -> JobRecord | None:
        return read_record(self.job(number))

    def rows(self, number: int) -> int:
        path = self.job(number) / "metrics.jsonl"
        return len(read_metrics(path)) if path.is_file() else 0

    def until(self, is_so, seconds: float = 400) -> None:
        """Wait until something is so while the sweep runs."""
        deadline = time.monotonic() + seconds
        while not is_so():
            assert self.process.poll() is None and time.monotonic() < deadline, self.said
            time.sleep(0.2)

    def trains(self, number: int, starts: int) -> None:
        """Wait until a job has been started so often, and has written a row since."""
        self.until(lambda: (found := self.record(number)) is not None and found.starts == starts)
        before = self.rows(number)
        self.until(lambda: self.rows(number) > before)


@pytest.fixture
def start_sweep(tmp_path):
    """Starts sweeps, and ends what is left of them."""
    sweeps: list[Sweep] = []

    def start(environment: dict[str, str], *words: str) -> Sweep:
        sweeps.append(Sweep(tmp_path / "sweep", environment, *words))
        return sweeps[-1]

    yield start
    for sweep in sweeps:
        sweep.process.kill()
        sweep.process.wait()

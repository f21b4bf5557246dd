"""What a job leaves about itself in its folder (job.json), and what the folder of a run says of its state."""

import os
import socket
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil

from qmix_jax.files import read_json, write_json
from qmix_jax.records import known
from qmix_jax.run import exits
from qmix_jax.settings import ConfigError, field_names, make_settings
from qmix_jax.statistics import interquartile_mean

NAME, LOG = "job.json", "job.log"
State = Literal["waiting", "running", "done", "failed", "stopped", "pruned"]
"""Of a job: stopped means by a signal or with its machine, and that it can be resumed; pruned means that a search ended
it for its low scores."""
YOUNG = 300.0
"""Seconds after its start in which a job on another machine counts as running before it has locked its folder."""


@dataclass(frozen=True)
class JobRecord:
    """The contents of job.json."""

    state: State
    digest: str
    """`Job.digest` of what was run."""
    status: int | None = None
    """The exit status; None while the job runs."""
    error: str = ""
    """Why the job failed, in one line."""
    score: float | None = None
    """The score by `evaluation.score`, averaged over seeds."""
    began: float = 0.0
    """Seconds since 1970, of the last start."""
    seconds: float = 0.0
    """Of all starts that have ended."""
    starts: int = 1
    """How often the job was started."""
    host: str = ""
    pid: int = 0
    process_began: float = 0.0
    """Tells the process from another one that got its number."""

    @property
    def is_of_this_host(self) -> bool:
        """Whether it last ran on this machine."""
        return self.host == socket.gethostname()

    @property
    def is_running_here(self) -> bool:
        """Whether its process is one of this machine that still runs."""
        if self.state != "running" or not self.is_of_this_host:
            return False
        with suppress(psutil.Error):
            return abs(psutil.Process(self.pid).create_time() - self.process_began) < 1
        return False


def read_record(folder: Path) -> JobRecord | None:
    """The record of the job in a folder; None where there is none, or it is damaged."""
    found = read_json(folder / NAME)
    if not isinstance(found, dict):
        return None
    with suppress(ConfigError):
        return make_settings(JobRecord, {name: found[name] for name in field_names(JobRecord) if name in found})
    return None


def begin(folder: Path, digest: str) -> JobRecord:
    """Record that this process starts the job; returns the record, which a full disk keeps from being written."""
    before = read_record(folder)
    record = JobRecord(
        state="running",
        digest=digest,
        began=time.time(),
        seconds=before.seconds if before else 0.0,
        starts=before.starts + 1 if before else 1,
        host=socket.gethostname(),
        pid=os.getpid(),
        process_began=psutil.Process().create_time(),
    )
    _write(folder, record)
    return record


def end(folder: Path, record: JobRecord, status: int, error: str = "", score: float | None = None) -> JobRecord:
    """Record how the job ended; returns the record."""
    state = state_of_status(status)
    seconds = record.seconds + time.time() - record.began if record.began else record.seconds
    error = (error or exits.REASONS.get(status, f"exit status {status}")) if state == "failed" else ""
    record = replace(record, state=state, status=status, error=error, score=score, seconds=seconds)
    _write(folder, record)
    return record


def note_pruned(folder: Path) -> None:
    """Record that the job in a folder, which was stopped, is not to be resumed."""
    found = read_record(folder)
    if found is not None:
        _write(folder, replace(found, state="pruned"))


def state_of_status(status: int) -> State:
    """The state of a job that ended with this exit status. One that was killed can be resumed."""
    if status == exits.DONE:
        return "done"
    return "stopped" if status in exits.STOPPED or status > 128 else "failed"


def _write(folder: Path, record: JobRecord) -> None:
    with suppress(OSError):
        write_json(folder / NAME, asdict(record))


def last_line(path: Path) -> str:
    """The last line of a log that is not empty; '' where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def score_of(
    rows: Sequence[dict[str, Any]], metric: str, how: str, seeds: str = "mean", direction: str = "maximize"
) -> float | None:
    """The score of a run by its rows; None where no evaluation has one.

    Args:
        rows: the run's evaluations.
        metric: `checkpoint.metric`: a name of metrics.jsonl, or auto: eval/win_rate, or else eval/return.
        how: `evaluation.score`: the last evaluation, the best, or the area under the curve over environment steps by
            the trapezoidal rule, divided by the steps from the first evaluation to the last.
        seeds: whether an evaluation counts with the mean of its seeds or their interquartile mean (iqm).
        direction: maximize, or minimize where the best score is the smallest.
    """
    scored = [
        (row["env_steps"], statistics.fmean(values) if seeds == "mean" else float(interquartile_mean(np.array(values))))
        for row in rows
        if (values := known(row.get(metric_of(row, metric))))
    ]
    if not scored:
        return None
    steps, scores = zip(*scored, strict=True)
    if how == "best":
        return max(scores) if direction == "maximize" else min(scores)
    if how == "last" or len(scores) == 1:
        return scores[-1]
    pairs = zip(steps, steps[1:], scores, scores[1:], strict=False)
    return sum((b - a) * (x + y) / 2 for a, b, x, y in pairs) / (steps[-1] - steps[0])


def metric_of(row: dict[str, Any], metric: str) -> str:
    """The name in rows of `checkpoint.metric`, whose auto means eval/win_rate, or else eval/return."""
    return metric if metric != "auto" else "eval/win_rate" if "eval/win_rate" in row else "eval/return"

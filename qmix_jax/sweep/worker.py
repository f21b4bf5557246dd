"""A job in the process that runs it: in one of this machine, or wherever a launcher calls `run`."""

import ctypes
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from qmix_jax.deployed_agent import ArtifactError
from qmix_jax.records import read_metrics
from qmix_jax.run import startup
from qmix_jax.run.cluster import OnEnd, Settings, joined
from qmix_jax.run.exits import FAILED, INTERRUPTED, STOP_SIGNALS
from qmix_jax.settings import flatten
from qmix_jax.sweep import record
from qmix_jax.sweep.jobs import Job, run_here

PROGRAM = "import sys; from qmix_jax.sweep.worker import main; sys.exit(main())"


@dataclass(frozen=True, eq=False)
class Task:
    """A job with all that another Python needs to run it. It can be pickled, and is equal to itself alone."""

    job: Job
    resumes: bool = False
    argv: tuple[str, ...] = ()
    """The command, which the run's records name."""
    search_path: tuple[str, ...] = ()
    """Folders in which Python looks for modules, besides its own."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables besides the job's, such as the GPUs it may use."""
    cores: tuple[int, ...] = ()
    """The CPU cores it may use; empty: all."""
    is_logged: bool = True
    """Whether what it prints goes to job.log in its folder."""
    hosts: Literal["on", "off"] = "off"
    """Whether several processes run it together, which JAX finds (`qmix_jax.run.cluster`)."""

    @classmethod
    def of(cls, job: Job, resumes: bool, **others: Any) -> "Task":
        """A task with this process's command and search path."""
        return cls(job, resumes, tuple(sys.argv), tuple(folder or os.getcwd() for folder in sys.path), **others)


def start(tasks: Sequence[Task]) -> subprocess.Popen:
    """Run tasks in a new Python process, with a session of its own; it is not forked from this one's memory. Several
    train together.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(tasks[0].search_path)}
    command = [sys.executable, "-P", "-c", PROGRAM]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)
    with suppress(BrokenPipeError):  # the process ended already, and its status says how
        assert process.stdin
        with process.stdin as stdin:
            stdin.write(pickle.dumps(tasks))
    return process


def exit_status(code: int) -> int:
    """The exit status of a process by its return code, which is negative where a signal ended it."""
    if code >= 0:
        return code
    return STOP_SIGNALS.get(signal.Signals(-code), 128 - code)


def main() -> int:
    """Run the tasks that stdin holds; returns the worst exit status."""
    _end_with_parent()
    return run(*pickle.load(sys.stdin.buffer))


def run(task: Task, *others: Task, is_first: bool = True) -> int:
    """Run the task in this process, which should do nothing else; returns its exit status. With `others` it trains
    together, and the status is the worst one.

    The folder's job.json records the beginning and the end; job.log of the first what is printed. Of several processes
    of one task only the first records.
    """
    sys.argv = list(task.argv)
    sys.path += [folder for folder in task.search_path if folder not in sys.path]
    os.environ |= task.environment
    if task.cores:
        os.sched_setaffinity(0, task.cores)
    if task.is_logged:
        _log_to(task.job)
    jobs = [task.job, *(each.job for each in others)]
    noted = [record.begin(job.folder, job.digest) for job in jobs if is_first]

    def end(*ends: tuple[int, str]) -> None:
        for job, own, (status, error) in zip(jobs, noted, ends, strict=is_first):
            record.end(job.folder, own, status, error, _score(job))

    ends = run_reported(jobs, task.resumes, Settings(task.hosts), lambda *ended: end(ended))
    end(*ends)
    return max(status for status, _ in ends)


def run_reported(jobs: Sequence[Job], resumes: bool, hosts: Settings, on_end: OnEnd) -> list[tuple[int, str]]:
    """Run the jobs; an error becomes one line on stderr, an unforeseen one a traceback. Returns the exit status of
    each, and its error in one line; where several processes run a job, an error ends this one after `on_end`.
    """
    try:
        with joined(hosts, on_end):
            return [(status, "") for status in run_here(jobs, resumes)]
    except KeyboardInterrupt:
        return [(INTERRUPTED, "")] * len(jobs)
    except Exception as error:
        try:
            return [(startup.report(error), startup.first_line(error))] * len(jobs)
        except Exception:
            traceback.print_exc()
            return [(FAILED, f"{type(error).__name__}: {startup.first_line(error)}")] * len(jobs)


def _score(job: Job) -> float | None:
    try:
        rows = read_metrics(job.folder / "metrics.jsonl")
    except ArtifactError:
        return None
    named = flatten(job.settings)
    return record.score_of(rows, named.get("checkpoint.metric", "auto"), named.get("evaluation.score", "last"))


def _log_to(job: Job) -> None:
    """Send what this process prints to the job's log; where it cannot be opened, it stays where it goes."""
    with suppress(OSError):
        job.folder.mkdir(parents=True, exist_ok=True)
        log = os.open(job.folder / record.LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)


def _end_with_parent() -> None:
    """On Linux, let the kernel send SIGTERM to this process when the sweep's process ends."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG

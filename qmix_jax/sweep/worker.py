"""A job of a sweep in a process of its own: the sweep's process holds no device, and survives whatever ends the job."""

import ctypes
import os
import pickle
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from typing import Any

from qmix_jax.run import startup
from qmix_jax.run.exits import FAILED, INTERRUPTED, signals_handled_by
from qmix_jax.sweep.jobs import Job, run_job

PROGRAM = "import sys; from qmix_jax.sweep.worker import main; sys.exit(main())"


def run_in_own_process(job: Job, resumes: bool) -> int:
    """Run the job in a new Python process with the same import path; returns its exit status.

    The process has a session of its own, and is sent the signals that stop a run.
    """
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    environment = {**os.environ, "PYTHONPATH": path, **job.environment}
    early: list[int] = []
    child: subprocess.Popen | None = None

    def forward(number: int, frame: Any) -> None:
        del frame
        if child is None:
            early.append(number)
        else:
            child.send_signal(number)

    with signals_handled_by(forward):
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM], stdin=subprocess.PIPE, env=environment, start_new_session=True
        )
        for number in early:
            child.send_signal(number)
        child.communicate(pickle.dumps((sys.argv, job, resumes)))
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def main() -> int:
    """Run the job that stdin holds; returns its exit status."""
    _end_with_parent()
    sys.argv, job, resumes = pickle.load(sys.stdin.buffer)  # the run's records name the sweep's command
    return run_reported(job, resumes)


def run_reported(job: Job, resumes: bool) -> int:
    """Run the job; an error becomes one line on stderr, an unforeseen one a traceback. Returns the exit status."""
    try:
        return run_job(job, resumes)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        try:
            return startup.report(error)
        except Exception:
            traceback.print_exc()
            return FAILED


def _end_with_parent() -> None:
    """On Linux, let the kernel send SIGTERM to this process when the sweep's process ends."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG

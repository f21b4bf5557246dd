"""Jobs in processes of this machine, as many at once as fill it: `hydra/launcher=processes`, the default."""

import signal
import subprocess
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from qmix_jax.config import Config
from qmix_jax.run.exits import INTERRUPTED, STOP_SIGNALS
from qmix_jax.settings import Range, check_ranges
from qmix_jax.sweep.launchers.base import Ended, Launcher
from qmix_jax.sweep.launchers.share import Share, divide
from qmix_jax.sweep.record import read_record
from qmix_jax.sweep.worker import Task, exit_status, start


class OwnProcesses(Launcher):
    """Processes of this machine, each with one task or several that train together; `plan` says how many at once."""

    is_on_terminal = True

    def __init__(self, settings: Any):
        super().__init__(settings)
        self._free: list[Share] = []
        self._waiting: deque[list[Task]] = deque()
        """The tasks of each process that is to start."""
        self._running: dict[subprocess.Popen, tuple[list[Task], Share]] = {}
        self._ended: list[Ended] = []

    def poll(self) -> list[Ended]:
        """Collect processes that ended, and start others in their places."""
        for process in [each for each in self._running if each.poll() is not None]:
            tasks, share = self._running.pop(process)
            self._free.append(share)
            self._ended += [Ended(task, _status(task, process, len(tasks))) for task in tasks]
        while self._waiting and self._free:
            tasks, share = self._waiting.popleft(), self._free.pop(0)
            self._running[start([_on(task, share) for task in tasks])] = tasks, share
        ended, self._ended = self._ended, []
        return ended

    def stop(self, number: int, tasks: Collection[Task] | None = None) -> None:
        """Send the signal to processes; tasks that wait end with its status."""
        status = STOP_SIGNALS.get(signal.Signals(number), INTERRUPTED)
        stopped = [each for each in self._waiting if tasks is None or set(each) <= set(tasks)]
        self._waiting = deque(each for each in self._waiting if each not in stopped)
        self._ended += [Ended(task, status) for each in stopped for task in each]
        for process, (own, _) in self._running.items():
            if tasks is None or set(own) <= set(tasks):
                process.send_signal(number)


class Processes(OwnProcesses):
    """Each job is a process with its share of the CPU cores or GPUs; none holds a device that another uses."""

    @dataclass(frozen=True)
    class Settings:
        """The settings of this launcher."""

        jobs: Annotated[int, Range(1, 4096, "must be from 1 to 4096")] | None = None
        """Jobs at once; null: as many as there are devices, and no more than there are jobs."""

        def __post_init__(self):
            check_ranges("hydra.launcher.", self)

    def plan(self, configs: Sequence[Config]) -> str:
        """Divide this machine."""
        self._free, words = divide(configs, self.settings.jobs)
        self._at_once = len(self._free)
        if len(configs) == 1:
            return f"on {words.removeprefix('each on ').removeprefix('on ')}"
        return f"{self._at_once} at once, {words}; hydra.launcher.jobs=N sets another number at once"

    @property
    def at_once(self) -> int:
        """The number of shares."""
        return self._at_once

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queue tasks."""
        self._waiting += [[task] for task in tasks]


def _on(task: Task, share: Share) -> Task:
    return replace(task, cores=share.cores, environment={**task.environment, **share.environment})


def _status(task: Task, process: subprocess.Popen, count: int) -> int:
    """The exit status of a task, by its record where its process had `count` > 1 of them."""
    status, found = exit_status(process.returncode), read_record(task.job.folder)
    own = found.status if found and found.pid == process.pid and count > 1 else None
    return status if own is None else own

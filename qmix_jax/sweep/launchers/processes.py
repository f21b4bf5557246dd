"""Jobs in processes of this machine, as many at once as fill it: `hydra/launcher=processes`, the default."""

import subprocess
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from qmix_jax.config import Config
from qmix_jax.run.exits import INTERRUPTED, STOP_SIGNALS
from qmix_jax.settings import Range, check_ranges
from qmix_jax.sweep.launchers.base import Ended, Launcher
from qmix_jax.sweep.launchers.share import Share, divide
from qmix_jax.sweep.worker import Task, exit_status, start


class Processes(Launcher):
    """Each job is a process with its share of the CPU cores or GPUs; none holds a device that another uses."""

    @dataclass(frozen=True)
    class Settings:
        """The settings of this launcher."""

        jobs: Annotated[int, Range(1, 4096, "must be from 1 to 4096")] | None = None
        """Jobs at once; null: as many as there are devices, and no more than there are jobs."""

        def __post_init__(self):
            check_ranges("hydra.launcher.", self)

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self._free: list[Share] = []
        self._waiting: deque[Task] = deque()
        self._running: dict[subprocess.Popen, tuple[Task, Share]] = {}
        self._ended: list[Ended] = []

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
        self._waiting += tasks

    def poll(self) -> list[Ended]:
        """Collect processes that ended, and start others in their places."""
        for process in [each for each in self._running if each.poll() is not None]:
            task, share = self._running.pop(process)
            self._free.append(share)
            self._ended.append(Ended(task, exit_status(process.returncode)))
        while self._waiting and self._free:
            task, share = self._waiting.popleft(), self._free.pop(0)
            own = replace(task, cores=share.cores, environment={**task.environment, **share.environment})
            self._running[start(own)] = task, share
        ended, self._ended = self._ended, []
        return ended

    def stop(self, number: int, tasks: Collection[Task] | None = None) -> None:
        """Send the signal to processes; tasks that wait end with its status."""
        status = next((known for each, known in STOP_SIGNALS.items() if each == number), INTERRUPTED)
        stopped = [task for task in self._waiting if tasks is None or task in tasks]
        self._waiting = deque(task for task in self._waiting if task not in stopped)
        self._ended += [Ended(task, status) for task in stopped]
        for process, (task, _) in self._running.items():
            if tasks is None or task in tasks:
                process.send_signal(number)

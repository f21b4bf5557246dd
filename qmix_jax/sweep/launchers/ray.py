"""Jobs on a Ray cluster: `hydra/launcher=ray`."""

import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qmix_jax.config import Config
from qmix_jax.console import reason
from qmix_jax.run.exits import FAILED, INTERRUPTED, KILLED
from qmix_jax.run.lock import is_held, locked
from qmix_jax.settings import ConfigError, Count, NotNegative, check_ranges, require, shown
from qmix_jax.sweep.launchers.base import Ended, Launcher
from qmix_jax.sweep.launchers.share import available_cores
from qmix_jax.sweep.worker import Task, exit_status, start

VARIABLES = ("JAX_", "XLA_", "WANDB_")
"""How the environment variables begin that jobs get from here; the setting `runtime_env` can name others."""
UNITS = {"CPU": "CPU cores", "GPU": "GPUs", "memory": "bytes of memory"}
"""Ray's resources in words."""
RETRIES = 3
"""How often a job is run again whose node died."""
STOP = ".stop"
"""The file in a job's folder that tells it to stop."""
SAVING = 60.0
"""Seconds that a job waits for an earlier start of it, whose node died, to save and end."""


class Ray(Launcher):
    """Each job is a Ray task, which runs it in a Python of its own; Ray chooses the node, the GPUs and the time.

    Where a node dies, its jobs go on from their checkpoints on others, if the nodes share the sweep's folder.
    """

    interval = 0.5

    @dataclass(frozen=True)
    class Settings:
        """The settings of this launcher."""

        address: str = "auto"
        """The cluster, HOST:PORT; auto: the one that RAY_ADDRESS names or that runs here, or else a new one on this
        machine; local: a new one on this machine."""
        cpus: Count = 1
        """CPU cores of each job."""
        gpus: NotNegative | None = None
        """GPUs of each job, or a part of one; null: one where the cluster has GPUs."""
        memory: str | None = None
        """Memory that each job counts for, such as 16GB; null: it is not counted."""
        runtime_env: Mapping[str, Any] = field(default_factory=dict)
        """Ray's runtime environment of the jobs, such as {env_vars: {NAME: value}}."""

        def __post_init__(self):
            check_ranges("hydra.launcher.", self)
            is_divisible = not self.gpus or self.gpus < 1 or self.gpus == int(self.gpus)
            require(is_divisible, f"hydra.launcher.gpus={self.gpus} must be a whole number, or less than 1")
            num_bytes(self.memory)

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self._ray = _import_ray()
        self._tasks: dict[Any, Task] = {}

    def plan(self, configs: Sequence[Config]) -> str:
        """Connect to the cluster, or start one, and look at its nodes."""
        del configs
        self._connect()
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        gpus = self.settings.gpus
        self._gpus = float(any(node.get("GPU") for node in nodes)) if gpus is None else gpus
        needed = {"CPU": self.settings.cpus, "GPU": self._gpus, "memory": num_bytes(self.settings.memory)}
        needed = {name: amount for name, amount in needed.items() if amount}
        room = [min(int(node.get(name, 0) / amount) for name, amount in needed.items()) for node in nodes]
        self._at_once = sum(room)
        asked = ", ".join(f"{amount:g} {UNITS[name]}" for name, amount in needed.items())
        require(self._at_once > 0, f"no node of the Ray cluster has what a job needs ({asked}): hydra.launcher.cpus=1")
        return f"on a Ray cluster of {len(nodes)}, {self._at_once} at once, each with {asked}"

    def _connect(self) -> None:
        address = self.settings.address
        place = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
        try:
            if found := re.fullmatch(r"([^/]+):(\d+)", place):
                socket.create_connection((found[1], int(found[2])), timeout=10).close()  # Ray itself tries for minutes
            self._ray.init(
                None if address == "auto" else address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
        except Exception as error:  # Ray raises this class too
            what = f"no Ray cluster at {place}" if place not in ("", "local") else "Ray does not start here"
            raise ConfigError(f"hydra.launcher.address={address}: {what}: {reason(error)}") from error

    @property
    def at_once(self) -> int:
        """As many as the nodes have room for."""
        return self._at_once

    def submit(self, tasks: Sequence[Task]) -> None:
        """Give Ray a task for each."""
        own = self.settings
        shared = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 * self._gpus:.2f}"} if 0 < self._gpus < 1 else {}
        variables = {
            **{name: value for name, value in os.environ.items() if name.startswith(VARIABLES)},
            **({"JAX_PLATFORMS": "cpu"} if not self._gpus else shared),
            "PYTHONPATH": os.pathsep.join(tasks[0].search_path),
            **own.runtime_env.get("env_vars", {}),
        }
        run_task = self._ray.remote(_run).options(
            num_cpus=own.cpus,
            num_gpus=self._gpus,
            memory=num_bytes(own.memory) or None,
            max_retries=RETRIES,
            runtime_env={**own.runtime_env, "env_vars": variables},
        )
        cores = 0 if self._gpus else own.cpus
        for task in tasks:
            (task.job.folder / STOP).unlink(missing_ok=True)
            self._tasks[run_task.remote(replace(task, resumes=True, is_logged=True), cores)] = task

    def poll(self) -> list[Ended]:
        """The tasks that Ray says have ended."""
        waiting = list(self._tasks)
        ready = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)[0] if waiting else []
        return [self._end(reference, self._tasks.pop(reference)) for reference in ready]

    def _end(self, reference: Any, task: Task) -> Ended:
        errors = self._ray.exceptions
        (task.job.folder / STOP).unlink(missing_ok=True)
        try:
            return Ended(task, self._ray.get(reference))
        except errors.TaskCancelledError:
            return Ended(task, INTERRUPTED)
        except (errors.WorkerCrashedError, errors.NodeDiedError):
            return Ended(task, KILLED)
        except errors.RayError as error:
            return Ended(task, FAILED, str(error).strip().splitlines()[-1])

    def stop(self, number: int, tasks: Collection[Task] | None = None) -> None:
        """Let running jobs save and end, and take waiting ones from the queue, whatever the signal."""
        del number
        for reference, task in [each for each in self._tasks.items() if tasks is None or each[1] in tasks]:
            with suppress(OSError):  # no folder yet: it waits
                (task.job.folder / STOP).touch()
            self._ray.cancel(reference)

    def close(self) -> None:
        """Leave the cluster, and end it where it was started here."""
        self._ray.shutdown()


def _run(task: Task, cores: int) -> int:
    """Run a task on the node that Ray chose, in a process of its own; returns its exit status.

    The process gets SIGTERM, since it inherits that SIGINT is blocked.
    """
    deadline = time.monotonic() + SAVING
    while is_held(task.job.folder) and time.monotonic() < deadline:
        time.sleep(0.5)
    with _own_cores(cores) as own:
        process = start([replace(task, cores=own)])
        _wait(process, task.job.folder / STOP)
        return exit_status(process.wait())


def _wait(process: subprocess.Popen, stop: Path) -> None:
    """Wait for the end of the process, which is told once to stop: where the file is there, or when Ray's cancel raises
    KeyboardInterrupt, which does not reach every task.
    """
    is_told = False
    while process.poll() is None:
        try:
            time.sleep(0.2)
            is_stopped = stop.exists()
        except KeyboardInterrupt:
            is_stopped = True
        if is_stopped and not is_told:
            process.terminate()
            is_told = True


@contextmanager
def _own_cores(count: int) -> Iterator[tuple[int, ...]]:
    """Hold so many CPU cores of this host, which no other job of Ray here gets: Ray only counts them.

    Gives none, which means all, where there are not enough, or where processes cannot be kept to cores.
    """
    cores = available_cores() if hasattr(os, "sched_setaffinity") else []
    folder = Path(tempfile.gettempdir(), f"qmix-jax-cores-{os.getuid()}") if cores else Path()
    own: list[int] = []
    with ExitStack() as held:
        for core in cores:
            if len(own) < count and _is_free(folder / str(core), held):
                own.append(core)
        yield tuple(own) if len(own) == count else ()


def _is_free(folder: Path, held: ExitStack) -> bool:
    """Whether nobody holds the folder's lock, which then is held."""
    with suppress(ConfigError, OSError):
        held.enter_context(locked(folder))
        return True
    return False


def num_bytes(text: str | None) -> int:
    """The number of bytes that a text such as 16GB names, 0 for None; raises ConfigError where it names none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)i?B?", text or "0")
    require(found is not None, f"hydra.launcher.memory={shown(text)} must be a number with a unit, such as 16GB")
    assert found
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2] or " "))


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("hydra/launcher=ray needs Ray: pip install 'qmix-jax[ray]'") from error
    return ray

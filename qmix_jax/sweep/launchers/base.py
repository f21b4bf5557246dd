"""The contract of launchers: where the jobs of a sweep run, and how many at once."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, NamedTuple, Self

from qmix_jax.config import Config
from qmix_jax.sweep.jobs import Job
from qmix_jax.sweep.worker import Task


class Ended(NamedTuple):
    """A task that ended."""

    task: Task
    status: int
    """The exit status of its job (`qmix_jax.run.exits`)."""
    error: str = ""
    """Why it failed, in one line, where the job could not record it itself."""


class Launcher(ABC):
    """Runs tasks somewhere with `worker.run`, which records their state and output in the jobs' folders.

    A launcher is a context manager; at the end of the context everything that it started has ended.
    """

    Settings: ClassVar[type]
    """A frozen dataclass of the launcher: its settings, `hydra.launcher.NAME`."""
    is_on_terminal: ClassVar[bool] = False
    """Whether a job can print on the terminal of this process."""
    interval: ClassVar[float] = 0.1
    """Seconds between two calls of `poll`."""

    def __init__(self, settings: Any):
        self.settings = settings

    @abstractmethod
    def plan(self, configs: Sequence[Config]) -> str:
        """Decide how many jobs like these run at once, and with what; returns that in one line for people.

        Called once, before `submit`. Raises ConfigError where the settings cannot work here.
        """

    @property
    def at_once(self) -> int | None:
        """How many jobs run at once, after `plan`; None: as many as are submitted."""
        return None

    def holds(self, job: Job) -> bool:
        """Whether the job was submitted before, and waits or runs without this process; `submit` then follows it."""
        del job
        return False

    @abstractmethod
    def submit(self, tasks: Sequence[Task]) -> None:
        """Take tasks, which start in this order when there is room; may be called again."""

    @abstractmethod
    def poll(self) -> list[Ended]:
        """The tasks that ended since the last call, in any order; does not block. Starts those for which there is room.

        A task that ended without having been run, such as one that was stopped while it waited, is among them.
        """

    @abstractmethod
    def stop(self, number: int, tasks: Collection[Task] | None = None) -> None:
        """Send a signal to tasks that run (all of them by default); those that wait never start."""

    def close(self) -> None:  # noqa: B027  (most hold nothing)
        """Give back what the launcher holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

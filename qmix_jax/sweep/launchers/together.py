"""Jobs as one program: `hydra/launcher=together`."""

from collections.abc import Sequence
from dataclasses import dataclass

from qmix_jax.config import Config
from qmix_jax.sweep.launchers.processes import OwnProcesses
from qmix_jax.sweep.launchers.share import divide
from qmix_jax.sweep.worker import Task


class Together(OwnProcesses):
    """Jobs that differ only in numbers and seeds train side by side in one process, as the seeds of a run do; those
    that need different programs one after the other. Each uses every device.
    """

    @dataclass(frozen=True)
    class Settings:
        """This launcher has none."""

    def plan(self, configs: Sequence[Config]) -> str:
        """One program after the other."""
        from qmix_jax.run.together import groups

        self._free, words = divide(configs, 1)
        count = len(groups(configs))
        programs = "as one program" if count == 1 else f"as {count} programs, one after the other"
        return f"{programs}, {words.removeprefix('each ')}"

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queue tasks, by program."""
        from qmix_jax.run.together import groups

        found = groups([task.job.config for task in tasks])
        self._waiting += [[tasks[i] for i in group] for group in found]

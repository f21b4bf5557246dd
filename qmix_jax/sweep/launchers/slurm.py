"""Jobs of a Slurm cluster, through submitit: `hydra/launcher=slurm`."""

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra.core.utils import env_override

from qmix_jax.config import Config
from qmix_jax.console import duration, short
from qmix_jax.files import read_json, write_json
from qmix_jax.run.exits import FAILED, INTERRUPTED, KILLED, REQUEUE, TERMINATED
from qmix_jax.settings import ConfigError, Count, Range, check_ranges, require
from qmix_jax.sweep.jobs import Job
from qmix_jax.sweep.launchers.base import Ended, Launcher
from qmix_jax.sweep.ledger import NAME as SWEEP
from qmix_jax.sweep.record import last_line, read_record
from qmix_jax.sweep.worker import Task, run

FOLDER, IDS = ".submitit", "jobs.json"
"""In the folder of a sweep: submitit's files, and among them job folder -> the number of its Slurm job."""
COMPLETING = "COMPLETING"
"""Slurm's state of a job that ends, or that goes back into the queue."""
LATE = 15.0
"""Seconds after which a change of a file is seen on every host of a network file system, and within which a job that
goes back into the queue is listed there.
"""


class Slurm(Launcher):
    """The jobs of one `submit` are one array. They go on without this process, and the same line finds them again.

    A job that Slurm preempts, or that comes near its time limit, saves, and submitit puts it back into the queue.
    """

    interval = 5.0

    @dataclass(frozen=True)
    class Settings:
        """The settings of this launcher, those of each job; null: as the cluster has it."""

        partition: str | None = None
        """The partition."""
        account: str | None = None
        """The account."""
        qos: str | None = None
        """The quality of service."""
        time: str = "4:00:00"
        """The time limit: minutes, hours:minutes:seconds or days-hours:minutes:seconds; in YAML in quotes."""
        nodes: Count = 1
        """Nodes, which train a job together (docs/scaling.md)."""
        tasks_per_node: Count = 1
        """Processes on each of them: one for each of its GPUs, which JAX gives one to each."""
        gpus: Count | None = None
        """GPUs of a node."""
        cpus: Count | None = None
        """CPU cores of a process."""
        memory: str | None = None
        """Memory of a node, such as 16GB."""
        jobs: Count | None = None
        """Jobs at once."""
        comment: str | None = None
        """A comment, which some clusters ask for."""
        setup: tuple[str, ...] = ()
        """Lines of shell before the job, such as `module load cuda`."""
        sbatch: Mapping[str, Any] = field(default_factory=dict)
        """Other options of sbatch by their long names, such as {constraint: a100}."""
        signal_delay: Annotated[int, Range(1, 3600, "must be from 1 to 3600")] = 120
        """Seconds before the time limit at which a job saves: more than a chunk and a checkpoint take."""
        max_requeues: Annotated[int, Range(0, 1000, "must be from 0 to 1000")] = 20
        """How often a job goes on in the queue after its time limit; preemptions do not count."""
        executor: Literal["slurm", "local"] = "slurm"
        """submitit's executor; local, to try a line out, starts all jobs at once on this machine, without resources."""

        def __post_init__(self):
            check_ranges("hydra.launcher.", self)
            minutes(self.time)

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self._submitit = _import_submitit()
        self._is_local = settings.executor == "local"
        self._jobs: dict[Task, Any] = {}
        self._stopping: set[Task] = set()
        self._left: dict[Task, float] = {}  # since when the queue has their jobs no more

    def plan(self, configs: Sequence[Config]) -> str:
        """What each job asks Slurm for; Slurm decides when it starts."""
        del configs
        if self._is_local:
            return "all at once on this machine, through submitit"
        own = self.settings
        asked = {"partition": own.partition, "GPUs": own.gpus, "CPU cores": own.cpus, "memory": own.memory}
        together = f", {own.nodes} nodes x {own.tasks_per_node} processes each" * (own.nodes * own.tasks_per_node > 1)
        words = [f"{name} {value}" for name, value in asked.items() if value is not None]
        at_once = f", {own.jobs} at once" * bool(own.jobs)
        return ", ".join(
            [f"an array of Slurm{at_once}, each job for {duration(60 * minutes(own.time))}{together}", *words]
        )

    @property
    def at_once(self) -> int | None:
        """The limit on the array."""
        return self.settings.jobs

    def holds(self, job: Job) -> bool:
        """Whether Slurm still has the job of an earlier sweep; raises ConfigError where that has other settings."""
        number = _numbers(_submitit_folder(job)).get(str(job.folder))
        if number not in self._queue_before:
            return False
        found = read_record(job.folder)
        is_same = found is None or found.digest == job.digest
        require(is_same, f"Slurm job {number} has {short(job.folder)} with other settings: scancel {number} ends it")
        return True

    @cached_property
    def _queue_before(self) -> dict[str, str]:
        return {} if self._is_local else queue()

    def submit(self, tasks: Sequence[Task]) -> None:
        """Submit an array of the tasks that Slurm does not have yet."""
        folder = _submitit_folder(tasks[0].job)
        numbers = _numbers(folder)
        held = [task for task in tasks if self.holds(task.job)]
        for task in held:
            number = numbers[str(task.job.folder)]
            self._jobs[task] = self._submitit.SlurmJob(folder, number)
            del self._queue_before[number]  # it may be submitted again when it has ended
        new = [task for task in tasks if task not in held]
        if not new:
            return
        search_path = {"PYTHONPATH": os.pathsep.join(new[0].search_path)}
        try:
            executor = self._executor(folder)
            hosts = "on" if self.settings.nodes * self.settings.tasks_per_node > 1 else "off"
            with env_override(search_path), _interrupts_ignored(self._is_local), executor.batch():
                tasks = [replace(task, resumes=True, is_logged=True, hosts=hosts) for task in new]
                jobs = [executor.submit(Submission(task)) for task in tasks]
        except self._submitit.core.utils.FailedJobError as error:
            raise ConfigError(f"sbatch refuses the jobs: {_last(str(error))}") from error
        self._jobs |= dict(zip(new, jobs, strict=True))
        numbers |= {str(task.job.folder): job.job_id for task, job in zip(new, jobs, strict=True)}
        write_json(folder / IDS, numbers, indent=1)

    def _executor(self, folder: Path) -> Any:
        own = self.settings
        counts = {f"{name}_max_num_timeout": own.max_requeues for name in ("slurm", "local")}
        executor = self._submitit.AutoExecutor(folder, cluster=own.executor, **counts)
        executor.update_parameters(
            name="qmix-jax",
            timeout_min=minutes(own.time),
            nodes=own.nodes,
            tasks_per_node=own.tasks_per_node,
            gpus_per_node=own.gpus,
            cpus_per_task=own.cpus,
            slurm_partition=own.partition,
            slurm_account=own.account,
            slurm_qos=own.qos,
            slurm_mem=own.memory,
            slurm_array_parallelism=own.jobs,
            slurm_comment=own.comment,
            slurm_setup=list(own.setup),
            slurm_signal_delay_s=own.signal_delay,
            slurm_additional_parameters={"requeue": True, **own.sbatch},
        )
        return executor

    def poll(self) -> list[Ended]:
        """The tasks whose jobs have left the queue."""
        try:
            states = self._states()
        except ConfigError:  # Slurm does not answer at the moment
            return []
        self._stop_more(states)
        for task, job in self._jobs.items():
            if job.job_id in states:
                self._left.pop(task, None)
        ended = [end for task, job in self._jobs.items() if job.job_id not in states and (end := self._end(task))]
        for each in ended:
            del self._jobs[each.task]
        return ended

    def _states(self) -> Mapping[str, str]:
        """Number -> state, of jobs that wait or run."""
        if not self._is_local:
            return queue()
        return {job.job_id: "RUNNING" for job in self._jobs.values() if not job.done()}

    def _end(self, task: Task) -> Ended | None:
        """How a job that is not in the queue ended; None while its record may still change, or while it may come back:
        one that saved in order to go on has LATE seconds for that.
        """
        found = read_record(task.job.folder)
        if found is None or found.digest != task.job.digest:
            error = last_line(self._jobs[task].paths.stderr)
            is_failed = error and "CANCELLED" not in error  # Slurm's word for each job that it ends
            return Ended(task, FAILED, error) if is_failed else Ended(task, INTERRUPTED)
        is_final = found.status is not None and (self._is_local or found.status not in (REQUEUE, TERMINATED))
        is_late = time.monotonic() > self._left.setdefault(task, time.monotonic()) + LATE
        return Ended(task, KILLED if found.status is None else found.status) if is_final or is_late else None

    def stop(self, number: int, tasks: Collection[Task] | None = None) -> None:
        """Let running jobs save and end, and take waiting ones from the queue, whatever the signal."""
        del number
        self._stopping |= {task for task in self._jobs if tasks is None or task in tasks}
        with suppress(ConfigError):  # Slurm does not answer: `poll` tries again
            self._stop_more(self._states())

    def _stop_more(self, states: Mapping[str, str]) -> None:
        """End the jobs to be stopped, where they can be; one on its way back into the queue has to arrive first."""
        ready = {task: self._jobs[task].job_id for task in self._stopping & set(self._jobs)}
        ready = {task: job_id for task, job_id in ready.items() if states.get(job_id, COMPLETING) != COMPLETING}
        if self._is_local:  # again and again: submitit ignores SIGTERM until the run handles it
            for job_id in ready.values():
                os.kill(int(job_id), signal.SIGTERM)
            return
        saving = {task for task, job_id in ready.items() if states[job_id] == "RUNNING" and _has_begun(task)}
        _scancel([ready[task] for task in saving], "--signal=INT")
        _scancel([job_id for task, job_id in ready.items() if task not in saving])
        self._stopping -= set(ready)


class Submission:
    """A task as submitit calls it on the host that Slurm chose, once or, after preemptions, more often."""

    def __init__(self, task: Task):
        self._task = task

    def __call__(self) -> None:
        """Run the task, and end this process with its exit status; put the job back into the queue where it was
        interrupted, but not by the user.
        """
        from submitit import JobEnvironment

        status = run(self._task, is_first=JobEnvironment().global_rank == 0)
        if status == REQUEUE or (status == TERMINATED and _is_let_run(JobEnvironment())):
            signal.raise_signal(getattr(signal, f"SIG{JobEnvironment.USR_SIG}"))  # submitit's handler requeues
        sys.exit(status)

    def checkpoint(self) -> Any:
        """What submitit runs after it has put the job back."""
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(self)


def queue() -> dict[str, str]:
    """Number -> state, of this user's jobs that wait or run; raises ConfigError where Slurm does not answer."""
    has_slurm = shutil.which("sbatch") is not None
    require(has_slurm, "there is no sbatch here: start this on a host of the cluster, or choose another hydra/launcher")
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i %T"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    require(asked.returncode == 0, f"Slurm does not answer: {_last(asked.stderr)}")
    return dict(line.split() for line in asked.stdout.splitlines())


def minutes(time: str) -> int:
    """A time limit in minutes, rounded up; raises ConfigError where it is none."""
    found = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):(\d+):(\d+))|(\d+)", time)
    require(found is not None, f"hydra.launcher.time={time} must be minutes, or as in 4:00:00 or 1-12:00:00")
    assert found
    days, hours, mins, seconds, only = (int(each or 0) for each in found.groups())
    return max(1, only or (days * 24 + hours) * 60 + mins + math.ceil(seconds / 60))


def _import_submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise ConfigError("hydra/launcher=slurm needs submitit: pip install 'qmix-jax[slurm]'") from error
    return submitit


def _is_let_run(job: Any) -> bool:
    """Whether a job that got SIGTERM is neither cancelled nor put back into the queue by Slurm itself."""
    with suppress(ConfigError):
        return job.cluster == "slurm" and queue().get(job.job_id) == "RUNNING"
    return False


def _scancel(numbers: Sequence[str], *options: str) -> None:
    if numbers:
        subprocess.run(["scancel", *options, *numbers], capture_output=True, check=False)


def _has_begun(task: Task) -> bool:
    found = read_record(task.job.folder)
    return found is not None and found.state == "running"


def _submitit_folder(job: Job) -> Path:
    """Where submitit keeps its files: in the folder of the sweep."""
    above = job.folder.parents
    return next((folder for folder in above if (folder / SWEEP).exists()), above[0]) / FOLDER


def _numbers(folder: Path) -> dict[str, str]:
    """Folder -> number, of the jobs that were submitted."""
    return read_json(folder / IDS) or {}


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["it says no more"])[-1]


@contextmanager
def _interrupts_ignored(is_ignored: bool) -> Iterator[None]:
    """Start processes that ignore SIGINT: Ctrl-C goes to them too, and submitit's would kill their runs unsaved."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_ignored else None
    try:
        yield
    finally:
        if is_ignored:
            signal.signal(signal.SIGINT, before)

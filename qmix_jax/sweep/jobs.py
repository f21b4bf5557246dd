"""The jobs of a command line: checked together, then run one after the other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qmix_jax.build import from_mapping
from qmix_jax.config import Config
from qmix_jax.console import say, short
from qmix_jax.run import startup
from qmix_jax.run.exits import STOPPED
from qmix_jax.settings import require


@dataclass(frozen=True)
class Job:
    """One run to make. It holds plain data only: it can be pickled, and run by another process."""

    settings: dict[str, Any]
    """The settings as plain containers."""
    folder: Path
    """Where the run goes; absolute."""
    overrides: tuple[str, ...] = ()
    """The overrides of the command line that are this job's, for messages."""
    files: Mapping[Path, str] = field(default_factory=dict)
    """Path -> text of the files that record how Hydra composed the job; written when it starts."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables set while the job runs."""
    dated: str = ""
    """The setting that gives the job a new folder at every start; '' where none does."""

    @property
    def config(self) -> Config:
        """The job's settings, checked."""
        return from_mapping(self.settings)


@dataclass(frozen=True)
class JobList:
    """The jobs of one command line."""

    jobs: tuple[Job, ...]
    files: Mapping[Path, str] = field(default_factory=dict)
    """Path -> text of the files of a sweep that belong to no single job; empty for a single run."""

    @property
    def is_sweep(self) -> bool:
        """Whether the jobs are those of a sweep, be it a sweep of one job."""
        return bool(self.files)


def check(job_list: JobList, resumes: bool) -> list[Config]:
    """The config of each job; raises ConfigError for the first job that can be refused without any device.

    Does not start JAX. What depends on devices is checked when a job runs.
    """
    startup.import_jax()
    from qmix_jax.run import lock, plan, resume

    configs = [job.config for job in job_list.jobs]
    for job, config in zip(job_list.jobs, configs, strict=True):
        plan.check(config)
        needs_folder = resumes and job.dated
        require(not needs_folder, f"resume=auto needs a folder that is the same at every start: add {job.dated}=FOLDER")
        folder = short(job.folder)
        lock.require_unlocked(folder)
        resume.require_place(folder, resumes)
        if resumes:
            resume.changes(folder, config)
    return configs


def run(job_list: JobList, resumes: bool = False) -> int:
    """Check all jobs, then run each; returns the worst exit status.

    The jobs of a sweep run one after the other, each in a process of its own: this one starts no JAX. A job that fails
    does not stop the others; a signal ends them all.

    Raises:
        ConfigError: a job cannot work; nothing has been written.
        OSError: the files of the sweep cannot be written.
    """
    check(job_list, resumes)
    if not job_list.is_sweep:
        return run_job(job_list.jobs[0], resumes)
    from qmix_jax.sweep import worker

    _write(job_list.files)
    worst = 0
    for number, job in enumerate(job_list.jobs, 1):
        say(f"job {number} of {len(job_list.jobs)}: {' '.join(job.overrides)}")
        status = worker.run_in_own_process(job, resumes)
        if status in STOPPED:
            return status
        worst = max(worst, status)
    return worst


def run_job(job: Job, resumes: bool = False) -> int:
    """Start JAX, check the job on this machine's devices and run it; returns the exit status.

    Raises:
        ConfigError: the settings cannot work on this machine or in this folder; nothing has been written.
        OSError: the folder cannot be written to.
    """
    from hydra.core.utils import env_override

    with env_override(dict(job.environment)):
        config = job.config
        startup.start_jax([config.devices])
        from qmix_jax.run import experiment

        program = experiment.check(config)
        _write(job.files)
        return experiment.train(program.config, job.folder, job.settings, resumes, program).status


def _write(files: Mapping[Path, str]) -> None:
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

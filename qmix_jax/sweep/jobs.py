"""The jobs of a command line: what each is, the checks before the first starts, and how one is run."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qmix_jax.build import from_mapping
from qmix_jax.config import Config
from qmix_jax.console import short
from qmix_jax.files import to_json
from qmix_jax.run import startup
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
    number: int = 0
    """Among the jobs of its sweep; by default part of its folder's name."""

    @property
    def config(self) -> Config:
        """The job's settings, checked."""
        return from_mapping(self.settings)

    @property
    def digest(self) -> str:
        """Equal for jobs with equal settings."""
        return hashlib.sha256(to_json(self.settings).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class JobList:
    """The jobs of one command line."""

    jobs: tuple[Job, ...]
    folder: Path | None = None
    """The folder of the sweep, absolute; None for a single run."""
    files: Mapping[Path, str] = field(default_factory=dict)
    """Path -> text of the files of a sweep that belong to no single job."""
    launcher: Mapping[str, Any] = field(default_factory=dict)
    """The name of a sweep's launcher, and its settings."""


def check(job_list: JobList, resumes: bool) -> list[Config]:
    """The config of each job; raises ConfigError for the first job that can be refused without any device.

    Does not start JAX. What depends on devices is checked when a job runs.
    """
    configs = [check_settings(job) for job in job_list.jobs]
    from qmix_jax.run import lock, resume

    for job, config in zip(job_list.jobs, configs, strict=True):
        needs_folder = resumes and job.dated
        require(not needs_folder, f"resume=auto needs a folder that is the same at every start: add {job.dated}=FOLDER")
        folder = short(job.folder)
        lock.require_unlocked(folder)
        resume.require_place(folder, resumes)
        if resumes:
            resume.changes(folder, config)
    return configs


def require_distinct(jobs: Sequence[Job], folder: Path) -> None:
    """Raise ConfigError where two jobs of a sweep go to one folder, or one goes to `folder`, the sweep's own."""
    found: dict[Path, str] = {folder.resolve(): "the sweep itself"}
    for job in jobs:
        place, name = job.folder.resolve(), f"job {job.number}"
        both = f"{found.get(place)} and {name} both go to {short(place)}"
        require(place not in found, f"{both}: put what differs into hydra.sweep.subdir, or leave it out")
        found[place] = name


def check_settings(job: Job) -> Config:
    """The config of a job; raises ConfigError where its settings cannot work anywhere."""
    startup.import_jax()
    from qmix_jax.run import plan

    config = job.config
    plan.check(config)
    return config


def run_here(jobs: Sequence[Job], resumes: bool = False) -> list[int]:
    """Start JAX, check the jobs on this machine's devices and run them; returns the exit status of each. Those that can
    share a program train together.

    Raises:
        ConfigError: the settings cannot work on this machine or in this folder; nothing has been written.
        OSError: the folder cannot be written to.
    """
    from hydra.core.utils import env_override

    with env_override(dict(jobs[0].environment)):
        configs = [job.config for job in jobs]
        startup.start_jax({config.devices for config in configs})
        from qmix_jax.run import experiment, hosts

        programs = [experiment.check(config) for config in configs]
        for job in jobs if hosts.is_first() else ():
            write(job.files)
        if len(jobs) == 1:
            job, program = jobs[0], programs[0]
            return [experiment.train(program.config, job.folder, job.settings, resumes, program).status]
        orders = [experiment.Order(config, job.folder, job.settings) for job, config in zip(jobs, configs, strict=True)]
        return [finished.status for finished in experiment.train_many(orders, resumes)]


def write(files: Mapping[Path, str]) -> None:
    """Write files of a job or a sweep, with the folders they need."""
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

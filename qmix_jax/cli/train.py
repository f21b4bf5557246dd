"""`qmix-jax train`: Hydra chooses the settings, `qmix_jax.run.experiment` runs them."""

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmix_jax.build import from_mapping
from qmix_jax.cli.conf import conf_dir, fill_store
from qmix_jax.cli.help import help_text
from qmix_jax.cli.startup import AUTO, import_jax, report, start_jax
from qmix_jax.config import Config
from qmix_jax.console import say
from qmix_jax.run.exits import FAILED, STOPPED
from qmix_jax.settings import require

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig

    from qmix_jax.cli.compose import Job
    from qmix_jax.run.program import Program


def main(arguments: list[str]) -> int:
    """Train as the command line says; returns the exit status, the worst one of a sweep."""
    if not {"-h", "--help"}.isdisjoint(arguments):
        print(help_text(arguments))
        return 0
    from qmix_jax.cli.compose import compose_jobs, parse_flags

    resumed, arguments = take_resume(arguments)
    if resumed not in ("", AUTO):
        return go_on(Path(resumed), arguments)
    flags = parse_flags(arguments)
    jobs = compose_jobs(flags.options) if flags.composes else []
    programs = check(jobs, resumed == AUTO) if flags.runs else []
    return run_hydra(flags.argv, Jobs(len(jobs), programs, resumed == AUTO))


def take_resume(arguments: list[str]) -> tuple[str, list[str]]:
    """What `--resume X`, `--resume=X` or `resume=X` says ('' for nothing), and the rest of the command line."""
    said, rest, words = "", [], iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name not in ("--resume", "resume") or word == "resume":
            rest.append(word)
            continue
        said = value if equals else next(words, "")
        require(bool(said), f"{word} needs a run's folder, or auto")
    return said, rest


def go_on(folder: Path, overrides: list[str]) -> int:
    """Go on with the run in a folder, with its own settings and these overrides on top."""
    import_jax()
    from qmix_jax.run.resume import merge_settings

    settings = merge_settings(folder, overrides)
    config = from_mapping(settings)
    start_jax([config.devices])
    from qmix_jax.run import experiment

    return experiment.run(config, folder, settings, go_on=True)


def check(jobs: "list[Job]", go_on: bool) -> "list[Program]":
    """Start JAX, and raise ConfigError for the first job that cannot work on this machine or in its folder.

    Returns the programs looked at: of jobs that differ only in their seed, the first one's.
    """
    import_jax()
    configs = [from_mapping(job.settings) for job in jobs]
    start_jax([config.devices for config in configs])
    from qmix_jax.run import experiment, lock, resume

    checked: list[Config] = []
    programs = []
    for job, config in zip(jobs, configs, strict=True):
        require(
            not (go_on and job.dated),
            f"resume=auto needs a folder that is the same at every start: add {job.dated}=FOLDER",
        )
        lock.require_unlocked(job.folder)
        resume.require_place(job.folder, go_on)
        if go_on:
            resume.changes(job.folder, config)
        alike = replace(config, seed=0)
        if alike not in checked:
            programs.append(experiment.check(config))
            checked.append(alike)
    return programs


@dataclass
class Jobs:
    """Runs each job that Hydra hands over, and keeps the worst exit status."""

    count: int
    programs: "list[Program]"
    """Those that are checked already."""
    go_on: bool = False
    argv: list[str] = field(default_factory=lambda: list(sys.argv))
    done: int = 0
    status: int = 0

    def run(self, settings: "DictConfig") -> None:
        """One job; a signal ends them all."""
        from hydra.core.hydra_config import HydraConfig

        from qmix_jax.cli.compose import to_plain
        from qmix_jax.run import experiment

        sys.argv = self.argv  # the run's records name the true command
        hydra = HydraConfig.get()
        plain = to_plain(settings)
        try:
            config, folder = from_mapping(plain), Path(hydra.runtime.output_dir)
            checked = next((program for program in self.programs if program.config == config), None)
            status = experiment.run(config, folder, plain, self.go_on, checked)
        except Exception as error:
            status = self._report(error)
        self.status = max(self.status, status)
        if status in STOPPED:
            sys.exit(status)

    def launch(self, run_job: "Callable[..., JobReturn]", **job: Any) -> "JobReturn":
        """One job of a sweep, by Hydra's `run_job`; where it cannot even write the job's files, the next one comes."""
        from hydra.core.utils import JobReturn, JobStatus

        self.done += 1
        say(f"job {self.done} of {self.count}: {' '.join(job['config'].hydra.overrides.task)}")
        try:
            return run_job(**job)
        except OSError as error:
            self.status = max(self.status, report(error))
            return JobReturn(status=JobStatus.COMPLETED)

    def _report(self, error: Exception) -> int:
        """Say what went wrong; of a sweep, a job with an error that nobody foresaw does not stop the others either."""
        try:
            return report(error)
        except Exception:
            if self.count == 1:
                raise
            traceback.print_exc()
            return FAILED


def run_hydra(argv: list[str], jobs: Jobs) -> int:
    """Let Hydra do what the command line says, with `jobs` as its task."""
    import hydra

    basic_launcher: Any = import_module("hydra._internal.core_plugins.basic_launcher")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or else Hydra prints an error and exits with 1, whatever it was

    def train(settings: "DictConfig") -> None:
        jobs.run(settings)

    fill_store()
    sys.argv = ["qmix-jax", *argv]  # where Hydra reads
    run_job = basic_launcher.run_job
    basic_launcher.run_job = partial(jobs.launch, run_job)
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(train)()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        sys.argv = jobs.argv
        basic_launcher.run_job = run_job
    return jobs.status

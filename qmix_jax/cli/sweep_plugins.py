"""Sweepers that are Hydra's plugins, such as Ax's and Nevergrad's: each asks Hydra for a launcher, and gets one that
runs its jobs as any sweep's and returns their scores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext
from omegaconf import DictConfig

from qmix_jax.console import reason
from qmix_jax.run import exits
from qmix_jax.settings import ConfigError
from qmix_jax.sweep import record
from qmix_jax.sweep.board import closing, show
from qmix_jax.sweep.jobs import Job, JobList
from qmix_jax.sweep.ledger import JobPlan, plans_of, state_of
from qmix_jax.sweep.runner import Again, is_over, run_jobs


class JobLauncher(Launcher):
    """Hydra's launcher for one sweep: runs batches of jobs and returns their scores."""

    def __init__(self, sweep: "SweepOfPlugin"):
        self._sweep = sweep

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> None:
        """Hydra's hook; what it gives is not needed."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs, and return the score of each by `evaluation.score`; that of a failed one raises its error."""
        return self._sweep.run_batch(job_overrides, initial_job_idx)


class JobFailedError(Exception):
    """A job failed, which ends a sweeper that looks at its score."""


@dataclass
class SweepOfPlugin:
    """A sweep whose jobs a plugin makes, batch by batch, from the scores of those before."""

    name: str
    """The choice of `hydra/sweeper`."""
    master: DictConfig
    """What Hydra composed of the whole command line."""
    loader: Any
    """Hydra's config loader."""
    overrides: Sequence[str]
    """The command line's, which the sweeper reads."""
    job: Callable[[int, Sequence[str]], Job]
    """From a number and overrides to a job; raises ConfigError."""
    job_list: JobList
    """The sweep, with the jobs so far."""
    resumes: bool = False
    retries: bool = False
    status: int = exits.DONE

    def run(self, resumes: bool = False, retries: bool = False) -> int:
        """Let the sweeper run jobs; returns the worst exit status.

        Raises:
            ConfigError: the sweeper does not work here, or refuses the command line.
        """
        self.resumes, self.retries = resumes, retries
        try:
            self._sweeper().sweep(list(self.overrides))
        except HydraException as error:
            raise ConfigError(f"hydra/sweeper={self.name}: {reason(error)}") from error
        except JobFailedError:
            pass  # its line has been printed
        finally:
            if self.job_list.folder and self.job_list.jobs:
                show(closing([state_of(plan) for plan in self._plans], self.job_list.folder))
        return self.status

    def _sweeper(self) -> Sweeper:
        """The sweeper; it asks Hydra's plugins for a launcher while it is set up, and gets ours."""
        plugins, context = Plugins.instance(), HydraContext(self.loader, None)  # pyright: ignore[reportArgumentType]
        vars(plugins)["instantiate_launcher"] = lambda *_, **__: JobLauncher(self)
        try:
            return plugins.instantiate_sweeper(hydra_context=context, task_function=lambda _: None, config=self.master)
        except Exception as error:  # a plugin's code
            raise ConfigError(f"hydra/sweeper={self.name} does not work here: {reason(error)}") from error
        finally:
            del vars(plugins)["instantiate_launcher"]

    def run_batch(self, overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        """Run the jobs with these overrides, the first of which has the number `first`."""
        new = [self.job(first + k, own) for k, own in enumerate(overrides)]
        self.job_list = replace(self.job_list, jobs=(*self.job_list.jobs, *new))
        again = Again.of(self.job_list, self.resumes, self.retries)
        status = run_jobs(self.job_list, [job for job in new if not is_over(job, again)], again)
        self.status = max(self.status, status)
        if status in exits.STOPPED:
            raise SystemExit(status)
        return [_returned(job, own) for job, own in zip(new, overrides, strict=True)]

    @property
    def _plans(self) -> list[JobPlan]:
        return plans_of(self.job_list.jobs, [job.config for job in self.job_list.jobs])


def _returned(job: Job, overrides: Sequence[str]) -> JobReturn:
    """What Hydra's sweepers get of a job: its score, or its error."""
    found = record.read_record(job.folder)
    returned = JobReturn(overrides=list(overrides), working_dir=str(job.folder), task_name="train")
    is_done = found is not None and found.state == "done" and found.score is not None
    returned.status = JobStatus.COMPLETED if is_done else JobStatus.FAILED
    returned.return_value = (
        found.score if found and is_done else JobFailedError(found.error if found else "it never began")
    )
    return returned

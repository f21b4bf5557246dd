"""The jobs of a sweep through a launcher: which of them are left to run, until the last has ended."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qmix_jax.console import say, short
from qmix_jax.run import exits
from qmix_jax.run.lock import locked
from qmix_jax.settings import make_settings, require
from qmix_jax.sweep import record
from qmix_jax.sweep.board import Board, NoBoard, closing, show
from qmix_jax.sweep.jobs import Job, JobList, check, require_distinct, run_here, write
from qmix_jax.sweep.launchers import LAUNCHERS
from qmix_jax.sweep.launchers.base import Ended, Launcher
from qmix_jax.sweep.ledger import JobPlan, Watch, plans_before, plans_of, read_sweep, state_of, write_sweep
from qmix_jax.sweep.worker import Task

PREFIX = "hydra.launcher."


@dataclass(frozen=True)
class Again:
    """What is done with jobs that ran before."""

    resumes: bool = False
    """Resume those that were stopped, and leave out those that are done or failed."""
    retries: bool = False
    """Run those that failed again."""

    @classmethod
    def of(cls, job_list: JobList, resumes: bool, retries: bool) -> "Again":
        """As the command line says; a sweep in a folder that is the same at every start always resumes."""
        dated = next((job.dated for job in job_list.jobs if job.dated), "")
        is_same = job_list.folder is not None and not dated
        require(job_list.folder is not None or not retries, "retry=failed is for sweeps: resume=auto tries a run again")
        require(is_same or not retries, f"retry=failed is for a sweep that ran before: add {dated}=FOLDER")
        return cls(resumes or is_same, retries)


def run(job_list: JobList, again: Again) -> int:
    """Check all jobs, then run them; returns the worst exit status.

    A job that fails does not stop the others; a signal ends them all.

    Raises:
        ConfigError: a job cannot work; nothing has been written.
        OSError: the files of the sweep cannot be written.
    """
    if job_list.folder is None:
        check(job_list, again.resumes)
        return run_here(job_list.jobs, again.resumes)[0]
    left = [job for job in job_list.jobs if not is_over(job, again)]
    worst = run_jobs(job_list, left, again)
    plans = _of_jobs(read_sweep(job_list.folder), job_list.jobs)
    show(closing([state_of(plan) for plan in plans], job_list.folder))
    over = [found for job in job_list.jobs if job not in left and (found := record.read_record(job.folder))]
    return max([worst, *(each.status or 0 for each in over)])


def run_jobs(job_list: JobList, left: Sequence[Job], again: Again) -> int:
    """Check those of a sweep's jobs that are left to run, then run them; returns their worst exit status."""
    assert job_list.folder
    require_distinct(job_list.jobs, job_list.folder)
    launcher = make_launcher(job_list.launcher)
    check(JobList(tuple(job for job in left if not launcher.holds(job))), again.resumes)
    configs = [job.config for job in job_list.jobs]
    before = plans_before(job_list.folder)
    _refuse_other_jobs(before, job_list.jobs)
    plans = plans_of(job_list.jobs, configs, before)
    plan = launcher.plan(configs) if left else ""  # of all jobs: one that is resumed gets what it had
    with locked(short(job_list.folder)), launcher:
        say(_first_line(len(job_list.jobs), len(left), plan))
        write(job_list.files)
        write_sweep(job_list.folder, plans, {"command": sys.argv})
        if not left:
            return exits.DONE
        own = _of_jobs(plans, job_list.jobs)
        is_shown = len(own) == 1 and launcher.is_on_terminal
        tasks = [Task.of(job, again.resumes, is_logged=not is_shown) for job in left]
        board = NoBoard() if is_shown else Board(Watch(own, [job.folder for job in left]).states, launcher.at_once)
        return run_all(launcher, board, once(tasks), note_end)


def make_launcher(values: Mapping[str, Any]) -> Launcher:
    """The launcher of the settings `hydra.launcher`; raises ConfigError where they are wrong."""
    cls = LAUNCHERS.find(values["name"])
    return cls(make_settings(cls.Settings, {key: value for key, value in values.items() if key != "name"}, PREFIX))


def is_over(job: Job, again: Again) -> bool:
    """Whether a job ran to its end with the same settings, or failed and is not tried again."""
    found = record.read_record(job.folder)
    if not again.resumes or found is None or found.digest != job.digest:
        return False
    return found.state == "done" or (found.state == "failed" and not again.retries)


def _of_jobs(plans: Sequence[JobPlan], jobs: Sequence[Job]) -> list[JobPlan]:
    """Those of these jobs, among all that the folder of a sweep holds."""
    folders = {job.folder for job in jobs}
    return [plan for plan in plans if plan.folder in folders]


def _refuse_other_jobs(before: Sequence[JobPlan], jobs: Sequence[Job]) -> None:
    """Raise ConfigError where the folder's sweep has none of these jobs, or one of other settings in the place of one
    of them.
    """
    lines = {job.folder: job.overrides for job in jobs}
    is_one_there = any(plan.folder in lines for plan in before)
    for plan in before:
        is_same = set(plan.differs) <= set(lines.get(plan.folder, plan.differs)) or len(before) == 1
        own = f"{short(plan.folder)} is of the job {plan.label}"
        require(is_one_there and is_same, f"{own}: repeat its sweep, or name another folder, hydra.sweep.dir=FOLDER")


def _first_line(total: int, left: int, plan: str) -> str:
    over = f", {total - left} of them done or failed before" * (left != total)
    return f"{total} job{'s' * (total != 1)}{over}" + f": {plan}" * bool(plan)


def once(tasks: Sequence[Task]) -> Callable[[], Sequence[Task]]:
    """A function that gives the tasks when it is first called, and then none."""
    batches = iter([tasks])
    return lambda: next(batches, ())


def run_all(
    launcher: Launcher, board: Board, more: Callable[[], Sequence[Task]], on_end: Callable[[Ended], int]
) -> int:
    """Run tasks to their ends; returns the worst exit status, that of the signal where one ended them.

    `more` gives tasks to start, and is asked until a signal comes, or it gives none while none is left. `on_end` is
    called when a task has ended, and returns the exit status that counts.
    """
    left, worst, passed_on = set[Task](), exits.DONE, 0
    with board, exits.stop_signals() as received:
        while (new := () if received else more()) or left:
            if new:
                launcher.submit(new)
                left |= set(new)
            for ended in launcher.poll():
                left.remove(ended.task)
                worst = max(worst, on_end(ended))
                board.update(is_forced=True)
            for number in received[passed_on:]:
                say(f"{number.name}: the running jobs save and end")
                launcher.stop(number)
            passed_on = len(received)
            board.update()
            time.sleep(launcher.interval if left else 0)
    return exits.STOP_SIGNALS[received[0]] if received else worst


def note_end(ended: Ended) -> int:
    """Record the end of a job whose process could not do it itself, because it was killed or never began; returns its
    exit status.
    """
    job, status = ended.task.job, ended.status
    found = record.read_record(job.folder)
    is_recorded = found is not None and found.digest == job.digest and found.state != "running"
    if is_recorded or (not job.folder.exists() and record.state_of_status(status) == "stopped"):
        return status
    error = ended.error or record.last_line(job.folder / record.LOG)
    found = replace(found, digest=job.digest) if found else record.JobRecord("running", job.digest)
    record.end(job.folder, found, status, error)
    return status

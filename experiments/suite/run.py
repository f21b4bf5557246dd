"""Trains the suite, one unfinished job after the other; started again, it goes on where it was stopped.

python experiments/suite/run.py                      # everything
python experiments/suite/run.py --list               # what is done and what is left
python experiments/suite/run.py --only 3m,8m-vdn     # some maps or jobs
python experiments/suite/run.py --only ablations     # one change at a time on three maps
python experiments/suite/run.py devices=1            # settings for every job, as for qmix-jax train

A job is a folder below --runs and a process of its own. A signal (Ctrl-C, SIGTERM) saves the running job and ends the
suite. A job that fails does not stop the others.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import plan
import script

from qmix_jax.cli.compose import compose_jobs
from qmix_jax.cli.flags import parse_flags
from qmix_jax.console import duration, say
from qmix_jax.records import read_metrics
from qmix_jax.run.exits import STOPPED
from qmix_jax.sweep.board import NoBoard
from qmix_jax.sweep.jobs import Job
from qmix_jax.sweep.launchers.processes import Processes
from qmix_jax.sweep.runner import note_end, once, run_all
from qmix_jax.sweep.worker import Task

RUNS = Path("runs/suite")


def train(job: plan.Job, folder: Path, overrides: Sequence[str]) -> int:
    """Train a job from the beginning or from where it was stopped; returns the exit status."""
    words = [*job.overrides, *overrides]
    sys.argv = ["qmix-jax", "train", *words]  # what run.json records as the command
    say(f"{folder}: {' '.join(sys.argv)}")
    options = parse_flags([*words, f"hydra.run.dir={folder}"]).options
    return run_alone(compose_jobs(options).jobs[0])


def run_alone(job: Job) -> int:
    """Run a job in a process of its own, on every device; returns the exit status."""
    with Processes(Processes.Settings(jobs=1)) as launcher:
        launcher.plan([job.config])
        return run_all(launcher, NoBoard(), once([Task.of(job, resumes=True, is_logged=False)]), note_end)


def last_row(folder: Path) -> dict:
    """The last evaluation of a job; empty before the first."""
    path = folder / "metrics.jsonl"
    rows = read_metrics(path) if path.is_file() else []
    return rows[-1] if rows else {}


def is_finished(job: plan.Job, folder: Path) -> bool:
    return last_row(folder).get("env_steps", -1) >= job.env_steps


def describe(job: plan.Job, folder: Path) -> str:
    row = last_row(folder)
    took = f"  {duration(row['wall_seconds'])}" if row else ""
    width = max(len(each.name) for each in plan.PLAN)
    return f"{job.name:<{width}} {row.get('env_steps', 0):>12,} of {job.env_steps:>12,}{took}"


def is_chosen(job: plan.Job, words: Sequence[str]) -> bool:
    """Whether a job's name, map or folder is among the words."""
    names = {job.name, job.name.partition("-")[0], job.name.rpartition("/")[0] or job.name}
    return not names.isdisjoint(words)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="only say what is done and what is left")
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="MAP,JOB", help="some maps or jobs")
    parser.add_argument("--runs", type=Path, default=RUNS, help=f"the folder of the runs (default: {RUNS})")
    parser.add_argument("overrides", nargs="*", metavar="SETTING", help="settings for every job, such as devices=1")
    options = parser.parse_intermixed_args(arguments)
    jobs = [job for job in plan.PLAN if options.only is None or is_chosen(job, options.only)]
    for word in options.only or []:
        if not any(is_chosen(job, [word]) for job in jobs):
            parser.error(f"the plan has no map and no job {word}; --list shows its jobs")
    worst = 0
    for job in jobs:
        folder = options.runs / job.name
        if options.list:
            print(describe(job, folder))
        elif not is_finished(job, folder):
            status = train(job, folder, options.overrides)
            if status in STOPPED:
                return status
            worst = max(worst, status)
    return worst


if __name__ == "__main__":
    script.exit_with(main, __file__)

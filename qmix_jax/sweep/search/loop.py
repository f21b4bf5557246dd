"""A search: trials through a launcher, each a job of its own, until there are as many as wanted."""

import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from optuna.trial import TrialState

from qmix_jax.console import say, warn
from qmix_jax.deployed_agent import ArtifactError
from qmix_jax.records import read_metrics
from qmix_jax.run import exits
from qmix_jax.run.lock import locked
from qmix_jax.settings import ConfigError, require
from qmix_jax.sweep import record
from qmix_jax.sweep.board import Board, show
from qmix_jax.sweep.jobs import Job, JobList, check, check_settings, require_distinct, write
from qmix_jax.sweep.launchers.base import Ended, Launcher
from qmix_jax.sweep.ledger import JobPlan, JobState, Watch, plan_of, plans_before, state_of, write_sweep
from qmix_jax.sweep.runner import Again, is_over, make_launcher, note_end, run_all
from qmix_jax.sweep.search.results import results
from qmix_jax.sweep.search.settings import PREFIX, SearchSettings
from qmix_jax.sweep.search.space import Space
from qmix_jax.sweep.search.study import JOURNAL, Study, Trial, require_possible
from qmix_jax.sweep.worker import Task

LOOK = 1.0
"""Seconds between two looks at the rows of the running trials."""
AT_ONCE = 8
"""Trials at once where neither the launcher nor a setting says how many."""
RESUME = Again(resumes=True)


@dataclass(frozen=True)
class Search:
    """A search as a command line describes it."""

    settings: SearchSettings
    space: Space
    shared: tuple[str, ...]
    """The overrides of all trials."""
    job: Callable[[int, Sequence[str]], Job]
    """From a trial's number and its overrides to its job; raises ConfigError where they are wrong."""
    common: JobList
    """The sweep without its jobs."""
    command: tuple[str, ...]
    """The words of a command line before those of a trial alone."""

    @property
    def folder(self) -> Path:
        """That of the sweep; absolute."""
        assert self.common.folder
        return self.common.folder

    def run(self, resumes: bool = False, retries: bool = False) -> int:
        """Check the space, then run trials; returns the exit status: the worst of all trials where every one failed.

        Raises:
            ConfigError: a setting, or a value of the space, cannot work; nothing has been trained.
        """
        require(not retries, f"a search runs no failed trial again: a larger {PREFIX}trials=N adds others")
        require_possible(self.settings, self.space)
        lines = [[*self.shared, *self.space.lines(values)] for values in self.space.extremes]
        corners = [self.job(number, own) for number, own in enumerate(lines)]
        require_distinct(corners, self.folder)
        configs = [check_settings(job) for job in corners]
        Again.of(replace(self.common, jobs=tuple(corners)), resumes, retries)  # refuses resume=auto in a new folder
        first, config = self.plan(corners[0], ()), configs[0]
        launcher = make_launcher(self.common.launcher)
        with locked(self.folder), launcher:
            scored = " ".join([first.metric, first.how, first.seeds, first.direction])
            steps = config.chunk_env_steps, config.trained_env_steps
            study = Study(self.folder, self.settings, self.space, scored, self.shared, *steps)
            loop = _Loop(self, study, launcher, first)
            most = study.most_trials
            words = launcher.plan([config] * most)
            say(f"{most} trials, {len(study.trials)} of them begun before: {words}")
            write(self.common.files)
            status = loop.run()
            show(results(self.folder, study, loop.states))
            if study.best is not None:
                say(f"Best: {shlex.join([*self.command, *self.space.lines(study.best.values)])}")
        return status

    def plan(self, job: Job, values: Sequence[str]) -> JobPlan:
        """The plan of a trial's job."""
        found = plan_of(job, job.config, tuple(values))
        metric = self.settings.metric or found.metric
        return replace(found, metric=metric, seeds=self.settings.seeds, direction=self.settings.direction)


class _Loop:
    """The trials of a search while it runs."""

    def __init__(self, search: Search, study: Study, launcher: Launcher, example: JobPlan):
        self._search, self._study, self._launcher, self._example = search, study, launcher, example
        self._plans = {plan.folder: plan for plan in plans_before(search.folder)}
        is_own = bool(study.trials) or not self._plans
        lost = f"{search.folder} holds another sweep, or has lost its {JOURNAL}"
        require(is_own, f"{lost}: put that back, or name another folder, hydra.sweep.dir=FOLDER")
        self._watch = Watch(self._plans.values())
        self._running: dict[int, Task] = {}
        self._left: list[Trial] = [trial for trial in study.trials if trial.state == TrialState.RUNNING]
        self._next_look = 0.0

    def run(self) -> int:
        """Run trials until there are enough; returns the exit status."""
        limits = [each for each in (self._search.settings.at_once, self._launcher.at_once) if each]
        self._at_once = min(limits or [AT_ONCE])
        board = Board(self._states_with_those_to_come, self._at_once)
        status = run_all(self._launcher, board, self._more, self._end)
        is_some_use = any(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in self._study.trials)
        is_stopped = record.state_of_status(status) == "stopped"
        return exits.DONE if is_some_use and not is_stopped else status or exits.FAILED

    # --- the begin of a trial --------------------------------------------------------------------------------------

    def _more(self) -> list[Task]:
        self._look()
        new: list[Task] = []
        while len(self._running) < self._at_once and (trial := self._next_trial()) is not None:
            task = self._begin(trial)
            if task is not None:
                self._running[trial.number] = task
                new.append(task)
        return new

    def _next_trial(self) -> Trial | None:
        """A trial that was running when the search last ended, or else a new one; None where there are enough."""
        if self._left:
            return self._left.pop(0)
        return self._study.ask() if len(self._study.trials) < self._study.most_trials else None

    def _begin(self, trial: Trial) -> Task | None:
        """The task of a trial; None where it cannot begin, or has ended."""
        search, lines = self._search, self._search.space.lines(trial.values)
        try:
            job = search.job(trial.number, [*search.shared, *lines])
            check(JobList((job,)), resumes=True)
        except ConfigError as error:
            warn(f"trial {trial.number} is not possible: {error}")
            self._study.tell(trial.number, None, str(error))
            return None
        plan = self._plans[job.folder] = search.plan(job, lines)
        self._study.begin(trial.number, job.folder.name)
        about = {"command": sys.argv, "search": search.settings.study}
        write_sweep(search.folder, list(self._plans.values()), about)
        if trial.is_to_end or is_over(job, RESUME):
            self._settle(trial.number, plan, trial.is_to_end)
            return None
        return Task.of(job, resumes=True)

    # --- while it runs ---------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Report the rows of running trials, and stop those that the pruner ends."""
        if time.monotonic() < self._next_look:
            return
        for number, task in self._running.items():
            scores = _scores_so_far(self._plans[task.job.folder])
            if scores and self._study.report(number, scores):
                self._launcher.stop(signal.SIGTERM, [task])
        self._next_look = time.monotonic() + LOOK

    # --- the end of a trial ----------------------------------------------------------------------------------------

    def _end(self, ended: Ended) -> int:
        status = note_end(ended)
        number = next(number for number, task in self._running.items() if task is ended.task)
        del self._running[number]
        plan = self._plans[ended.task.job.folder]
        is_to_end = self._study.is_to_end(number)
        is_stopped = record.state_of_status(status) == "stopped"
        if not is_stopped or is_to_end:
            self._settle(number, plan, is_to_end)
        return exits.DONE if is_stopped and is_to_end else status

    def _settle(self, number: int, plan: JobPlan, is_to_end: bool) -> None:
        """Tell the study how a trial ended. One that was done before it could be stopped has its score."""
        found = state_of(plan)
        if found.state == "done" and found.score is not None:
            self._study.report(number, _scores_so_far(plan))
            self._study.tell(number, found.score)
        elif found.state == "done":
            self._study.tell(number, None, f"{plan.folder.name}/metrics.jsonl has no {plan.metric}")
        elif found.state != "failed" and is_to_end:
            record.note_pruned(plan.folder)
            self._study.tell(number, None)
        else:
            self._study.tell(number, None, found.error or "it failed")

    # --- for people ------------------------------------------------------------------------------------------------

    @property
    def states(self) -> list[JobState]:
        """The state of each trial's job."""
        return self._watch.states()

    def _states_with_those_to_come(self) -> list[JobState]:
        known = self.states
        numbers = range(len(known), self._study.most_trials)
        folder = self._search.folder
        return [*known, *(JobState(replace(self._example, folder=folder / str(k)), "waiting") for k in numbers)]


def _scores_so_far(plan: JobPlan) -> list[tuple[int, float]]:
    """The score that a run would have if it ended at each of its evaluations, but the last one, by environment step."""
    try:
        rows = read_metrics(plan.folder / "metrics.jsonl", lambda _: None)
    except ArtifactError:
        return []
    scores = [
        (row["env_steps"], record.score_of(rows[: k + 1], plan.metric, plan.how, plan.seeds, plan.direction))
        for k, row in enumerate(rows)
        if row["env_steps"] < plan.env_steps
    ]
    return [(step, score) for step, score in scores if score is not None]

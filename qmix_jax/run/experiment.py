"""Runs from start to end: the checks before them, and the files that they leave. A run alone, or several together."""

import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qmix_jax.build import as_algorithm_sees, make_env
from qmix_jax.config import Config, LoggingConfig, by_name
from qmix_jax.console import say, warn
from qmix_jax.envs.check import refuse_wrong_shapes
from qmix_jax.files import write_file
from qmix_jax.records import batch_folder, format_rows
from qmix_jax.reporters.base import Callback, RunEnd, RunStart
from qmix_jax.reporters.callbacks import Callbacks, make_callbacks
from qmix_jax.reporters.dashboard import make_dashboards
from qmix_jax.run import exits, host_loop, hosts, messages, pictures, plan, seed_batches, together
from qmix_jax.run.checkpoint import METRICS
from qmix_jax.run.host_loop import Run
from qmix_jax.run.lock import locked
from qmix_jax.run.memory import TooLargeError, fits, refuse_what_cannot_fit, what_to_lower
from qmix_jax.run.metrics import score_metric
from qmix_jax.run.outlets import Member, Order, files, outlets, shown, write_settings, write_starts
from qmix_jax.run.parts import refuse_wrong_parts
from qmix_jax.run.program import Program
from qmix_jax.run.resume import ResumePoint, changes, holds_run, read_rows, require_place, shared_resume_point
from qmix_jax.settings import ConfigError, merge, require


class Finished(NamedTuple):
    """A run that ended."""

    status: int
    """The exit status."""
    rows: list[dict]
    """Those of metrics.jsonl."""
    params: Any
    """The last finite parameters (S, ...) on the host; None where the run never began."""


def check(config: Config) -> Program:
    """The run's program, not yet compiled; raises ConfigError where it cannot train here, or would learn nothing.

    Of several processes, its config lets process 0 alone report.
    """
    require(jnp.result_type(float) == jnp.float32, "training is in 32 bits: call it outside of jax.enable_x64(True)")
    plan.check(config)
    env = make_env(config.env)
    refuse_wrong_shapes(env, config.env.name, config.env.settings)
    env = as_algorithm_sees(config.algorithm, env)
    refuse_wrong_parts(config, env)
    limit, steps = env.spec.episode_limit, config.rollout.num_steps
    if config.rollout.whole_episodes and steps < limit:
        raise ConfigError(f"rollout.num_steps={steps} cuts whole episodes short; set rollout.num_steps={limit}")
    tried, count = list(config.exploration.team_actions), env.spec.num_actions
    named = f"exploration.team_actions={tried} must be actions of {env.spec.name}"
    require(all(0 <= action < count for action in tried), f"{named}, whose numbers are 0 to {count - 1}")
    score_metric(config, env)
    if not hosts.is_first():
        config = replace(config, callbacks=(), logging=LoggingConfig(display="none", film=False))
    program = Program.make(config, env)
    _refuse_what_never_fits(program)
    return program


def _refuse_what_never_fits(program: Program) -> None:
    """Raise ConfigError where one seed alone does not fit."""
    if not fits(program):
        first = range(program.config.seed, program.config.seed + 1)
        refuse_what_cannot_fit(program.of_seeds(first) if hosts.count() == 1 else program)


def train(
    config: Config,
    folder: Path,
    settings: dict,
    resumes: bool = False,
    program: Program | None = None,
    callbacks: Sequence[Callback] = (),
    is_kept: bool = True,
) -> Finished:
    """Train as the config says and leave everything in `folder`.

    With `resumes`, a run that the folder holds is resumed. `program` is the config's, where it is already checked. For
    the other arguments see `Order`.

    Raises:
        ConfigError: before anything is written, where the config cannot work on this machine or in this folder.
        OSError: the folder cannot be written to at all.
    """
    program = program or check(config)
    own = callbacks if hosts.is_first() else ()
    with exits.stop_signals() as received:
        return _train_group([Order(program.config, folder, settings, own, is_kept)], program, resumes, received)[0]


def train_many(orders: Sequence[Order], resumes: bool = False) -> list[Finished]:
    """Train every run and leave each one's files in its own folder, as `train` does. Those that can share a program
    train together (`together.groups`), one group after the other. A signal ends them all.

    Raises:
        ConfigError: as `train`, before anything of the run's group is written.
        OSError: likewise.
    """
    require(hosts.count() == 1, "several runs do not train together on several hosts: start each by itself")
    finished: dict[int, Finished] = {}
    with exits.stop_signals() as received:
        for group in together.groups([order.config for order in orders]):
            members = [orders[i] for i in group]
            if received:
                finished |= dict.fromkeys(group, Finished(exits.status_of(received), [], None))
            else:
                ends = _train_group(members, check(members[0].config), resumes, received)
                finished |= zip(group, ends, strict=True)
    return [finished[i] for i in range(len(orders))]


def _train_group(
    orders: Sequence[Order], program: Program, resumes: bool, received: list[signal.Signals]
) -> list[Finished]:
    """Train runs with one `program_key`: together those whose seeds train at once, each of the others in batches of its
    seeds. `program` is the first one's, checked. What the compiled program then shows to be too large is split again.
    """
    programs = [program if order is orders[0] else _like(program, order.config) for order in orders]
    batches = [seed_batches.plan(its, order.folder) for its, order in zip(programs, orders, strict=True)]
    at_once = [i for i, own in enumerate(batches) if len(own) == 1]
    try:
        ended = _train_alike([orders[i] for i in at_once], [programs[i] for i in at_once], resumes, received)
        finished = dict(zip(at_once, ended, strict=True))
        for i in sorted({*range(len(orders))} - {*at_once}):
            finished[i] = (
                Finished(exits.status_of(received), [], None)
                if received
                else _train_in_batches(orders[i], programs[i], batches[i], resumes, received)
            )
    except TooLargeError:
        _refuse_what_never_fits(program)
        return _train_group(orders, program, True, received)
    return [finished[i] for i in range(len(orders))]


def _train_alike(
    orders: Sequence[Order], programs: Sequence[Program], resumes: bool, received: list[signal.Signals]
) -> list[Finished]:
    """Train runs with one `program_key`, of which each trains all its seeds at once."""
    channel = hosts.Channel()
    orders = _agreed(orders, channel)
    callbacks = [[*make_callbacks(order.config.callbacks), *order.callbacks] for order in orders]
    with ExitStack() as locks:
        members = []
        for order, its, own in zip(orders, programs, callbacks, strict=True):
            if hosts.is_first():
                locks.enter_context(locked(order.folder))
            start = time.perf_counter()
            require_place(order.folder, resumes)
            point = shared_resume_point(order.folder, its, channel)
            members.append(Member(Run(its, order.folder, point, channel, start), order, own))
        left = [each for each in members if not _is_over(each.run)]
        for number, (its, batch) in enumerate(together.batches(_runs(left))):
            if not (number and received):  # the first stops itself: on several hosts all agree
                _train_batch(its, [left[i] for i in batch], received)
        ends = [(run, exits.status_of(received) if run.status is None else run.status) for run in _runs(members)]
        return [Finished(status, run.rows, run.params) for run, status in ends]


def _runs(members: Sequence[Member]) -> list[Run]:
    return [each.run for each in members]


def _agreed(orders: Sequence[Order], channel: hosts.Channel) -> Sequence[Order]:
    """The orders with the folders of process 0, as their names may hold the time of day; raises ConfigError where the
    processes have other settings.
    """
    plain = [by_name(replace(order.config, logging=LoggingConfig(), callbacks=())) for order in orders]
    every = channel.all([plain, [str(order.folder) for order in orders]])
    settings, folders = every[0]
    for own, *others in zip(settings, *(each[0] for each in every[1:]), strict=True):
        wrong = [name for name, value in own.items() if any(other.get(name) != value for other in others)]
        require(
            not wrong, f"the processes have other values of {', '.join(wrong)}: start the same command on every host"
        )
    return [order._replace(folder=Path(folder)) for order, folder in zip(orders, folders, strict=True)]


def _like(program: Program, config: Config) -> Program:
    """The program of a run that differs in numbers."""
    return program.of_run(config, as_algorithm_sees(config.algorithm, make_env(config.env)))


def _is_over(run: Run) -> bool:
    """Whether the run cannot be trained further, which is said. Lost rows of a complete run are written anew."""
    if run.point.met_nan is not None:
        say(messages.only_parameters(run.folder, run.point), sys.stderr)
        run.status = exits.FAILED
        return True
    if not run.is_complete:
        return False
    run.status = run.end_status
    has_pictures = run.channel.first(pictures.exist(run.folder, run.config.logging.film))
    if has_pictures:
        if hosts.is_first() and read_rows(run.folder) != run.rows:
            write_file(run.folder / METRICS, format_rows(run.rows))
        say(messages.complete(run.folder, run.env_steps))
    return has_pictures


def _train_in_batches(
    order: Order, program: Program, batches: Sequence[range], resumes: bool, received: list[signal.Signals]
) -> Finished:
    """Train batches of a run's seeds, one after the other, and make the run of them (`seed_batches`)."""
    config, folder = order.config, order.folder
    with locked(folder):
        require_place(folder, resumes)
        changed, is_begun = changes(folder, config), holds_run(folder)
        seed_batches.refuse_other_evaluations(folder, batches, changed)
        if seed_batches.are_joined(folder, batches, config):
            return _join(order, program, batches)
        title = messages.title(config, program.env)
        write_settings(folder, title, order.settings, {"changes": changed} if is_begun else None)
        shown(config)(f"{title}: {messages.seed_batches(program, batches)}")
        for seeds in batches:
            status = exits.status_of(received) if received else _train_seeds(order, program, seeds, received)
            if status in exits.STOPPED and order.is_kept:
                shown(config)(messages.resume_line(folder))
            if status not in (exits.DONE, exits.FAILED):
                return Finished(status, [], None)
        return _join(order, program, batches)


def _train_seeds(order: Order, program: Program, seeds: range, received: list[signal.Signals]) -> int:
    """Train a batch of a run's seeds, unless it is complete; returns the exit status."""
    its, folder = program.of_seeds(seeds), batch_folder(order.folder, seeds)
    if seed_batches.is_complete(folder, its.config):
        return exits.DONE
    refuse_what_cannot_fit(its)
    own = {"seed": seeds.start, "num_seeds": len(seeds), "logging": {"film": False}}
    its = replace(its, config=replace(its.config, logging=replace(its.config.logging, film=False)))
    batch = Order(its.config, folder, merge(order.settings, own), order.callbacks, is_kept=False)
    return _train_alike([batch], [its], True, received)[0].status


def _join(order: Order, program: Program, batches: Sequence[range]) -> Finished:
    """Write the files of a run whose batches have ended."""
    run = Run(program, order.folder, ResumePoint(rows=seed_batches.join_batches(order.folder, batches)))
    run.params, run.status = seed_batches.read_params(program, order.folder, batches), run.end_status
    member = Member(run, order, [])
    if not (seed_batches.are_joined(order.folder, batches, order.config) and _is_over(run)):
        member.others = Callbacks(make_dashboards(run.config, order.settings, run.folder, run.rows))
        with closing(member.others):
            with files(member, [], shown(order.config)):
                run.save_params()
            member.others.on_end(RunEnd(run.status, *pictures.paths(run.folder, member.has_film)))
        _say_end(member, [], has_next=True)
    return Finished(run.status, run.rows, run.params)


def _train_batch(program: Program, members: Sequence[Member], received: list[signal.Signals]) -> None:
    """Train runs that are at one environment step, then draw their pictures."""
    if hosts.is_first():
        write_starts(members)
        _announce(program, members)
    with ExitStack() as callbacks:
        for each in members:
            run, order = each.run, each.order
            each.others = Callbacks([*make_dashboards(run.config, order.settings, run.folder, run.rows), *each.own])
            callbacks.callback(each.others.close)
            title = messages.title(run.config, run.program.env)
            each.others.on_start(RunStart(title, run.folder, order.settings, list(run.rows)))
        with ExitStack() as own:
            for each in members:
                own.enter_context(outlets(each, label=f"{each.run.folder.name}: " * (len(members) > 1)))
            _train_within_memory(program, _runs(members), received)
        for each in members:
            run = each.run
            each.others.on_end(RunEnd(run.status, *pictures.paths(run.folder, each.has_film)))  # pyright: ignore
            _say_end(each, received, has_next=len(members) == 1)


def _announce(program: Program, members: Sequence[Member]) -> None:
    first = members[0].run
    count = f"{len(members)} runs together, " * (len(members) > 1)
    show = shown(first.config)
    show(f"{count}{messages.title(first.config, program.env)}: {messages.describe(program)}")
    news = [line for each in members for line in messages.news(each.run.config, each.run.point)]
    for line in [*plan.rounding(first.config), *news]:
        show(line)
    for line in dict.fromkeys(line for each in members for line in plan.warnings(each.run.config)):
        warn(line)


def _train_within_memory(program: Program, runs: Sequence[Run], received: list[signal.Signals]) -> None:
    """Train those that are not complete; what runs out of memory ends with an exit status."""
    if runs[0].status is not None:  # only pictures were missing
        return
    try:
        host_loop.train(program, runs, received)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not exits.is_out_of_memory(error) or hosts.count() > 1:  # the others wait for this process
            raise
        for run in runs:
            run.status = exits.OUT_OF_MEMORY if run.status is None else run.status


def _say_end(member: Member, received: list[signal.Signals], has_next: bool) -> None:
    if not hosts.is_first():
        return
    run, config, is_kept = member.run, member.run.config, member.order.is_kept
    if run.status == exits.OUT_OF_MEMORY:
        say(f"qmix-jax: error: out of memory: {what_to_lower(Program.make(config, run.program.env))}", sys.stderr)
    if member.failure:
        say(f"qmix-jax: error: the end of the run could not be saved: {member.failure}", sys.stderr)
    if config.logging.display == "none":
        return
    if member.others.stopped_by and not run.is_complete:
        say(f"{member.others.stopped_by} stopped the run")
    say(messages.summary(run.program, run.folder if is_kept else None, run.rows, run.status, received))  # pyright: ignore
    has_next = has_next and is_kept and run.status == exits.DONE
    if has_next and (next_steps := messages.next_steps(config, run.folder)):
        say(next_steps)

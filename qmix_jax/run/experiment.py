"""One run from start to end: the checks before it, the host loop over chunks, and the files that it leaves."""

import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qmix_jax.build import as_algorithm_sees, make_env
from qmix_jax.config import Config, to_mapping
from qmix_jax.console import say, warn
from qmix_jax.envs.check import refuse_wrong_shapes
from qmix_jax.files import remove_scratch_files, write_file
from qmix_jax.records import add_to_manifest, format_rows, mean, note_saved_state, write_manifest
from qmix_jax.reporters.base import STOP, Callback, RunEnd, RunStart
from qmix_jax.reporters.callbacks import Callbacks, make_callbacks
from qmix_jax.reporters.dashboard import make_dashboards
from qmix_jax.reporters.display import Display, make_display
from qmix_jax.reporters.metrics_file import MetricsFile
from qmix_jax.run import exits, messages, pictures, plan
from qmix_jax.run.checkpoint import Checkpoint
from qmix_jax.run.lock import locked
from qmix_jax.run.memory import refuse_what_cannot_fit, what_to_lower
from qmix_jax.run.metrics import BestScores, FrozenSeeds, Seconds, env_steps_at, make_row, score_metric
from qmix_jax.run.nan_source import NanSource, find_sources
from qmix_jax.run.parts import refuse_wrong_parts
from qmix_jax.run.program import DATA, Program, TrainState
from qmix_jax.run.resume import ResumePoint, find_resume_point, require_place
from qmix_jax.run.saver import Saver
from qmix_jax.run.snapshot import PARAMS, Snapshot, state_to_host, to_host
from qmix_jax.settings import ConfigError, require


def check(config: Config) -> Program:
    """The run's program, not yet compiled; raises ConfigError where it cannot train here, or would learn nothing."""
    require(jnp.result_type(float) == jnp.float32, "training is in 32 bits: set JAX_ENABLE_X64=0, or unset it")
    plan.check(config)
    env = make_env(config.env)
    refuse_wrong_shapes(env, config.env.name)
    env = as_algorithm_sees(config.algorithm, env)
    refuse_wrong_parts(config, env)
    limit, steps = env.spec.episode_limit, config.rollout.num_steps
    if config.rollout.whole_episodes and steps < limit:
        raise ConfigError(f"rollout.num_steps={steps} cuts whole episodes short; set rollout.num_steps={limit}")
    score_metric(config, env)
    program = Program.make(config, env)
    refuse_what_cannot_fit(program)
    return program


def train(
    config: Config,
    folder: Path,
    settings: dict,
    resumes: bool = False,
    program: Program | None = None,
    callbacks: Sequence[Callback] = (),
    is_kept: bool = True,
) -> "Finished":
    """Train as the config says and leave everything in `folder`.

    With `resumes`, a run that the folder holds is resumed. `program` is the config's, where it is already checked.
    `callbacks` are called besides those that the config names. Without `is_kept`, the folder is not spoken of.

    Raises:
        ConfigError: before anything is written, where the config cannot work on this machine or in this folder.
        OSError: the folder cannot be written to at all.
    """
    program = program or check(config)
    own = [*make_callbacks(config.callbacks), *callbacks]
    with locked(folder):
        start = time.perf_counter()
        require_place(folder, resumes)
        the_run = Run(program, folder, find_resume_point(folder, program), start)
        if (status := _nothing_to_train(the_run)) is not None:
            return Finished(status, the_run.rows, the_run.params)
        the_run.write_settings(settings)
        _announce(the_run)
        others = Callbacks([*make_dashboards(config, settings, folder, the_run.rows), *own])
        others.on_start(RunStart(messages.title(config, program.env), folder, settings, list(the_run.rows)))
        with exits.stop_signals() as received:
            end = _train(the_run, others, received)
        others.on_end(RunEnd(end.status, *pictures.paths(folder, end.has_film)))
        _say_end(the_run, end, others.stopped_by, received, is_kept)
        others.close()
        return Finished(end.status, the_run.rows, the_run.params)


class Finished(NamedTuple):
    """A run that ended."""

    status: int
    """The exit status."""
    rows: list[dict]
    """Those of metrics.jsonl."""
    params: Any
    """The last finite parameters (S, ...) on the host; None where the run never began."""


def _nothing_to_train(the_run: "Run") -> int | None:
    """Say that the run cannot be trained further and return its exit status; None where it can."""
    if the_run.point.met_nan is not None:
        say(messages.only_parameters(the_run.folder, the_run.point), sys.stderr)
        return exits.FAILED
    if the_run.is_complete and pictures.exist(the_run.folder, the_run.config.logging.film):
        say(messages.complete(the_run.folder, the_run.env_steps))
        return the_run.end_status
    return None


def _announce(the_run: "Run") -> None:
    config, program = the_run.config, the_run.program
    if config.logging.display != "none":
        first = f"{messages.title(config, program.env)}: {messages.describe(program)}"
        say("\n".join([first, *plan.rounding(config), *messages.news(config, the_run.point)]))
    for line in plan.warnings(config):
        warn(line)


class End(NamedTuple):
    """How a run ended."""

    status: int
    failure: str
    """Why the last row or checkpoint was not saved; '' where it was."""
    has_film: bool


def _train(the_run: "Run", others: Callbacks, received: list[signal.Signals]) -> End:
    """Train with everything that reports and saves, then draw the pictures."""
    config, folder, program = the_run.config, the_run.folder, the_run.program
    with _display(the_run) as display:
        metrics = MetricsFile(folder, format_rows(the_run.rows), display.message)
        saver = Saver(folder, config.checkpoint, display.message, the_run.point.checkpoint)
        saver.listeners += [_note_saved_state, the_run.written.put]
        with closing(metrics), closing(saver):
            callbacks = [metrics, display, others]
            status = _train_within_memory(the_run, callbacks, saver, display.message, received)
        the_run.report_checkpoints([others])
        failure = saver.failure or metrics.failure
        status = exits.NOT_SAVED if failure and status in (exits.DONE, *exits.STOPPED) else status
        has_film = config.logging.film and status == exits.DONE  # compiling it where memory is short ends the process
        pictures.draw(program, folder, the_run.rows, the_run.params if has_film else None, display.message)
    return End(status, failure, has_film)


def _train_within_memory(the_run: "Run", *arguments: Any) -> int:
    """`Run.train`, with an exit status for a run that is out of memory."""
    try:
        return the_run.train(*arguments)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not exits.is_out_of_memory(error):
            raise
        return exits.OUT_OF_MEMORY


def _display(the_run: "Run") -> Display:
    config, env = the_run.config, the_run.program.env
    return make_display(
        config.logging.display,
        title=messages.title_with_seeds(config, env),
        total_env_steps=the_run.last_env_steps,
        num_seeds=config.num_seeds,
        rows=the_run.rows,
    )


def _note_saved_state(path: Path) -> None:
    if Checkpoint(path).is_whole_state:
        note_saved_state(path.parents[1])


def _say_end(the_run: "Run", end: End, stopped_by: str, received: list[signal.Signals], is_kept: bool) -> None:
    config = the_run.config
    if end.status == exits.OUT_OF_MEMORY:
        say(f"qmix-jax: error: out of memory: {what_to_lower(the_run.program)}", sys.stderr)
    if end.failure:
        say(f"qmix-jax: error: the end of the run could not be saved: {end.failure}", sys.stderr)
    if config.logging.display != "none":
        if stopped_by and not the_run.is_complete:
            say(f"{stopped_by} stopped the run")
        say(messages.summary(the_run.program, the_run.folder if is_kept else None, the_run.rows, end.status, received))
        has_next = is_kept and end.status == exits.DONE
        if has_next and (next_steps := messages.next_steps(config, the_run.folder)):
            say(next_steps)


@dataclass
class Run:
    """The host loop of a run over chunks, and what the run has done so far."""

    program: Program
    folder: Path
    point: ResumePoint
    start: float = field(default_factory=time.perf_counter)
    """When this process started the run, by time.perf_counter."""
    written: SimpleQueue[Path] = field(default_factory=SimpleQueue)
    """Checkpoints that were written and that callbacks are not told of yet."""
    rows: list[dict] = field(init=False)
    compile_seconds: float = field(init=False)
    params: Any = field(init=False)
    """Parameters (S, ...) on the host: of each seed after its last chunk without NaN, or initial ones."""
    frozen: FrozenSeeds = field(init=False)

    def __post_init__(self):
        point = self.point
        self.rows, self.compile_seconds = point.rows, point.seconds("compile_seconds")
        self.params = point.checkpoint.params if point.checkpoint else None
        self.frozen = FrozenSeeds(self.config.num_seeds, self.rows)
        self.start -= point.seconds("wall_seconds")
        self._metric = score_metric(self.config, self.program.env)
        self._best = BestScores(self.config.checkpoint.keep_best)
        for row in self.rows:
            self._best.add(mean(row.get(self._metric)))

    @property
    def config(self) -> Config:
        """The run's settings."""
        return self.program.config

    @property
    def env_steps(self) -> int:
        """Environment steps of each seed so far."""
        return self.rows[-1]["env_steps"] if self.rows else 0

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to train."""
        return self.env_steps >= self.config.total_env_steps

    @property
    def last_env_steps(self) -> int:
        """Environment steps at the end: those of the first evaluation at or after `total_env_steps`."""
        chunk, left = self.config.chunk_env_steps, self.config.total_env_steps - self.point.env_steps
        return self.point.env_steps + max(0, math.ceil(left / chunk)) * chunk

    @property
    def end_status(self) -> int:
        """The exit status of a complete run."""
        return exits.FAILED if self.frozen.count else exits.DONE

    def write_settings(self, settings: dict) -> None:
        """Write config.yaml and run.json, and remove checkpoints that the resumed run will write anew."""
        from omegaconf import OmegaConf

        remove_scratch_files(self.folder)
        started, point = time.strftime("%Y-%m-%dT%H:%M:%S%z"), self.point
        if point.checkpoint:
            add_to_manifest(self.folder, {"started": started, "env_steps": point.env_steps, "changes": point.changes})
        else:
            title = messages.title(self.config, self.program.env)
            write_manifest(self.folder, {"title": title, "started": started})
        write_file(self.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(settings)))
        for checkpoint in point.later:
            checkpoint.remove()

    def train(
        self, callbacks: list[Callback], saver: Saver, say: Callable[[str], None], stop_requests: list[signal.Signals]
    ) -> int:
        """Train chunk by chunk until the end, until every seed has met NaN, a signal, or a callback that wants it;
        returns the exit status.
        """
        if self.is_complete:  # only pictures were missing
            return self.end_status
        state, chunk = self._begin()
        is_stopped = False
        while not (self.is_complete or stop_requests or is_stopped):
            state, params, sources = self._train_chunk(chunk, state)
            for callback in callbacks:
                is_stopped |= callback.on_evaluation(self.rows[-1]) == STOP
            self.report_checkpoints(callbacks)
            if sources:
                say(messages.after_nan(self.config, self.rows, sources, self.frozen.since.count(None)))
            if self.frozen.are_all:
                self._save_finite_params(saver)
                return exits.FAILED
            self.params = self.frozen.keep(self.params, params)
            self._save(saver, state)
        if self.rows and not saver.is_saved(self.env_steps):
            saver.save(self._snapshot(state))
        return exits.STOP_SIGNALS[stop_requests[0]] if stop_requests and not self.is_complete else self.end_status

    def report_checkpoints(self, callbacks: list[Callback]) -> None:
        """Tell callbacks of the checkpoints that were written since."""
        while not self.written.empty():
            path = self.written.get()
            for callback in callbacks:
                callback.on_checkpoint(path)

    def _begin(self) -> tuple[TrainState, Callable]:
        """The initial or restored state, and the compiled chunk."""
        start = time.perf_counter()
        restored, self.point.state = self.point.state, None  # the first chunk donates its buffers
        state, chunk = self.program.start(lambda: restored or self.program.init())
        if self.params is None:
            self.params = to_host(state.seeds.learner.params)
        self.compile_seconds += time.perf_counter() - start
        return state, chunk

    def _train_chunk(self, chunk: Callable, state: TrainState) -> tuple[TrainState, Any, dict[int, NanSource]]:
        """Run a chunk and append its row; returns the state, its parameters on the host, and why seeds met NaN."""
        start = time.perf_counter()
        state, metrics = chunk(state, self.program.numbers)
        metrics, params = jax.device_get(metrics), to_host(state.seeds.learner.params)
        clock = jax.device_get(state.clock)
        broken = self.frozen.update(metrics, params, env_steps_at(clock, self.config))
        now = time.perf_counter()
        seconds = Seconds(now - self.start, self.compile_seconds, now - start)
        sources = find_sources(self.program, state, self.params, metrics, broken)
        self.frozen.note_sources({i: source.env_step for i, source in sources.items()})
        self.rows.append(self.frozen.mask(make_row(self.program, clock, metrics, seconds)))
        return state, params, sources

    def _save(self, saver: Saver, state: TrainState) -> None:
        """Save the state where it is due, or else the parameters where their score is among the best."""
        is_among_best = self._best.add(mean(self.rows[-1].get(self._metric)))
        if saver.is_due(self.env_steps):
            saver.save(self._snapshot(state))
        elif is_among_best:
            saver.save_for_score(self._snapshot_of(self.rows, {PARAMS: self.params}))

    def _save_finite_params(self, saver: Saver) -> None:
        """Save the parameters from before the last seed's NaN, unless a checkpoint has them."""
        rows = self.rows[:-1]
        if rows and not saver.is_saved(rows[-1]["env_steps"]):
            saver.save(self._snapshot_of(rows, {PARAMS: self.params}))

    def _snapshot(self, state: TrainState) -> Snapshot:
        items = state_to_host(state, self.config.checkpoint.replay)
        return self._snapshot_of(self.rows, {**items, PARAMS: self.params})

    def _snapshot_of(self, rows: list[dict], items: dict[str, Any]) -> Snapshot:
        last = rows[-1]
        about = {name: last[name] for name in ("wall_seconds", "compile_seconds")}
        about |= {"metric": self._metric, "score": mean(last.get(self._metric))}
        about |= {"data_devices": self.program.mesh.shape[DATA], "settings": to_mapping(self.config)}
        return Snapshot(last["env_steps"], items, format_rows(rows), about)

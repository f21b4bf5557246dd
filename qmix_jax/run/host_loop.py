"""The host loop over chunks: one program, and the runs whose seeds it trains."""

import itertools
import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import jax
import numpy as np

from qmix_jax.config import Config, to_mapping
from qmix_jax.records import format_rows, mean
from qmix_jax.reporters.base import STOP, Callback
from qmix_jax.run import exits, hosts, messages
from qmix_jax.run.checkpoint import scored
from qmix_jax.run.devices import share_of
from qmix_jax.run.memory import check_compiled, gib, needed, room_for
from qmix_jax.run.metrics import SUMS, BestScores, FrozenSeeds, Seconds, env_steps_at, make_row, score_metric
from qmix_jax.run.nan_source import NanSource, find_sources
from qmix_jax.run.program import DATA, ChunkMetrics, Program, TrainState
from qmix_jax.run.resume import ResumePoint
from qmix_jax.run.saver import Saver
from qmix_jax.run.snapshot import PARAMS, STATE, Snapshot, join, state_to_host, to_host
from qmix_jax.run.usage import Meter, Usage
from qmix_jax.types import Clock


@dataclass
class Run:
    """One run: what it has done so far, and where it reports and saves."""

    program: Program
    """Of this run alone, on the devices that train it."""
    folder: Path
    point: ResumePoint
    channel: hosts.Channel = field(default_factory=hosts.Channel)
    """Where the processes of the run agree on what depends on time."""
    start: float = field(default_factory=time.perf_counter)
    """When this process started the run, by time.perf_counter."""
    written: SimpleQueue[Path] = field(default_factory=SimpleQueue)
    """Checkpoints that were written and that callbacks are not told of yet."""
    status: int | None = None
    """The exit status; None while it trains."""
    rows: list[dict] = field(init=False)
    compile_seconds: float = field(init=False)
    used: Usage = field(init=False)
    params: Any = field(init=False)
    """Parameters (S, ...) on the host: of each seed after its last chunk without NaN, or initial ones."""
    frozen: FrozenSeeds = field(init=False)
    callbacks: list[Callback] = field(init=False)
    saver: Saver = field(init=False)
    say: Callable[[str], None] = field(init=False)
    """Shows a line."""

    def __post_init__(self):
        point = self.point
        self.rows, self.compile_seconds = point.rows, point.total("compile_seconds")
        self.used = Usage(*map(point.total, Usage._fields))
        self.params = point.checkpoint.params if point.checkpoint else None
        self.frozen = FrozenSeeds(self.config.num_seeds, self.rows)
        self.start -= point.total("wall_seconds")
        self._metric = score_metric(self.config, self.program.env)
        self._best = BestScores(self.config.checkpoint.keep_best)
        for each in scored(self.folder, self._metric):
            if each.env_steps <= point.env_steps:
                self._best.add(each.score)

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

    def report_checkpoints(self, callbacks: Sequence[Callback]) -> None:
        """Tell callbacks of the checkpoints that were written since."""
        while not self.written.empty():
            path = self.written.get()
            for callback in callbacks:
                callback.on_checkpoint(path)

    def end(self, status: int, state: TrainState, seeds: slice) -> None:
        """End with this status, and with the run's state saved."""
        if self.rows and not self._is_saved(self.env_steps):
            self.saver.save(self._snapshot(state, seeds))
        self.status = status

    def take(self, chunk: "Chunk", seeds: slice, sources: dict[int, NanSource], used: Usage) -> None:
        """Report and save a chunk. `sources`: of the run's seeds that met NaN in it; `used`: for it, by this process.

        The run ends where it is complete, where a callback wants it, or where every seed has met NaN.
        """
        self.frozen.note_sources({i: source.env_step for i, source in sources.items()})
        self.used = self.used.plus([Usage(*each) for each in self.channel.all(used)])
        seconds = Seconds(chunk.end - self.start, self.compile_seconds, chunk.seconds)
        metrics = jax.tree.map(lambda leaf: leaf[seeds], chunk.metrics)
        self.rows.append(self.frozen.mask(make_row(self.program, chunk.clock, metrics, seconds, self.used)))
        stops = [callback.on_evaluation(self.rows[-1]) == STOP for callback in self.callbacks]
        is_stopped = self.channel.first(any(stops))
        self.report_checkpoints(self.callbacks)
        if sources:
            self.say(messages.after_nan(self.config, self.rows, sources, self.frozen.since.count(None)))
        if self.frozen.are_all:
            self._save_finite_params()
            self.status = exits.FAILED
            return
        self.params = self.frozen.keep(self.params, jax.tree.map(lambda leaf: leaf[seeds], chunk.params))
        self._save(chunk.state, seeds)
        if self.is_complete or is_stopped:
            self.end(self.end_status, chunk.state, seeds)

    def _save(self, state: TrainState, seeds: slice) -> None:
        """Save the state where it is due, or else the parameters where their score is among the best."""
        is_among_best = self._best.add(mean(self.rows[-1].get(self._metric)))
        if self.channel.first(self.saver.is_due(self.env_steps)):
            self.saver.save(self._snapshot(state, seeds))
        elif is_among_best:
            self.saver.save_for_score(self._snapshot_of(self.rows, {PARAMS: self.params}))

    def _is_saved(self, env_steps: int) -> bool:
        return self.channel.first(self.saver.is_saved(env_steps))

    def save_params(self) -> None:
        """Save the parameters alone, as of the last row."""
        self.saver.save(self._snapshot_of(self.rows, {PARAMS: self.params}))

    def _save_finite_params(self) -> None:
        """Save the parameters from before the last seed's NaN, unless a checkpoint has them."""
        rows = self.rows[:-1]
        if rows and not self._is_saved(rows[-1]["env_steps"]):
            self.saver.save(self._snapshot_of(rows, {PARAMS: self.params}))

    def _snapshot(self, state: TrainState, seeds: slice) -> Snapshot:
        items = state_to_host(state, self.config.checkpoint.replay, seeds)
        return self._snapshot_of(self.rows, {**items, PARAMS: self.params})

    def _snapshot_of(self, rows: list[dict], items: dict[str, Any]) -> Snapshot:
        last = rows[-1]
        about = {name: last.get(name, 0.0) for name in SUMS}
        about |= {"metric": self._metric, "score": mean(last.get(self._metric))}
        about |= {"data_devices": self.program.mesh.shape[DATA], "settings": to_mapping(self.config)}
        own, columns = share_of(self.program.mesh)
        if hosts.count() > 1 and STATE in items:
            about["shares"] = hosts.count(), columns
        return Snapshot(last["env_steps"], items, format_rows(rows), about, own)


# --- the loop ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chunk:
    """The result of a chunk, with the seeds of all runs."""

    state: TrainState
    """On the devices; the next chunk takes its memory."""
    clock: Clock
    metrics: ChunkMetrics
    params: Any
    """The parameters (S, ...) on the host, as the clock and the metrics are."""
    seconds: float
    """It took so long."""
    end: float
    """When it ended, by time.perf_counter."""


def train(program: Program, runs: Sequence[Run], stop_requests: list[signal.Signals]) -> None:
    """Train the runs of a program, which are at one environment step, chunk by chunk until each has ended, or until a
    signal. One that has ended is computed further, unseen, while others train.
    """
    seeds, meter = _seeds(runs), Meter(program.mesh.local_devices)
    state, execute = _begin(program, runs)
    while any(run.status is None for run in runs) and not _is_stopped(stop_requests, runs[0].channel):
        chunk = _execute(execute, state, program)
        state = chunk.state
        used = meter.lap().divided(sum(run.status is None for run in runs))
        sources = _sources(program, chunk, runs)
        for run, own in zip(runs, seeds, strict=True):
            if run.status is None:
                found = {i - own.start: source for i, source in sources.items() if own.start <= i < own.stop}
                run.take(chunk, own, found, used)
    for run, own in zip(runs, seeds, strict=True):
        if run.status is None:
            run.end(exits.status_of(stop_requests), state, own)


def _is_stopped(stop_requests: list[signal.Signals], channel: hosts.Channel) -> bool:
    """Whether any process got a signal, which then is a request in each of them."""
    found = next(filter(None, channel.all(stop_requests[0] if stop_requests else None)), None)
    if found:
        stop_requests.insert(0, signal.Signals(found))
    return bool(found)


def _seeds(runs: Sequence[Run]) -> list[slice]:
    """The place of each run's seeds among those of all."""
    ends = itertools.accumulate(run.config.num_seeds for run in runs)
    return [slice(end - run.config.num_seeds, end) for run, end in zip(runs, ends, strict=True)]


def _begin(program: Program, runs: Sequence[Run]) -> tuple[TrainState, Callable]:
    """The initial or restored state of all runs, and the compiled chunk; raises TooLargeError where it cannot run."""
    start = time.perf_counter()

    def restore() -> TrainState:
        """The states leave the host here: the first chunk donates their buffers."""
        laid_out = []
        for point in (run.point for run in runs):
            restored, point.state = point.state, None
            laid_out.append(point.checkpoint.laid_out(restored, program))  # pyright: ignore  (as there is a state)
        return program.place(join(laid_out))

    room, guess = room_for(program), needed(program)  # before the state takes its part
    state, execute = program.start(restore if runs[0].point.state is not None else program.init)
    check_compiled(program, execute, room)
    if (told := gib(needed(program))) != gib(guess):
        runs[0].say(f"memory {told} as compiled, where {gib(guess)} were estimated")
    seconds = time.perf_counter() - start
    for run, own in zip(runs, _seeds(runs), strict=True):
        if run.params is None:
            run.params = to_host(state.seeds.learner.params, own)
        run.compile_seconds += seconds
    return state, execute


def _execute(execute: Callable, state: TrainState, program: Program) -> Chunk:
    start = time.perf_counter()
    state, metrics = execute(state, program.numbers)
    clock, metrics, params = to_host((state.clock, metrics, state.seeds.learner.params))
    end = time.perf_counter()
    return Chunk(state, clock, metrics, params, end - start, end)


def _sources(program: Program, chunk: Chunk, runs: Sequence[Run]) -> dict[int, NanSource]:
    """Freeze the seeds that met NaN in a chunk; seed, counted over all runs -> the source of its NaN."""
    broken: list[int] = []
    for run, own in zip(runs, _seeds(runs), strict=True):
        if run.status is None:
            metrics, params = jax.tree.map(lambda leaf, own=own: leaf[own], (chunk.metrics, chunk.params))
            found = run.frozen.update(metrics, params, env_steps_at(chunk.clock, run.config))
            broken += [own.start + i for i in found]
    if not broken:
        return {}
    before = jax.tree.map(lambda *own: np.concatenate(own), *(run.params for run in runs))
    return find_sources(program, chunk.state, before, chunk.metrics, broken)

"""A run from its first line to its last: the host loop over chunks, and what it leaves in its folder."""

import math
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax.analysis.curve import draw_curve
from qmix_jax.config import Config, ConfigError, require, to_mapping
from qmix_jax.console import say, warn
from qmix_jax.envs import make_team
from qmix_jax.envs.base import metric_names
from qmix_jax.learning.exploration import epsilon_at
from qmix_jax.learning.rollout import EpisodeSums
from qmix_jax.records import (
    FROZEN,
    MetricsFile,
    Reporter,
    add_to_manifest,
    best_seed,
    known,
    note_saved_state,
    remove_drafts,
    write_manifest,
    write_text_atomically,
)
from qmix_jax.reporters.dashboard import make_dashboards
from qmix_jax.reporters.display import Display, make_display
from qmix_jax.run import advice, exits, plan, resume
from qmix_jax.run.checkpoint import PARAMS, Checkpoint, Saver, Snapshot, state_to_host, to_host
from qmix_jax.run.lock import locked
from qmix_jax.run.memory import gib, refuse_what_cannot_fit, what_to_lower
from qmix_jax.run.program import DATA, ChunkMetrics, Program, TrainState, describe_idle, describe_memory
from qmix_jax.run.resume import Past
from qmix_jax.types import Clock, Params

ENDINGS = {
    exits.DONE: "Done",
    exits.FAILED: "Stopped by NaN",
    exits.OUT_OF_MEMORY: "Out of memory",
    exits.NOT_SAVED: "Not saved",
}
FILM_CANDIDATES = 8  # greedy episodes recorded; the one with the median return is painted


def check(config: Config) -> Program:
    """The run's program, not yet compiled; raises ConfigError where it cannot work on this machine, or for nothing."""
    require(jnp.result_type(float) == jnp.float32, "training is in 32 bits: set JAX_ENABLE_X64=0, or leave it out")
    plan.check(config)
    env = make_team(config)
    limit, steps = env.spec.episode_limit, config.rollout.num_steps
    if config.rollout.whole_episodes and steps < limit:
        raise ConfigError(f"rollout.num_steps={steps} cuts whole episodes short; set rollout.num_steps={limit}")
    metric = config.checkpoint.metric
    require(
        "win_rate" in metric_names(env) or "win_rate" not in metric,
        f"checkpoint.metric={metric}, but {env.spec.name} cannot be won; set checkpoint.metric=auto",
    )
    program = Program.make(config, env)
    refuse_what_cannot_fit(program)
    return program


def describe(program: Program) -> str:
    """What the run will be made of, before anything is compiled."""
    config, mesh = program.config, program.mesh
    needs = describe_memory(program.shapes)
    count = needs["parameters"] // 4 // config.num_seeds
    kind = mesh.devices.flat[0].device_kind
    idle = describe_idle(config, jax.device_count())
    return (
        f"replay {gib(needs['replay'])} · {count:,} parameters a seed ({needs['parameters'] / 2**20:.1f} MiB in all) "
        f"· {config.num_seeds} seed{'s' * (config.num_seeds > 1)} · {mesh.size} x {kind} "
        f"({mesh.shape['seed']} for seeds x {mesh.shape['data']} for data)" + f"\n{idle}" * bool(idle)
    )


@dataclass
class Run:
    """A run under way: its program, its folder, and what it has told so far."""

    program: Program
    folder: Path
    past: Past
    began: float = field(default_factory=time.perf_counter)
    """When it was started or gone on with, by the clock of time.perf_counter."""
    rows: list[dict] = field(init=False)
    compile_seconds: float = field(init=False)
    good_params: Any = field(init=False)
    """The parameters of every seed after its last chunk without NaN (untrained before the first), on the host."""
    frozen: list[int | None] = field(init=False)
    """For each seed the environment step of the evaluation at which it met NaN; None for one that has not."""

    def __post_init__(self):
        past = self.past
        self.rows, self.compile_seconds = past.rows, past.seconds("compile_seconds")
        self.good_params = past.checkpoint.params if past.checkpoint else None
        self.frozen = [None] * self.config.num_seeds
        if self.rows and FROZEN in self.rows[-1]:
            self.frozen = list(self.rows[-1][FROZEN])
        self.began -= past.seconds("wall_seconds")

    @property
    def config(self) -> Config:
        """The run's settings."""
        return self.program.config

    @property
    def title(self) -> str:
        """Algorithm and environment, for people."""
        return f"{self.config.algorithm.name.upper()} on {self.program.env.spec.name}"

    @property
    def env_steps(self) -> int:
        """Environment steps of each seed that its rows tell of."""
        return self.rows[-1]["env_steps"] if self.rows else 0

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to train."""
        return self.env_steps >= self.config.total_env_steps

    @property
    def last_env_steps(self) -> int:
        """Environment steps at its end: the first evaluation at or behind `total_env_steps`."""
        chunk, left = self.config.chunk_env_steps, self.config.total_env_steps - self.past.env_steps
        return self.past.env_steps + max(0, math.ceil(left / chunk)) * chunk

    def train(self, display: Display, reporters: list[Reporter], saver: Saver, received: list[signal.Signals]) -> int:
        """Chunk after chunk until the end, until every seed has met NaN, or a signal; returns the exit status."""
        if self.is_complete:  # since before; only its pictures may be missing
            return self.end_status
        state, chunk = self._begin()
        while not self.is_complete and not received:
            begun = time.perf_counter()
            state, metrics = chunk(state)
            metrics, params = jax.device_get(metrics), to_host(state.seeds.learner.params)
            broken = self._freeze(metrics, params, int(state.clock.iteration) * self.config.iteration_env_steps)
            row = self._row(jax.device_get(state.clock), metrics, time.perf_counter() - begun)
            self.rows.append(row)
            for reporter in reporters:
                reporter.log(row)
            if broken:
                display.message(self._what_to_look_at(broken))
            if None not in self.frozen:
                self._save_what_was_good(saver)
                return exits.FAILED
            self._keep_good(params)
            if saver.is_due(self.env_steps):
                saver.save(self._snapshot(state))
            elif self._is_among_best:
                saver.save_for_score(self._checkpoint_of(self.rows, {PARAMS: self.good_params}))
        if self.rows and not saver.is_saved(self.env_steps):
            saver.save(self._snapshot(state))
        return self.end_status if self.is_complete else exits.STOP_SIGNALS[received[0]]

    @property
    def end_status(self) -> int:
        """The exit status of a run that reached its end."""
        return exits.DONE if self.frozen.count(None) == len(self.frozen) else exits.FAILED

    def _freeze(self, metrics: ChunkMetrics, params: Params, env_steps: int) -> list[int]:
        """Note which seeds met NaN in a chunk, in their loss or in their parameters; returns them.

        The program goes on with them too: seeds do not touch each other. Their rows say nothing from then on, and their
        parameters stay those of the chunk before.
        """
        leaves = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(params)]
        is_finite = np.all([np.isfinite(leaf).all(axis=1) for leaf in leaves], axis=0)
        is_finite &= np.isfinite(metrics.losses.loss)
        broken = [i for i, since in enumerate(self.frozen) if since is None and not is_finite[i]]
        for i in broken:
            self.frozen[i] = env_steps
        return broken

    def _keep_good(self, params: Params) -> None:
        """Take over the parameters of the seeds that have not met NaN."""
        if self.end_status == exits.FAILED:
            is_frozen = np.array([since is not None for since in self.frozen])

            def choose(old: np.ndarray, new: np.ndarray) -> np.ndarray:
                return np.where(is_frozen.reshape(-1, *[1] * (new.ndim - 1)), old, new)

            params = jax.tree.map(choose, self.good_params, params)
        self.good_params = params

    @property
    def _is_among_best(self) -> bool:
        """Whether fewer than `keep_best` evaluations so far were as good as the last."""
        scores = [self._score(row) for row in self.rows]
        last = scores.pop()
        as_good = sum(1 for score in scores if score is not None and last is not None and score >= last)
        return last is not None and as_good < self.config.checkpoint.keep_best

    def _begin(self) -> tuple[TrainState, Callable]:
        """The state to start from, and the compiled chunk."""
        begun = time.perf_counter()
        restored, self.past.state = self.past.state, None  # the first chunk takes its memory over
        state, chunk = self.program.start(lambda: restored or self.program.init())
        if self.good_params is None:
            self.good_params = to_host(state.seeds.learner.params)
        self.compile_seconds += time.perf_counter() - begun
        return state, chunk

    def _snapshot(self, state: TrainState) -> Snapshot:
        """The whole state as it is now, for a checkpoint."""
        items = state_to_host(state, self.config.checkpoint.replay)
        return self._checkpoint_of(self.rows, {**items, PARAMS: self.good_params})

    def _save_what_was_good(self, saver: Saver) -> None:
        """The parameters from before a NaN; where a checkpoint has them already, nothing."""
        rows = self.rows[:-1]
        if rows and not saver.is_saved(rows[-1]["env_steps"]):
            saver.save(self._checkpoint_of(rows, {PARAMS: self.good_params}))

    def _checkpoint_of(self, rows: list[dict], items: dict[str, Any]) -> Snapshot:
        last = rows[-1]
        about = {name: last[name] for name in ("wall_seconds", "compile_seconds")}
        about |= {"metric": self._metric, "score": self._score(last), "data_devices": self.program.mesh.shape[DATA]}
        about |= {"settings": to_mapping(self.config)}
        return Snapshot(last["env_steps"], items, MetricsFile.text(rows), about)

    @property
    def _metric(self) -> str:
        """What the best checkpoint is chosen by."""
        auto = "eval/win_rate" if "win_rate" in metric_names(self.program.env) else "eval/return"
        return auto if self.config.checkpoint.metric == "auto" else self.config.checkpoint.metric

    def _score(self, row: dict) -> float | None:
        values = known(row.get(self._metric))
        return sum(values) / len(values) if values else None

    def _row(self, clock: Clock, metrics: ChunkMetrics, seconds: float) -> dict:
        """One line of metrics.jsonl."""
        config = self.config
        env_steps = int(clock.iteration) * config.iteration_env_steps
        rollouts = config.replay_sequences // config.rollout.num_envs
        kept = int(clock.iteration - clock.replay_start) / rollouts if rollouts else 0.0
        losses = metrics.losses._asdict()
        has_updates = np.asarray(metrics.updates) > 0
        mean_losses = {f"train/{name}": _ratio(total, metrics.updates) for name, total in losses.items()}
        row = {
            "env_steps": env_steps,
            "wall_seconds": round(time.perf_counter() - self.began, 3),
            "compile_seconds": round(self.compile_seconds, 3),
            **mean_losses,
            **self._episodes("train", metrics.training),
            "train/updates": [int(count) for count in metrics.updates],
            "train/replay_fill": [min(1.0, kept)] * len(has_updates),
            "train/epsilon": float(epsilon_at(config.exploration, jnp.array(env_steps - config.rollout.num_envs))),
            "train/learning_rate": float(self.program.trainer.learner.learning_rate(jnp.array(env_steps))),
            "train/steps_per_second": round(config.chunk_env_steps * config.num_seeds / seconds, 1),
            **self._episodes("eval", metrics.evaluation),
        }
        return row if self.end_status == exits.DONE else self._without_frozen(row)

    def _without_frozen(self, row: dict) -> dict:
        """The row without the evaluation of seeds that have met NaN, and without anything of those that did earlier."""
        now = row["env_steps"]

        def is_shown(name: str, since: int | None) -> bool:
            return since is None or (since == now and not name.startswith("eval/"))

        def hide(name: str, value: Any) -> Any:
            if not isinstance(value, list):
                return value
            return [item if is_shown(name, since) else None for item, since in zip(value, self.frozen, strict=True)]

        return {name: hide(name, value) for name, value in row.items()} | {FROZEN: list(self.frozen)}

    def _episodes(self, prefix: str, sums: EpisodeSums) -> dict[str, list[float | None]]:
        """Means over finished episodes, per seed (None where none finished), and how many they were."""
        totals = {"return": sums.total_return, "episode_length": sums.total_length, **sums.metrics}
        means = {f"{prefix}/{name}": _ratio(total, sums.episodes) for name, total in totals.items()}
        return {**means, f"{prefix}/episodes": [int(count) for count in sums.episodes]}

    def _what_to_look_at(self, broken: list[int]) -> str:
        """The message of a run that met NaN."""
        before = self.rows[-2] if len(self.rows) > 1 else {}
        saved = "The parameters from before are saved. " if len(self.rows) > 1 else ""
        others = self.frozen.count(None)
        saved += f"{others} other seed{' trains' if others == 1 else 's train'} on. " if others else ""
        start = before.get("env_steps", 0)
        clues = [
            f"{name} {value[broken[0]]:.3g}"
            for name in ("loss", "grad_norm", "q_mean", "target_mean")
            if (value := before.get(f"train/{name}")) and value[broken[0]] is not None
        ]
        seen = f"; before that {', '.join(clues)}" if clues else ""
        return (
            f"the loss of seed {', '.join(str(self.config.seed + i) for i in broken)} became NaN between steps "
            f"{start:,} and {self.rows[-1]['env_steps']:,}{seen}. {saved}"
            f"{advice.after_nan(self.config, before, self.rows[-1], broken[0])}."
        )

    def write_settings(self, settings: dict) -> None:
        """config.yaml and run.json, and what a resumed run changes in them."""
        from omegaconf import OmegaConf

        remove_drafts(self.folder)
        started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        past = self.past
        if past.checkpoint:
            add_to_manifest(self.folder, {"started": started, "env_steps": past.env_steps, "changes": past.changes})
        else:
            write_manifest(self.folder, {"title": self.title, "started": started})
        write_text_atomically(self.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(settings)))
        for checkpoint in past.later:
            checkpoint.remove()

    def news(self) -> list[str]:
        """What is to be said of saving and of going on."""
        config, past = self.config, self.past
        wait = f"{config.learner.start_env_steps:,} environment steps"
        lines = [f"goes on from step {past.env_steps:,}: {_short(past.checkpoint.path)}"] if past.checkpoint else []
        lines += [f"changed: {name} {before} -> {now}" for name, (before, now) in past.changes.items()]
        if past.assumed:
            assumed = ", ".join(f"{name}={value}" for name, value in past.assumed.items())
            lines.append(f"another version of qmix_jax wrote the checkpoint; it did not know {assumed}")
        if "total_env_steps" in past.changes and config.learner.final_learning_rate is not None:
            lines.append("learner.learning_rate from now on decays over the new total_env_steps")
        if past.checkpoint and config.has_replay and not past.checkpoint.has_replay:
            lines.append(f"replay was not saved: learning waits until {wait} are gathered anew")
        if config.has_replay and not config.checkpoint.replay:
            lines.append(f"checkpoint.replay=false: a resumed run will gather {wait} before it learns, and will differ")
        return lines

    def has_pictures(self, with_film: bool) -> bool:
        """Whether the curve, and the film where it is wanted, are there."""
        names = ["curve.png", *(["policy.gif"] if with_film else [])]
        return all((self.folder / name).exists() for name in names)

    def leave_behind(self, with_film: bool, display: Display) -> None:
        """The curve and the film; where they cannot be made, whatever the reason, that is said."""
        try:
            draw_curve(self.rows, self.folder / "curve.png", title=self.title)
            if with_film:
                self._paint_film()
        except Exception as error:  # a run is worth more than its pictures
            display.message(f"warning: no pictures of the run: {str(error) or type(error).__name__}")

    def _paint_film(self) -> None:
        """policy.gif: the greedy episode with the median return, by the best seed."""
        from qmix_jax.film.film import Recording, film

        params = jax.tree.map(lambda leaf: leaf[best_seed(self.rows[-1])], self.good_params)
        play = self.program.compile_record(params, FILM_CANDIDATES)
        record = jax.device_get(play(params, jax.random.key(self.config.seed)))
        chosen = int(np.argsort(record.episodes.total)[FILM_CANDIDATES // 2])
        recording = Recording.cut(record, chosen, has_wins="win_rate" in record.episodes.metrics, title=self.title)
        film(self.config.env.name, recording, self.folder / "policy.gif")

    def summary(self, status: int, received: list[signal.Signals]) -> str:
        """What was reached, where it lies, and what to do next."""
        if not self.rows:
            return f"Stopped before the first evaluation. Folder: {self.folder}"
        last, seeds = self.rows[-1], self.config.num_seeds
        state = ENDINGS.get(status) or f"Stopped by {received[0].name}".replace("SIGINT", "you")
        if status == exits.FAILED and None in self.frozen:
            state = "Done, but for seeds that met NaN"
        scores = [_describe_score("return", last["eval/return"])]
        if "eval/win_rate" in last:
            scores.insert(0, _describe_score("win rate", last["eval/win_rate"], percent=True))
        steps = f"{last['env_steps']:,} environment steps" + (f" x {seeds} seeds" if seeds > 1 else "")
        lines = [
            f"{state}: {self.title}, {steps} in {_clock(last['wall_seconds'])} "
            f"(compiling {last['compile_seconds']:.0f} s)",
            f"  greedy over {self.config.evaluation.episodes} episodes: {', '.join(scores)}",
            *self._best_before(),
            f"  folder: {_short(self.folder)}",
        ]
        names = {"metrics.jsonl": "every evaluation", "curve.png": "the learning curve", "policy.gif": "the film"}
        for name, meaning in {**names, "checkpoints": "the whole training state"}.items():
            if (self.folder / name).exists():
                lines.append(f"    {name:<18} {meaning}")
        if status in exits.STOPPED:
            lines.append(f"Go on: {_command()} train --resume {shlex.quote(str(_short(self.folder)))}")
        return "\n".join(lines)

    def _best_before(self) -> list[str]:
        """The best evaluation that is saved, where the last one is not it."""
        best = max(self.rows, key=lambda row: -math.inf if (score := self._score(row)) is None else score)
        score, last = self._score(best), self._score(self.rows[-1])
        if not self.config.checkpoint.keep_best or score is None or (last is not None and score <= last):
            return []
        name = self._metric.partition("/")[2]
        shown = _describe_score(name.replace("_", " "), [score], percent=name == "win_rate")
        return [f"  best: {shown} at step {best['env_steps']:,} (--checkpoint best)"]


def _ratio(total: Any, count: Any) -> list[float | None]:
    """total / count per seed; None where nothing was counted."""
    return [float(t) / float(c) if c > 0 else None for t, c in zip(total, count, strict=True)]


def _describe_score(name: str, values: list[float | None], percent: bool = False) -> str:
    known = [value for value in values if value is not None]
    show = "{:.1%}" if percent else "{:.2f}"
    if not known:
        return f"{name} unknown"
    text = f"{name} {show.format(sum(known) / len(known))}"
    return text + (f" (seeds: {', '.join(show.format(value) for value in known)})" if len(known) > 1 else "")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60} s" if seconds >= 60 else f"{seconds:.0f} s"


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _command() -> str:
    """How this program can be called again from this shell and folder."""
    beside = Path(sys.executable).with_name("qmix-jax")
    if shutil.which("qmix-jax"):
        return "qmix-jax"
    return str(_short(beside)) if beside.exists() else f"{_short(Path(sys.executable))} -m qmix_jax"


MOST_LETTERS = 100
"""Of a command that what it does stands beside in one column."""


def next_steps(config: Config, folder: Path) -> str:
    """The commands that come next."""
    train, run = f"{_command()} train", shlex.quote(str(_short(folder)))
    same, other = advice.same_settings(config), "vdn" if config.algorithm.name != "vdn" else "qmix"
    more_seeds = [each for each in same if not each.startswith("num_seeds=")] + [f"num_seeds={4 * config.num_seeds}"]
    lines = {
        f"{_command()} evaluate {run}": "score it, with --noise, --replace, --remove too",
        f"{_command()} render {run}": "film who matters when",
        f"{train} {advice.command_line([*same, f'algorithm={other}'])}": "the same with another mixer",
    }
    if config.env.name == "smax":
        lines[f"{train} env.map=3m total_env_steps=1e6"] = "another battle"
    lines[f"{train} {advice.command_line(more_seeds)}"] = "more seeds at once"
    lines[f"{train} --help"] = "everything else"
    width = min(MOST_LETTERS, max(map(len, lines)))
    return "\n".join(["Next:", *(f"  {line:<{width}}  {meaning}" for line, meaning in lines.items())])


def run(config: Config, folder: Path, settings: dict, go_on: bool = False, program: Program | None = None) -> int:
    """Train as the config says and leave everything in `folder`; returns the exit status.

    With `go_on`, the run that the folder holds goes on, if it holds one. `program` is the config's, where it has been
    checked already.

    Raises:
        ConfigError: before anything is written, where the config cannot work on this machine or in this folder.
        OSError: the folder cannot be written to at all.
    """
    program = program or check(config)
    with locked(folder):
        return _run(program, folder, settings, go_on)


def _run(program: Program, folder: Path, settings: dict, go_on: bool) -> int:
    began, config = time.perf_counter(), program.config
    resume.require_place(folder, go_on)
    the_run = Run(program, folder, resume.find_past(folder, program), began)
    if the_run.past.met_nan is not None:
        say(f"{_short(folder)} has parameters only: it met NaN at step {the_run.past.met_nan:,}", sys.stderr)
        return exits.FAILED
    says = config.logging.display != "none"
    with_film = config.logging.film
    if the_run.is_complete and the_run.has_pictures(with_film):
        steps = f"{the_run.env_steps:,} environment steps"
        say(f"{_short(folder)} is complete: {steps}; a larger total_env_steps makes it longer")
        return the_run.end_status
    the_run.write_settings(settings)
    if says:
        say("\n".join([f"{the_run.title}: {describe(program)}", *plan.rounding(config), *the_run.news()]))
    for line in plan.warnings(config):
        warn(line)
    dashboards = make_dashboards(config, settings, folder, the_run.rows)
    title = f"{the_run.title} · seed {config.seed}" + (
        f"..{config.seed + config.num_seeds - 1}" * (config.num_seeds > 1)
    )
    with exits.stop_signals() as received:
        display = make_display(
            config.logging.display,
            title=title,
            total_env_steps=the_run.last_env_steps,
            num_seeds=config.num_seeds,
            has_wins="win_rate" in metric_names(program.env),
            rows=the_run.rows,
        )
        with display:
            metrics = MetricsFile(folder, MetricsFile.text(the_run.rows), display.message)
            saver = Saver(folder, config.checkpoint, display.message, the_run.past.checkpoint)
            saver.listeners += [_note_saved_state, *(dashboard.checkpoint for dashboard in dashboards)]
            with closing(metrics), closing(saver):
                try:
                    status = the_run.train(display, [metrics, display, *dashboards], saver, received)
                except (MemoryError, jax.errors.JaxRuntimeError) as error:
                    if not exits.is_out_of_memory(error):
                        raise
                    status = exits.OUT_OF_MEMORY
            failure = saver.failure or metrics.failure
            with_film &= status == exits.DONE and not failure  # to compile it where memory is short ends the process
            if with_film:
                display.message("painting the film")
            the_run.leave_behind(with_film, display)
    curve, film = folder / "curve.png", folder / "policy.gif"
    for dashboard in dashboards:
        dashboard.media(curve if curve.exists() else None, film if with_film and film.exists() else None)
    if status == exits.OUT_OF_MEMORY:
        say(f"qmix-jax: error: out of memory: {what_to_lower(program)}", sys.stderr)
    if failure:
        say(f"qmix-jax: error: the end of the run could not be saved: {failure}", sys.stderr)
        status = exits.NOT_SAVED if status in (exits.DONE, *exits.STOPPED) else status
    if says:
        say(the_run.summary(status, received))
        if status == exits.DONE:
            say(next_steps(config, folder))
    for dashboard in dashboards:
        dashboard.close()
    return status


def _note_saved_state(path: Path) -> None:
    if Checkpoint(path).is_whole_state:
        note_saved_state(path.parents[1])

"""A run from its first line to its last: the host loop over chunks, and what it leaves in its folder."""

import math
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil

from qmix_jax import parallel
from qmix_jax.checkpoint import save_params
from qmix_jax.config import Config, ConfigError, MpeConfig, SmaxConfig
from qmix_jax.envs import make_team
from qmix_jax.exploration import epsilon_at
from qmix_jax.parallel import ChunkMetrics, Program
from qmix_jax.reporting.curve import draw_curve
from qmix_jax.reporting.dashboard import make_wandb
from qmix_jax.reporting.display import Display, make_display
from qmix_jax.reporting.records import MetricsFile, Reporter, write_manifest, write_text_atomically
from qmix_jax.rollout import EpisodeSums

DONE, FAILED, INTERRUPTED = 0, 1, 130
FILM_CANDIDATES = 8  # greedy episodes recorded; the one with the median return is painted


def check(config: Config) -> Program:
    """The run's program, not yet compiled; raises ConfigError where it cannot work on this machine."""
    env = make_team(config)
    limit, steps = env.spec.episode_limit, config.rollout.num_steps
    if config.rollout.whole_episodes and steps < limit:
        raise ConfigError(f"rollout.num_steps={steps} cuts whole episodes short; set rollout.num_steps={limit}")
    program = Program.make(config, env)
    _refuse_what_cannot_fit(program)
    return program


def memory_at_hand() -> int:
    """Bytes that one device may still take: free on the GPU, or on the machine (or its container)."""
    stats = jax.devices()[0].memory_stats() or {} if jax.default_backend() != "cpu" else {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    available = psutil.virtual_memory().available
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # no container, or no limit
        return available
    return min(available, limit - used)


def _refuse_what_cannot_fit(program: Program) -> None:
    """Raise ConfigError, with a capacity that would fit, where the training state is larger than the memory."""
    needs = parallel.describe_memory(program.shapes)
    devices = 1 if jax.default_backend() == "cpu" else program.mesh.size
    room = 0.9 * memory_at_hand() * devices
    rest = sum(size for part, size in needs.items() if part != "replay")
    if needs["replay"] + rest <= room:
        return
    fitting = int((room - rest) / needs["replay"] * program.config.replay.capacity)
    advice = f"try replay.capacity={fitting}" if fitting >= program.config.iteration_env_steps else "take fewer seeds"
    raise ConfigError(
        f"replay.capacity={program.config.replay.capacity} needs {_gib(needs['replay'])} for replay, and only "
        f"{_gib(room)} of memory can be used; {advice}"
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def describe(program: Program) -> str:
    """What the run will be made of, before anything is compiled."""
    config, mesh = program.config, program.mesh
    needs = parallel.describe_memory(program.shapes)
    count = needs["parameters"] // 4 // config.num_seeds
    kind = mesh.devices.flat[0].device_kind
    return (
        f"replay {_gib(needs['replay'])} · {count:,} parameters a seed ({needs['parameters'] / 2**20:.1f} MiB in all) "
        f"· {config.num_seeds} seed{'s' * (config.num_seeds > 1)} · {mesh.size} x {kind} "
        f"({mesh.shape['seed']} for seeds x {mesh.shape['data']} for data)"
    )


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """A list that a first Ctrl-C fills; a second one ends the process at once."""
    asked: list[int] = []

    def remember(number: int, frame: Any) -> None:
        del frame
        asked.append(number)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass
class Run:
    """A run under way: its program, its folder, and what it has told so far."""

    program: Program
    folder: Path
    rows: list[dict] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    compile_seconds: float = 0.0
    good_params: Any = None
    """The parameters after the last chunk whose losses were finite, on the host."""

    @property
    def config(self) -> Config:
        """The run's settings."""
        return self.program.config

    @property
    def title(self) -> str:
        """Algorithm and environment, for people."""
        return f"{self.config.algorithm.name.upper()} on {self.program.env.spec.name}"

    def train(self, display: Display, reporters: list[Reporter], asked: list[int]) -> int:
        """Chunk after chunk until the end, a NaN, or a Ctrl-C; returns the exit status."""
        begun = time.perf_counter()
        state = jax.block_until_ready(self.program.init())
        chunk = self.program.compile_chunk(state)
        self.compile_seconds = time.perf_counter() - begun
        for _ in range(self.config.num_chunks):
            if asked:
                return INTERRUPTED
            begun = time.perf_counter()
            state, metrics = chunk(state)
            metrics = jax.device_get(metrics)
            row = self._row(int(state.clock.iteration), metrics, time.perf_counter() - begun)
            self.rows.append(row)
            for reporter in reporters:
                reporter.log(row)
            broken = [i for i, loss in enumerate(metrics.losses.loss) if not math.isfinite(loss)]
            if broken:
                display.message(self._what_to_look_at(broken))
                return FAILED
            self.good_params = jax.device_get(state.seeds.learner.params)
        return DONE

    def _row(self, iteration: int, metrics: ChunkMetrics, seconds: float) -> dict:
        """One line of metrics.jsonl."""
        config = self.config
        env_steps = iteration * config.iteration_env_steps
        rollouts = config.replay_sequences // config.rollout.num_envs
        losses = metrics.losses._asdict()
        has_updates = np.asarray(metrics.updates) > 0
        mean_losses = {f"train/{name}": _ratio(total, metrics.updates) for name, total in losses.items()}
        return {
            "env_steps": env_steps,
            "wall_seconds": round(time.perf_counter() - self.began, 3),
            "compile_seconds": round(self.compile_seconds, 3),
            **mean_losses,
            **self._episodes("train", metrics.training),
            "train/updates": [int(count) for count in metrics.updates],
            "train/replay_fill": [min(1.0, iteration / rollouts) if rollouts else 0.0] * len(has_updates),
            "train/epsilon": float(epsilon_at(config.exploration, jnp.array(env_steps - config.rollout.num_envs))),
            "train/learning_rate": float(self.program.trainer.learner.learning_rate(jnp.array(env_steps))),
            "train/steps_per_second": round(config.chunk_env_steps * config.num_seeds / seconds, 1),
            **self._episodes("eval", metrics.evaluation),
        }

    def _episodes(self, prefix: str, sums: EpisodeSums) -> dict[str, list[float | None]]:
        """Means over finished episodes, per seed; None where none finished."""
        totals = {"return": sums.total_return, "episode_length": sums.total_length}
        if self.program.env.spec.has_wins:
            totals["win_rate"] = sums.wins
        return {f"{prefix}/{name}": _ratio(total, sums.episodes) for name, total in totals.items()}

    def _what_to_look_at(self, broken: list[int]) -> str:
        """The message of a run that met NaN."""
        before = self.rows[-2] if len(self.rows) > 1 else {}
        start = before.get("env_steps", 0)
        clues = [
            f"{name} {value[broken[0]]:.3g}"
            for name in ("loss", "grad_norm", "q_mean", "target_mean")
            if (value := before.get(f"train/{name}")) and value[broken[0]] is not None
        ]
        seen = f"; before that {', '.join(clues)}" if clues else ""
        return (
            f"the loss of seed {', '.join(str(self.config.seed + i) for i in broken)} became NaN between steps "
            f"{start:,} and {self.rows[-1]['env_steps']:,}{seen}. The parameters from before are saved. Look at a "
            f"lower learner.learning_rate or learner.max_grad_norm, and at algorithm.state_norm."
        )

    def leave_behind(self, with_film: bool) -> None:
        """The parameters, the curve and the film."""
        if self.good_params is not None:
            save_params(self.folder, self.good_params)
        draw_curve(self.rows, self.folder / "curve.png", title=self.title)
        if with_film and self.good_params is not None:
            self._paint_film()

    def best_seed(self) -> int:
        """The index of the seed whose last evaluation was best."""
        last = self.rows[-1]
        scores = last.get("eval/win_rate", last["eval/return"])
        return max(range(len(scores)), key=lambda i: -math.inf if scores[i] is None else scores[i])

    def _paint_film(self) -> None:
        """policy.gif: the greedy episode with the median return, by the best seed."""
        from qmix_jax.reporting.film import Recording, film

        params = jax.tree.map(lambda leaf: leaf[self.best_seed()], self.good_params["agent"])
        play = self.program.compile_record(params, FILM_CANDIDATES)
        record = jax.device_get(play(params, jax.random.key(self.config.seed)))
        chosen = int(np.argsort(record.total)[FILM_CANDIDATES // 2])
        length = int(record.length[chosen])
        recording = Recording(
            scene={name: np.asarray(value[: length + 1, chosen]) for name, value in record.scene.items()},
            reward=np.asarray(record.reward[:length, chosen]),
            won=bool(record.won[chosen]) if self.program.env.spec.has_wins else None,
            title=self.title,
        )
        film(self.config.env.name, recording, self.folder / "policy.gif")

    def summary(self, status: int) -> str:
        """What was reached, where it lies, and what to do next."""
        if not self.rows:
            return f"Stopped before the first evaluation. Folder: {self.folder}"
        last, seeds = self.rows[-1], self.config.num_seeds
        state = {DONE: "Done", FAILED: "Stopped by NaN", INTERRUPTED: "Stopped by you"}[status]
        scores = [_describe_score("return", last["eval/return"])]
        if "eval/win_rate" in last:
            scores.insert(0, _describe_score("win rate", last["eval/win_rate"], percent=True))
        steps = f"{last['env_steps']:,} environment steps" + (f" x {seeds} seeds" if seeds > 1 else "")
        lines = [
            f"{state}: {self.title}, {steps} in {_clock(last['wall_seconds'])} "
            f"(compiling {last['compile_seconds']:.0f} s)",
            f"  greedy over {self.config.evaluation.episodes} episodes: {', '.join(scores)}",
            f"  folder: {_short(self.folder)}",
        ]
        names = {"metrics.jsonl": "every evaluation", "curve.png": "the learning curve", "policy.gif": "the film"}
        for name, meaning in {**names, "checkpoints/final": "the parameters"}.items():
            if (self.folder / name).exists():
                lines.append(f"    {name:<18} {meaning}")
        return "\n".join(lines)


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


def _chosen_environment(config: Config) -> str:
    """The overrides that choose the run's environment, with a space before each; nothing for the default one."""
    match config.env.settings:
        case SmaxConfig(map=name):
            return "" if name == SmaxConfig().map else f" env.map={name}"
        case MpeConfig(task=task):
            return f" env=mpe env.task={task}"
    return f" env={config.env.name}"


def next_steps(config: Config) -> str:
    """The commands that come next."""
    train, chosen = f"{_command()} train", _chosen_environment(config)
    other = "vdn" if config.algorithm.name != "vdn" else "qmix"
    lines = {f"{train}{chosen} algorithm={other}": "the same with another mixer"}
    if config.env.name == "smax":
        lines[f"{train} env.map=3m total_env_steps=1e6"] = "another battle"
    lines[f"{train}{chosen} num_seeds=4"] = "four seeds at once"
    lines[f"{train} --help"] = "everything else"
    width = max(map(len, lines))
    return "\n".join(["Next:", *(f"  {line:<{width}}  {meaning}" for line, meaning in lines.items())])


def run(config: Config, folder: Path, settings: dict) -> int:
    """Train as the config says and leave everything in `folder`; returns the exit status.

    Raises:
        ConfigError: before anything is written, where the config cannot work on this machine.
    """
    program = check(config)
    folder.mkdir(parents=True, exist_ok=True)
    the_run = Run(program, folder)
    says = config.logging.display != "none"
    _write_settings(folder, settings, the_run.title)
    if says:
        print(f"{the_run.title}: {describe(program)}", flush=True)
    dashboard = make_wandb(config.logging.wandb, run_config=settings, folder=folder, name=folder.name)
    title = f"{the_run.title} · seed {config.seed}" + (
        f"..{config.seed + config.num_seeds - 1}" * (config.num_seeds > 1)
    )
    with asked_to_stop() as asked:
        display = make_display(
            config.logging.display,
            title=title,
            total_env_steps=config.num_chunks * config.chunk_env_steps,
            num_seeds=config.num_seeds,
            has_wins=program.env.spec.has_wins,
        )
        with display:
            reporters: list[Reporter] = [MetricsFile(folder), display, *([dashboard] if dashboard else [])]
            status = the_run.train(display, reporters, asked)
            with_film = config.logging.film and status == DONE
            if with_film:
                display.message("painting the film")
            the_run.leave_behind(with_film)
    if dashboard:
        dashboard.media(folder / "curve.png", folder / "policy.gif" if with_film else None)
        dashboard.close()
    if says:
        print(the_run.summary(status))
        if status == DONE:
            print(next_steps(config))
    return status


def _write_settings(folder: Path, settings: dict, title: str) -> None:
    from omegaconf import OmegaConf

    write_text_atomically(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(settings)))
    write_manifest(folder, {"title": title, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")})

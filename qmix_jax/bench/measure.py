"""Measures each part of training alone, with the sizes, the mesh and the donation of training."""

import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from qmix_jax.bench import parts
from qmix_jax.bench.flops import update_flops
from qmix_jax.bench.parts import Part
from qmix_jax.bench.profile import Profile, read_trace
from qmix_jax.config import Config
from qmix_jax.learning.trainer import Trainer
from qmix_jax.nn import linear
from qmix_jax.run.devices import DATA, SEED
from qmix_jax.run.program import Program, TrainState, describe_memory

SECONDS, REPEATS = 0.5, 5  # a repeat executes as often as fits half a second, at least once
LONG_SECONDS, FEW_REPEATS = 2.0, 3  # fewer repeats where one execution takes this long
TRACED_ITERATIONS = 4  # a whole chunk would be hundreds of megabytes


class Figure(NamedTuple):
    """One measured number and its spread."""

    median: float
    low: float
    high: float
    repeats: int
    """1: measured once; 0: counted or derived, so that it has no spread of its own."""


Figures = dict[str, Figure]
"""By `part/measure`, where the measure ends with its unit: `rollout/env_steps_per_second`."""


def counted(value: float) -> Figure:
    """A figure that is the same every time, or is computed from others."""
    return Figure(value, value, value, 0)


def once(value: float) -> Figure:
    """A figure that was measured once."""
    return Figure(value, value, value, 1)


def summarise(values: list[float]) -> Figure:
    """The median and the whole range of repeated measurements."""
    return Figure(median(values), min(values), max(values), len(values))


def rate(amount: float, seconds: Figure) -> Figure:
    """`amount` per second, from its seconds."""
    return Figure(amount / seconds.median, amount / seconds.high, amount / seconds.low, seconds.repeats)


def multiply(figure: Figure, factor: float) -> Figure:
    """The figure in another unit."""
    return Figure(factor * figure.median, factor * figure.low, factor * figure.high, figure.repeats)


def time_repeatedly(run: Callable[[int], Any], period: int = 1, repeats: int = REPEATS) -> Figure:
    """Seconds of one execution, where `run(count)` executes `count` times and returns when all are done.

    A warm-up determines how many executions make a repeat of `SECONDS`, in whole multiples of `period`.
    """
    warm_up = _seconds(run, period)
    if warm_up < SECONDS:  # so short that the first execution is not typical
        warm_up = _seconds(run, period)
    count = period * math.ceil(SECONDS / warm_up)
    repeats = repeats if warm_up < LONG_SECONDS else FEW_REPEATS
    return summarise([_seconds(run, count) / count for _ in range(repeats)])


def _seconds(run: Callable[[int], Any], count: int) -> float:
    begun = time.perf_counter()
    run(count)
    return time.perf_counter() - begun


# --- the benchmark -------------------------------------------------------------------------------------------------


@dataclass
class Benchmark:
    """A program under measurement. Each measurement starts from the state that the one before left."""

    program: Program
    say: Callable[[str], None]
    state: TrainState
    figures: Figures = field(default_factory=dict)
    compiled: dict[str, Any] = field(default_factory=dict)
    """The executables so far, by part."""

    @classmethod
    def make(cls, program: Program, say: Callable[[str], None]) -> "Benchmark":
        """The benchmark of a program, with the state before the first step."""
        return cls(program, say, jax.block_until_ready(program.init()))

    def compile(self, name: str, make: Callable[[Trainer], Part]) -> Callable[[int], None]:
        """`run(count)`, compiled, which executes a part `count` times."""
        loop = self._compiled(name, lambda: self.program.compile_loop(make, self.state))

        def run(count: int) -> None:
            self.state, _ = jax.block_until_ready(loop(self.state, self.program.numbers, np.int32(count)))

        return run

    def compile_training(self) -> Callable[[int], None]:
        """Iterations without evaluation. Fills the replay buffer and runs until updates are made."""
        run = self.compile("training_without_evaluation", parts.training)
        run(iterations_to_steady_state(self.program.config))
        return run

    def compile_chunk(self) -> Callable[[int], None]:
        """The program that a run repeats: iterations, then an evaluation."""
        chunk = self._compiled("training", lambda: self.program.compile_chunk())

        def run(count: int) -> None:
            for _ in range(count):
                self.state, _ = jax.block_until_ready(chunk(self.state, self.program.numbers))

        return run

    def _compiled(self, name: str, make: Callable[[], Any]) -> Any:
        """The executable that `make` returns; its compile time becomes a figure."""
        begun = time.perf_counter()
        compiled = make()
        self.figures[f"{name}/compile_seconds"] = once(time.perf_counter() - begun)
        self.compiled[name] = compiled
        return compiled

    def rate(self, name: str, amount: float, unit: str, seconds: Figure) -> Figure:
        """Record and print the rate of `amount` units in so many seconds; returns the seconds."""
        figure = self.figures[f"{name}/{unit}_per_second"] = rate(amount, seconds)
        compiled = self.figures.get(f"{name}/compile_seconds")
        after = f" (compiled in {compiled.median:.1f} s)" if compiled else ""
        self.say(f"{name.replace('_', ' ')}: {figure.median:,.5g} {unit.replace('_', ' ')}/s{after}")
        return seconds


def iterations_to_steady_state(config: Config) -> int:
    """Iterations until the replay buffer is full and updates are made."""
    rollouts = config.replay_sequences // config.rollout.num_envs
    return max(rollouts, math.ceil(config.learner.start_env_steps / config.iteration_env_steps))


def update_period(config: Config) -> int:
    """The fewest iterations that always contain an update."""
    return math.ceil(config.learner.env_steps_per_update / config.iteration_env_steps)


def measure(program: Program, say: Callable[[str], None], trace: Path | None = None) -> tuple[Figures, Profile | None]:
    """Every figure of one program, and the summary of a profiler's trace if `trace` names a folder for it."""
    config = program.config
    benchmark = Benchmark.make(program, say)
    env_steps = config.iteration_env_steps * config.num_seeds
    episodes = config.evaluation.episodes * config.num_seeds

    run = benchmark.compile_training()
    iteration = time_repeatedly(run, update_period(config))
    benchmark.rate("training_without_evaluation", env_steps, "env_steps", iteration)
    chunk = time_repeatedly(benchmark.compile_chunk())
    benchmark.rate("training", env_steps * config.iterations_per_chunk, "env_steps", chunk)
    benchmark.figures["memory/peak_bytes"] = once(peak_bytes(program))
    benchmark.figures["memory/replay_bytes"] = counted(describe_memory(program.shapes)["replay"])
    profile = None
    if trace:
        traced = max(update_period(config), TRACED_ITERATIONS)
        with jax.profiler.trace(str(trace)):
            run(traced)
        text = benchmark.compiled["training_without_evaluation"].as_text()
        profile = read_trace(trace, text, program.mesh.size)
        say(f"trace of {traced} iterations: {trace}")
    alone = {
        "environment": (parts.environment, env_steps, "env_steps"),
        "rollout": (parts.playing, env_steps, "env_steps"),
        "learner": (parts.learning, config.num_seeds, "updates"),
        "evaluation": (parts.evaluation, episodes, "episodes"),
    }
    seconds = {
        name: benchmark.rate(name, amount, unit, time_repeatedly(benchmark.compile(name, make)))
        for name, (make, amount, unit) in alone.items()
    }
    product, flops = matrix_product(program)
    benchmark.rate("matrix_product", flops, "flops", time_repeatedly(product))
    return benchmark.figures | derive(program, benchmark.figures, seconds | {"training": chunk}), profile


def derive(program: Program, figures: Figures, seconds: dict[str, Figure]) -> Figures:
    """Figures computed from others: the learner's arithmetic, shares of training's time, distances to the bounds.

    `seconds`: of a rollout, an update, an evaluation, and a chunk of training.
    """
    config = program.config
    flops = update_flops(program)
    arithmetic = rate(flops * config.num_seeds, seconds["learner"])
    learner_steps = rate(config.learner.env_steps_per_update * config.num_seeds, seconds["learner"])
    peak = figures["matrix_product/flops_per_second"]
    limit = multiply(peak, config.learner.env_steps_per_update / flops)
    steps = figures["training/env_steps_per_second"].median
    iterations = config.iterations_per_chunk
    updates = iterations * config.iteration_env_steps / config.learner.env_steps_per_update
    whole = seconds["training"].median
    shares = {
        "rollout": iterations * seconds["rollout"].median / whole,
        "learner": updates * seconds["learner"].median / whole,
        "evaluation": seconds["evaluation"].median / whole,
    }
    shares["rest"] = 1 - sum(shares.values())
    return {
        "learner/flops_per_update": counted(flops),
        "learner/flops_per_second": arithmetic,
        "learner/share_of_matrix_product": counted(arithmetic.median / peak.median),
        "learner/env_steps_per_second": learner_steps,
        "learner/limit_env_steps_per_second": limit,
        "evaluation/seconds": seconds["evaluation"],
        **{f"share_of_training/{name}": counted(share) for name, share in shares.items()},
        "training/share_of_environment": counted(steps / figures["environment/env_steps_per_second"].median),
        "training/share_of_learner_limit": counted(steps / limit.median),
    }


def peak_bytes(program: Program) -> int:
    """The peak of memory so far: of the arrays on the devices, or of the whole process on a CPU."""
    if jax.default_backend() == "cpu":
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    stats = [device.memory_stats() or {} for device in program.mesh.devices.flat]
    return sum(each.get("peak_bytes_in_use", 0) for each in stats)


def matrix_product(program: Program) -> tuple[Callable[[int], None], int]:
    """`run(count)` for products of square matrices, one on each device at once, and the operations of one execution."""
    size, count = 1024 if jax.default_backend() == "cpu" else 8192, program.mesh.size
    spec = P((SEED, DATA))

    def device(left: jax.Array, right: jax.Array, count: jax.Array) -> jax.Array:
        with linear.matmul_dtype(program.config.matmul_dtype):
            return lax.fori_loop(0, count, lambda _, x: linear.multiply(x, right), left)

    mapped = jax.shard_map(device, mesh=program.mesh, in_specs=(spec, P(), P()), out_specs=spec, check_vma=False)
    right = jax.random.normal(jax.random.key(0), (size, size)) / math.sqrt(size)  # keeps the scale
    left = jax.device_put(jnp.ones((count * size, size)), NamedSharding(program.mesh, spec))
    compiled = jax.jit(mapped).lower(left, right, np.int32(1)).compile()

    def run(count: int) -> None:
        jax.block_until_ready(compiled(left, right, np.int32(count)))

    return run, 2 * size**3 * count

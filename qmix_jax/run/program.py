"""The compiled program: seeds and environments over a device mesh with the axes (seed, data).

Independent seeds are the leading axis of every array of a seed's state: split over `seed`, within a device vmapped or
taken in turn. One seed's environments, replay and batch are split over `data`; gradients meet in one sum. One device is
the same program with both axes of size 1. CPU cores are devices too, once `use_cpu_cores` has run.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from qmix_jax.config import Config, ConfigError
from qmix_jax.console import warn
from qmix_jax.envs.base import TeamEnv
from qmix_jax.learning.evaluate import RecordedEpisodes, episode_keys, record
from qmix_jax.learning.learner import LossMetrics, sum_over_devices
from qmix_jax.learning.rollout import EpisodeSums
from qmix_jax.learning.trainer import SeedState, StepMetrics, Trainer
from qmix_jax.nn.linear import matmul_dtype
from qmix_jax.types import Clock, Params, tree_bytes

SEED, DATA = "seed", "data"
FEW_ACTIVATIONS = 40_000
"""Of one layer in one update of a seed: below this, a CPU's core vmaps its seeds."""
FOR_CPU_CORES = {"xla_cpu_enable_concurrency_optimized_scheduler": False, "xla_cpu_prefer_vector_width": 512}
"""Compiler options: no order of operations made for several threads, where a core that is a device has one to itself;
and the widest vectors that the core has. Together they save 6 to 9 % of training.
"""


class TrainState(NamedTuple):
    """Everything that a run carries on from."""

    clock: Clock
    seeds: SeedState
    """Every leaf with a leading axis S."""


Begin = Callable[[Clock, SeedState], Any]
"""What the first turn of a part of training gets as `kept`, from a seed's state on one device."""
Turn = Callable[[Clock, SeedState, Any], tuple[SeedState, Any]]
"""One turn of a part of training: (clock, a seed's state, kept) -> the state and what is kept for the next turn."""


class ChunkMetrics(NamedTuple):
    """What a chunk tells, per seed (S,)."""

    training: EpisodeSums
    losses: LossMetrics
    """Sums over the chunk's updates."""
    updates: Int[Array, "S"]
    evaluation: EpisodeSums


def use_cpu_cores(devices: str = "auto") -> None:
    """Make every CPU core a device (or as many as `devices` says). Has no effect once JAX has started."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = cores if devices == "auto" else max(int(devices), 1)
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # JAX has started: its devices are what they are
        return


def split_devices(config: Config, available: int) -> tuple[int, int]:
    """How many devices share the seeds, and how many share each seed's work.

    `devices: auto` takes as many as divide the work; a number is taken as it is, or refused.
    """

    def data_fits(count: int) -> bool:
        numbers = (config.rollout.num_envs, config.learner.batch_size, config.evaluation.episodes)
        return all(number % count == 0 for number in numbers)

    splits = [
        (seeds, data)
        for seeds in range(1, available + 1)
        for data in range(1, available // seeds + 1)
        if config.num_seeds % seeds == 0 and data_fits(data)
    ]
    if config.devices == "auto":
        return max(splits, key=lambda split: (math.prod(split), split[0]))
    wanted = int(config.devices)
    if wanted > available:
        raise ConfigError(f"devices={wanted}, but only {available} can be had; use devices=auto")
    exact = [split for split in splits if math.prod(split) == wanted]
    if not exact:
        raise ConfigError(
            f"devices={wanted} cannot share the work out: num_seeds={config.num_seeds}, or else rollout.num_envs="
            f"{config.rollout.num_envs}, learner.batch_size={config.learner.batch_size} and evaluation.episodes="
            f"{config.evaluation.episodes} together, must be multiples of it; use devices=auto"
        )
    return max(exact)


def describe_idle(config: Config, available: int) -> str:
    """Why `devices: auto` leaves devices idle, and the settings that would use all, in one sentence; '' where all work.

    Of all ways to share the work over every device, the one is named that the fewest settings stand against.
    """
    used = math.prod(split_devices(config, available))
    if config.devices != "auto" or used == available:
        return ""
    numbers = {
        "rollout.num_envs": config.rollout.num_envs,
        "learner.batch_size": config.learner.batch_size,
        "evaluation.episodes": config.evaluation.episodes,
    }
    ways = [
        available // seeds for seeds in range(available, 0, -1) if available % seeds == config.num_seeds % seeds == 0
    ]
    obstacles = [{name: (n, data) for name, n in numbers.items() if n % data} for data in ways]
    fewest = min(obstacles, key=len)
    now = " and ".join(f"{name}={n}" for name, (n, _) in fewest.items())
    better = " ".join(f"{name}={math.ceil(n / data) * data}" for name, (n, data) in fewest.items())
    return f"{available - used} of {available} devices idle, over which {now} cannot be shared; {better} would use all"


@dataclass(frozen=True)
class Program:
    """The training program of all seeds over a mesh."""

    config: Config
    env: TeamEnv
    mesh: Mesh

    @classmethod
    def make(cls, config: Config, env: TeamEnv, devices: list | None = None) -> "Program":
        """The program over the devices at hand; raises ConfigError where they cannot share the work."""
        devices = devices or jax.devices()
        seeds, data = split_devices(config, len(devices))
        mesh = Mesh(np.array(devices[: seeds * data]).reshape(seeds, data), (SEED, DATA))
        return cls(config, env, mesh)

    @cached_property
    def trainer(self) -> Trainer:
        """What each device runs."""
        data = self.mesh.shape[DATA]
        return Trainer(self.config, self.env, data, axis=DATA if data > 1 else None, branches=self._is_on_cpu)

    @property
    def _is_on_cpu(self) -> bool:
        return self.mesh.devices.flat[0].platform == "cpu"

    @property
    def _specs(self) -> TrainState:
        """Where each part of the state lies."""
        shared = P(SEED, DATA)
        seeds = SeedState(key=P(SEED), learner=P(SEED), rollout=shared, replay=shared)  # pyright: ignore
        return TrainState(clock=P(), seeds=seeds)  # pyright: ignore[reportArgumentType]

    def _map(self, function, in_specs: Any, out_specs: Any):
        def on_device(*args: Any) -> Any:
            with matmul_dtype(self.config.matmul_dtype):
                return function(*args)

        return jax.shard_map(on_device, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    @cached_property
    def _init(self):
        def init(seeds: Int[Array, "S"]) -> TrainState:
            zero = jnp.array(0, jnp.int32)
            return TrainState(Clock(zero, zero), jax.vmap(self.trainer.init)(seeds))

        return jax.jit(self._map(init, P(SEED), self._specs))

    @property
    def _seeds(self) -> Array:
        return self.config.seed + jnp.arange(self.config.num_seeds)

    def init(self) -> TrainState:
        """The state before the first step: seed i is `config.seed + i`."""
        return compile_quickly(self._init.lower(self._seeds))(self._seeds)

    @cached_property
    def shapes(self) -> TrainState:
        """The state's global shapes, and how they lie on the devices, without making it."""
        shapes = jax.eval_shape(self._init, self._seeds)

        def place(spec: P, part: Any) -> Any:
            sharding = NamedSharding(self.mesh, spec)
            return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), part)

        return jax.tree.map(place, self._specs, shapes, is_leaf=lambda leaf: isinstance(leaf, P))

    def place(self, state: TrainState) -> TrainState:
        """A state from the host on the devices that hold each part of it."""
        is_spec = {"is_leaf": lambda spec: isinstance(spec, P)}
        return jax.device_put(state, jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), self._specs, **is_spec))

    def chunk(self, state: TrainState) -> tuple[TrainState, ChunkMetrics]:
        """Iterations, then a greedy evaluation (to be compiled, see `compile_chunk`)."""
        return self._map(self._device_chunk, (self._specs,), (self._specs, P(SEED)))(state)

    def _device_chunk(self, state: TrainState) -> tuple[TrainState, ChunkMetrics]:
        seeds, metrics = self._over_seeds(self._seed_chunk)(*state)
        iteration = state.clock.iteration + self.config.iterations_per_chunk
        return TrainState(state.clock._replace(iteration=iteration), seeds), metrics

    def _seed_chunk(self, clock: Clock, seed: SeedState) -> tuple[SeedState, ChunkMetrics]:
        def iteration(carry: tuple[Clock, SeedState], _) -> tuple[tuple[Clock, SeedState], StepMetrics]:
            clock, seed = carry
            seed, metrics = self.trainer.step(clock, seed)
            return (clock._replace(iteration=clock.iteration + 1), seed), metrics

        (clock, seed), metrics = lax.scan(iteration, (clock, seed), length=self.config.iterations_per_chunk)
        metrics = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), metrics)
        told = metrics.episodes, self.trainer.evaluate(clock, seed)
        episodes, evaluation = sum_over_devices(told, self.trainer.axis)
        return seed, ChunkMetrics(episodes, metrics.losses, metrics.updates, evaluation)

    def _over_seeds(self, function: Callable[[Clock, SeedState], tuple[SeedState, Any]]) -> Callable:
        """The function over the seeds of a device, under the clock that they share: vmapped, or in turn."""
        if self.vmaps_seeds:
            return jax.vmap(function, in_axes=(None, 0))

        def in_turn(clock: Clock, seeds: SeedState) -> tuple[SeedState, Any]:
            def one(seeds: SeedState, i: Array) -> tuple[SeedState, Any]:
                seed, told = function(clock, jax.tree.map(lambda leaf: leaf[i], seeds))
                return jax.tree.map(lambda old, new: lax.dynamic_update_index_in_dim(old, new, i, 0), seeds, seed), told

            return lax.scan(one, seeds, jnp.arange(len(seeds.key)))

        return in_turn

    @property
    def vmaps_seeds(self) -> bool:
        """Whether a device takes its seeds at once; a CPU's core takes one after the other, unless each is small.

        A core has nothing to gain from arrays that outgrow its cache, but much from operations that are worth their
        call. Measured with 8 or 10 seeds on 2 cores: in turn is 1.2 times as fast on 2s3z (340,000 activations a layer
        in an update) and 1.35 times on simple_spread (160,000), and 0.7 times on the two-step game (12,000).
        """
        config = self.config
        if config.num_seeds == self.mesh.shape[SEED]:
            return False
        steps = config.learner.batch_size * (config.rollout.num_steps + 1)
        activations = steps * self.env.spec.num_agents * config.agent.hidden_size // self.mesh.shape[DATA]
        return not self._is_on_cpu or activations < FEW_ACTIVATIONS

    def compile_chunk(self) -> Any:
        """The chunk as an executable that takes the state over (its memory is donated)."""
        return self._compile(self.chunk, self.shapes)

    def _compile(self, function: Callable, *arguments: Any) -> Any:
        """A function that takes the state over as an executable for the mesh's devices."""
        lowered = jax.jit(function, donate_argnums=0).lower(*arguments)
        return compile_with(lowered, FOR_CPU_CORES if self._is_on_cpu else {})

    def start(self, make_state: Callable[[], TrainState]) -> tuple[TrainState, Callable]:
        """The state that `make_state` makes and the compiled chunk, at the same time: to trace takes only one core."""
        with ThreadPoolExecutor(1) as beside:
            state = beside.submit(make_state)
            chunk = self.compile_chunk()
            return jax.block_until_ready(state.result()), chunk

    def compile_turns(self, begin: Begin, turn: Turn, state: TrainState) -> Any:
        """`state, count -> state, kept` as an executable that takes the state over and calls `turn` `count` times.

        For measuring a part of training as training runs it: on every device of the mesh, over its seeds.
        """

        def turns(state: TrainState, count: Int[Array, ""]) -> tuple[TrainState, Any]:
            def body(_, carry):
                clock, seed, kept = lax.optimization_barrier(carry)  # so that nothing of a turn leaves the loop
                seed, kept = turn(clock, seed, kept)
                return clock._replace(iteration=clock.iteration + 1), seed, kept

            def of_seed(clock: Clock, seed: SeedState) -> tuple[SeedState, Any]:
                _, seed, kept = lax.fori_loop(0, count, body, (clock, seed, begin(clock, seed)))
                return seed, kept

            seeds, kept = self._over_seeds(of_seed)(*state)
            return TrainState(state.clock._replace(iteration=state.clock.iteration + count), seeds), kept

        mapped = self._map(turns, (self._specs, P()), (self._specs, P((SEED, DATA))))
        return self._compile(mapped, state, np.int32(1))

    def compile_record(self, params: Params, episodes: int) -> Any:
        """`params, key -> RecordedEpisodes` of greedy episodes, as an executable for one device."""

        def play(params: Params, key: jax.Array) -> RecordedEpisodes:
            trainer = self.trainer
            return record(self.env, trainer.agents, trainer.learner.mixer, params, episode_keys(key, episodes))

        return compile_quickly(jax.jit(play).lower(params, jax.random.key(0)))


def compile_quickly(lowered: Any) -> Any:
    """Compile what runs only once: on a CPU, optimising it would take longer than it can save."""
    is_cpu = jax.default_backend() == "cpu"
    quickly = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return compile_with(lowered, quickly if is_cpu else {})


def compile_with(lowered: Any, options: Mapping[str, Any]) -> Any:
    """Compile with those compiler options that the installed XLA knows; each of the others is named once."""
    try:
        return lowered.compile(dict(options) or None)
    except jax.errors.JaxRuntimeError as error:
        unknown = re.search(r"No such compile option: '(\w+)'", str(error))
        if unknown is None or unknown[1] not in options:
            raise
    _name_unknown_option(unknown[1])
    return compile_with(lowered, {name: value for name, value in options.items() if name != unknown[1]})


@cache
def _name_unknown_option(name: str) -> None:
    warn(f"this XLA (jaxlib {metadata.version('jaxlib')}) has no option {name}: compiling without it")


def describe_memory(shapes: TrainState) -> dict[str, int]:
    """Bytes of each part of the state, over all devices."""
    seeds = shapes.seeds
    return {
        "replay": tree_bytes(seeds.replay),
        "parameters": tree_bytes(seeds.learner.params),
        "learner": tree_bytes(seeds.learner),
        "rollout": tree_bytes(seeds.rollout),
    }

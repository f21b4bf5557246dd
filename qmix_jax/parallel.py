"""The compiled program: seeds and environments over a device mesh with the axes (seed, data).

Independent seeds are the leading axis of every array of a seed's state: split over `seed`, vmapped within a device.
One seed's environments, replay and batch are split over `data`; gradients meet in one sum. One device is the same
program with both axes of size 1. CPU cores are devices too, once `use_cpu_cores` has run.
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from qmix_jax.config import Config, ConfigError
from qmix_jax.envs.team import TeamEnv
from qmix_jax.evaluate import Record, episode_keys, record
from qmix_jax.learner import LossMetrics
from qmix_jax.rollout import EpisodeSums
from qmix_jax.trainer import SeedState, StepMetrics, Trainer
from qmix_jax.types import Clock, Params, tree_bytes

SEED, DATA = "seed", "data"


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
        return Trainer(self.config, self.env, self.mesh.shape[DATA], axis=DATA)

    @property
    def _specs(self) -> TrainState:
        """Where each part of the state lies."""
        shared = P(SEED, DATA)
        seeds = SeedState(key=P(SEED), learner=P(SEED), rollout=shared, replay=shared)  # pyright: ignore
        return TrainState(clock=P(), seeds=seeds)  # pyright: ignore[reportArgumentType]

    def _map(self, function, in_specs: Any, out_specs: Any):
        return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

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
        def iteration(state: TrainState, _) -> tuple[TrainState, StepMetrics]:
            seeds, metrics = jax.vmap(self.trainer.step, in_axes=(None, 0))(*state)
            return TrainState(state.clock._replace(iteration=state.clock.iteration + 1), seeds), metrics

        state, metrics = lax.scan(iteration, state, length=self.config.iterations_per_chunk)
        metrics = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), metrics)
        evaluation = jax.vmap(self.trainer.evaluate, in_axes=(None, 0))(*state)
        episodes, evaluation = lax.psum((metrics.episodes, evaluation), DATA)
        return state, ChunkMetrics(episodes, metrics.losses, metrics.updates, evaluation)

    def compile_chunk(self) -> Any:
        """The chunk as an executable that takes the state over (its memory is donated)."""
        return jax.jit(self.chunk, donate_argnums=0).lower(self.shapes).compile()

    def start(self, make_state: Callable[[], TrainState]) -> tuple[TrainState, Callable]:
        """The state that `make_state` makes and the compiled chunk, at the same time: to trace takes only one core."""
        with ThreadPoolExecutor(1) as beside:
            state = beside.submit(make_state)
            chunk = self.compile_chunk()
            return jax.block_until_ready(state.result()), chunk

    def compile_turns(self, begin: Begin, turn: Turn, state: TrainState) -> Any:
        """`state, count -> state, kept` as an executable that takes the state over and calls `turn` `count` times.

        For measuring a part of training as training runs it: on every device of the mesh, with the seeds vmapped.
        """

        def turns(state: TrainState, count: Int[Array, ""]) -> tuple[TrainState, Any]:
            def body(_, carry):
                (clock, seeds), kept = lax.optimization_barrier(carry)  # so that nothing of a turn leaves the loop
                seeds, kept = jax.vmap(turn, in_axes=(None, 0, 0))(clock, seeds, kept)
                return TrainState(clock._replace(iteration=clock.iteration + 1), seeds), kept

            kept = jax.vmap(begin, in_axes=(None, 0))(*state)
            return lax.fori_loop(0, count, body, (state, kept))

        mapped = self._map(turns, (self._specs, P()), (self._specs, P((SEED, DATA))))
        return jax.jit(mapped, donate_argnums=0).lower(state, np.int32(1)).compile()

    def compile_record(self, params: Params, episodes: int) -> Any:
        """`params, key -> Record` of greedy episodes, as an executable for one device."""

        def play(params: Params, key: jax.Array) -> Record:
            trainer = self.trainer
            return record(self.env, trainer.agents, trainer.learner.mixer, params, episode_keys(key, episodes))

        return compile_quickly(jax.jit(play).lower(params, jax.random.key(0)))


def compile_quickly(lowered: Any) -> Any:
    """Compile what runs only once: on a CPU, optimising it would take longer than it can save."""
    if jax.default_backend() != "cpu":
        return lowered.compile()
    return lowered.compile({"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True})


def describe_memory(shapes: TrainState) -> dict[str, int]:
    """Bytes of each part of the state, over all devices."""
    seeds = shapes.seeds
    return {
        "replay": tree_bytes(seeds.replay),
        "parameters": tree_bytes(seeds.learner.params),
        "learner": tree_bytes(seeds.learner),
        "rollout": tree_bytes(seeds.rollout),
    }

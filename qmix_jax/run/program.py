"""The compiled program: training of all seeds on a device mesh with the axes (seed, data).

The seeds are those of one run, or of several whose settings differ in numbers (`qmix_jax.traced`), one run after the
other. Seeds are the leading axis S of every array of the seeds' state. They are sharded over `seed`; a device vmaps its
seeds or scans over them. Each seed's environments, replay and batch are sharded over `data`, with one all-reduce of
gradients an update. On one device both axes have size 1. CPU cores are devices too, once `devices.use_cpu_cores` was
called.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from qmix_jax.agents.base import num_features
from qmix_jax.build import has_parts_from_elsewhere
from qmix_jax.config import Config
from qmix_jax.envs.base import TeamEnv
from qmix_jax.learning.evaluate import RecordedEpisodes, episode_keys, record
from qmix_jax.learning.learner import LossMetrics, sum_over_devices
from qmix_jax.learning.rollout import EpisodeSums
from qmix_jax.learning.trainer import SeedState, StepMetrics, Trainer
from qmix_jax.nn.linear import matmul_dtype
from qmix_jax.run import hosts
from qmix_jax.run.compilation import compile_quickly, compile_with, fingerprint
from qmix_jax.run.devices import DATA, SEED, make_mesh, part_of
from qmix_jax.traced import numbers, program_key
from qmix_jax.types import Clock, Params, tree_bytes

FEW_ACTIVATIONS = 40_000
"""Activations of one layer in one update of a seed, below which a CPU core vmaps its seeds."""
FOR_CPU_CORES = {"xla_cpu_enable_concurrency_optimized_scheduler": False, "xla_cpu_prefer_vector_width": 512}
"""Compiler options for a device that is one CPU core, and so one thread: no scheduling for concurrency, and the widest
vectors. Together they save 6 to 9 % of the time of training.
"""
MOST_COMPILED = 8
_COMPILED: dict[str, Any] = {}
"""The executables of the programs that were used last: initialisations and chunks, `MOST_COMPILED` at most."""


class TrainState(NamedTuple):
    """The whole training state, from which a run can resume."""

    clock: Clock
    seeds: SeedState
    """Every leaf with a leading axis S."""


Numbers = dict[str, Float[Array, "S"]]
"""The numbers of settings, for each seed (`qmix_jax.traced`). They are no part of the state: every start of a run takes
them from its settings.
"""
OfSeed = Callable[[Trainer, Clock, SeedState], tuple[SeedState, Any]]
"""(trainer with the seed's numbers, clock, one seed's state) -> (state, whatever else)."""
Begin = Callable[[Clock, SeedState], Any]
"""(clock, one seed's state) -> the carry of the first `Step`."""
Step = Callable[[Clock, SeedState, Any], tuple[SeedState, Any]]
"""One step of a part of training that is measured: (clock, one seed's state, carry) -> (state, carry)."""


class ChunkMetrics(NamedTuple):
    """What a chunk returns besides the state, for each seed (S,)."""

    training: EpisodeSums
    losses: LossMetrics
    """Sums over the chunk's updates."""
    updates: Int[Array, "S"]
    evaluation: EpisodeSums


@dataclass(frozen=True)
class Program:
    """The training program of all seeds over a mesh."""

    config: Config
    """Of several runs, that of the first, with the number of seeds of all."""
    env: TeamEnv
    mesh: Mesh
    together: tuple[Config, ...] = ()
    """The configs of several runs; empty for one run."""
    whole: "Program | None" = None
    """The program of all seeds, of which this one has some."""

    @classmethod
    def make(cls, config: Config, env: TeamEnv, devices: list | None = None) -> "Program":
        """The program on these devices (all that JAX has); raises ConfigError where they cannot share the work."""
        return cls(config, env, make_mesh(config, devices))

    @classmethod
    def of_runs(cls, configs: Sequence[Config], env: TeamEnv, mesh: Mesh | None = None) -> "Program":
        """The program of several runs with one `program_key`, on all devices that JAX has, or on those of `mesh`."""
        config = replace(configs[0], seed=0, num_seeds=sum(each.num_seeds for each in configs))
        return cls(config, env, part_of(mesh, config.num_seeds) if mesh else make_mesh(config), tuple(configs))

    def of_seeds(self, seeds: range) -> "Program":
        """The program of some of the run's seeds: each has the numbers that it has among all."""
        config = replace(self.config, seed=seeds.start, num_seeds=len(seeds))
        return ReusingProgram(config, self.env, part_of(self.mesh, len(seeds)), whole=self)

    def of_run(self, config: Config, env: TeamEnv) -> "Program":
        """The program of another run with this `program_key`, on the same devices."""
        program = Program(config, env, self.mesh)
        if config.num_seeds == self.config.num_seeds:
            vars(program)["shapes"] = self.shapes  # tracing them takes 0.15 s
        return program

    @property
    def runs(self) -> tuple[Config, ...]:
        """The config of each run."""
        return self.together or (self.config,)

    @cached_property
    def trainer(self) -> Trainer:
        """The training program of one seed on one device."""
        data = self.mesh.shape[DATA]
        return Trainer(self.config, self.env, data, axis=DATA if data > 1 else None, branches=self._is_on_cpu)

    @property
    def _is_on_cpu(self) -> bool:
        return self.mesh.devices.flat[0].platform == "cpu"

    @property
    def _specs(self) -> TrainState:
        """How each part of the state is sharded."""
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
        def init(seeds: Int[Array, "S"], numbers: Numbers) -> TrainState:
            zero = jnp.array(0, jnp.int32)
            start = jax.vmap(lambda seed, numbers: self.trainer.with_numbers(numbers).init(seed))
            return TrainState(Clock(zero, zero), start(seeds, numbers))

        return jax.jit(self._map(init, (P(SEED), P(SEED)), self._specs))

    @cached_property
    def numbers(self) -> Numbers:
        """The settings' numbers, sharded as the seeds are."""
        each = [numbers(config) for config in self.runs for _ in range(config.num_seeds)]
        arrays = {name: np.array([one[name] for one in each], np.float32) for name in each[0]}
        return hosts.place(arrays, {name: shape.sharding for name, shape in self._shapes_of_numbers.items()})

    @cached_property
    def _shapes_of_numbers(self) -> dict[str, jax.ShapeDtypeStruct]:
        """With their sharding. Programs are compiled from shapes, so also for devices that are not here."""
        shape = jax.ShapeDtypeStruct((self.config.num_seeds,), np.float32, sharding=NamedSharding(self.mesh, P(SEED)))
        return dict.fromkeys(numbers(self.config), shape)

    @property
    def _seeds(self) -> Array:
        return jnp.concatenate([config.seed + jnp.arange(config.num_seeds) for config in self.runs])

    def init(self) -> TrainState:
        """The state before the first step: seed i of a run is `config.seed + i`."""
        return self.compile_init()(self._seeds, self.numbers)

    def compile_init(self) -> Any:
        """`seeds, numbers -> state` before the first step, as an executable."""
        return compile_quickly(self.lower_init())

    def lower_init(self) -> Any:
        """`seeds, numbers -> state` before the first step, lowered."""
        return self._init.lower(self._seeds, self._shapes_of_numbers)

    @cached_property
    def shapes(self) -> TrainState:
        """The global shapes of the state and their shardings, without computing it."""
        init = self._init, self._seeds, self._shapes_of_numbers
        shapes = jax.eval_shape(*init) if self.whole is None else self._shapes_of_part

        def with_sharding(spec: P, part: Any) -> Any:
            sharding = NamedSharding(self.mesh, spec)
            return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), part)

        return jax.tree.map(with_sharding, self._specs, shapes, is_leaf=lambda leaf: isinstance(leaf, P))

    @property
    def _shapes_of_part(self) -> TrainState:
        """From those of all seeds, which are known: an evaluation takes up to a second."""
        clock, seeds = self.whole.shapes  # pyright: ignore[reportOptionalMemberAccess]

        def own(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((self.config.num_seeds, *leaf.shape[1:]), leaf.dtype)

        return TrainState(clock, jax.tree.map(own, seeds))

    def place(self, state: TrainState) -> TrainState:
        """A state from the host, sharded over the devices."""
        return hosts.place(state, jax.tree.map(lambda shape: shape.sharding, self.shapes))

    def chunk(self, state: TrainState, numbers: Numbers) -> tuple[TrainState, ChunkMetrics]:
        """Iterations of training, then a greedy evaluation; `compile_chunk` compiles it."""
        return self._map(self._device_chunk, (self._specs, P(SEED)), (self._specs, P(SEED)))(state, numbers)

    def _device_chunk(self, state: TrainState, numbers: Numbers) -> tuple[TrainState, ChunkMetrics]:
        seeds, metrics = self._over_seeds(self._seed_chunk)(*state, numbers)
        iteration = state.clock.iteration + self.config.iterations_per_chunk
        return TrainState(state.clock._replace(iteration=iteration), seeds), metrics

    def _seed_chunk(self, trainer: Trainer, clock: Clock, seed: SeedState) -> tuple[SeedState, ChunkMetrics]:
        def iteration(carry: tuple[Clock, SeedState], _) -> tuple[tuple[Clock, SeedState], StepMetrics]:
            clock, seed = carry
            seed, metrics = trainer.step(clock, seed)
            return (clock._replace(iteration=clock.iteration + 1), seed), metrics

        (clock, seed), metrics = lax.scan(iteration, (clock, seed), length=self.config.iterations_per_chunk)
        metrics = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), metrics)
        local = metrics.episodes, trainer.evaluate(clock, seed)
        episodes, evaluation = sum_over_devices(local, trainer.axis)
        return seed, ChunkMetrics(episodes, metrics.losses, metrics.updates, evaluation)

    def _over_seeds(self, function: OfSeed) -> Callable:
        """`clock, seeds, numbers -> seeds, out` over the seeds of a device, with one clock: vmapped, or scanned."""

        def of_seed(clock: Clock, seed: SeedState, numbers: dict[str, Array]) -> tuple[SeedState, Any]:
            return function(self.trainer.with_numbers(numbers), clock, seed)

        if self.vmaps_seeds:
            return jax.vmap(of_seed, in_axes=(None, 0, 0))

        def scan(clock: Clock, seeds: SeedState, numbers: Numbers) -> tuple[SeedState, Any]:
            def one(seeds: SeedState, i: Array) -> tuple[SeedState, Any]:
                seed, out = of_seed(clock, *jax.tree.map(lambda leaf: leaf[i], (seeds, numbers)))
                return jax.tree.map(lambda old, new: lax.dynamic_update_index_in_dim(old, new, i, 0), seeds, seed), out

            return lax.scan(one, seeds, jnp.arange(len(seeds.key)))

        return scan

    @cached_property
    def vmaps_seeds(self) -> bool:
        """Whether a device vmaps its seeds; a CPU core scans over them unless each is small.

        On a core, vmapping large seeds outgrows the cache, and scanning over small ones costs overhead in every
        operation. Measured with 8 or 10 seeds on 2 cores: a scan is 1.2 times as fast on 2s3z (340,000 activations of a
        layer in an update), 1.35 times on simple_spread (160,000), and 0.7 times on the two-step game (12,000).
        """
        config = self.config
        if config.num_seeds == self.mesh.shape[SEED]:
            return False
        steps = config.learner.batch_size * (config.rollout.num_steps + 1)
        activations = steps * self.env.spec.num_agents * num_features(self.trainer.agents) // self.mesh.shape[DATA]
        return not self._is_on_cpu or activations < FEW_ACTIVATIONS

    def compile_chunk(self) -> Any:
        """The chunk as an executable; the state is donated."""
        return self._compile(self.lower_chunk())

    def lower_chunk(self) -> Any:
        """The chunk, lowered; the state is donated."""
        return jax.jit(self.chunk, donate_argnums=0).lower(self.shapes, self._shapes_of_numbers)

    def _compile(self, lowered: Any) -> Any:
        """An executable for the mesh's devices."""
        return compile_with(lowered, FOR_CPU_CORES if self._is_on_cpu else {})

    def start(self, make_state: Callable[[], TrainState]) -> tuple[TrainState, Callable]:
        """The result of `make_state` and the compiled chunk, made in parallel, since tracing uses only one core."""
        with ThreadPoolExecutor(1) as executor:
            state = executor.submit(make_state)
            chunk = self.compile_chunk()
            return jax.block_until_ready(state.result()), chunk

    def compute(self, function: Callable[[Trainer, Clock, SeedState], Any], state: TrainState) -> Any:
        """`function(trainer, clock, one seed's state)` for all seeds, which returns arrays sharded as replay is."""

        def of_seed(clock: Clock, seed: SeedState, numbers: dict[str, Array]) -> Any:
            return function(self.trainer.with_numbers(numbers), clock, seed)

        mapped = self._map(jax.vmap(of_seed, (None, 0, 0)), (*self._specs, P(SEED)), P(SEED, DATA))
        return jax.jit(mapped)(*state, self.numbers)

    def compile_loop(self, make: Callable[[Trainer], tuple[Begin, Step]], state: TrainState) -> Any:
        """`state, numbers, count -> state, carry` as an executable that repeats the step that `make` returns `count`
        times; the state is donated.

        For measuring a part of training as training runs it: on every device of the mesh, over its seeds.
        """

        def loop(state: TrainState, numbers: Numbers, count: Int[Array, ""]) -> tuple[TrainState, Any]:
            def of_seed(trainer: Trainer, clock: Clock, seed: SeedState) -> tuple[SeedState, Any]:
                begin, step = make(trainer)

                def body(_, loop_carry):
                    clock, seed, carry = lax.optimization_barrier(loop_carry)  # no operation is hoisted out of the loop
                    seed, carry = step(clock, seed, carry)
                    return clock._replace(iteration=clock.iteration + 1), seed, carry

                _, seed, carry = lax.fori_loop(0, count, body, (clock, seed, begin(clock, seed)))
                return seed, carry

            seeds, carry = self._over_seeds(of_seed)(*state, numbers)
            return TrainState(state.clock._replace(iteration=state.clock.iteration + count), seeds), carry

        mapped = self._map(loop, (self._specs, P(SEED), P()), (self._specs, P((SEED, DATA))))
        return self._compile(jax.jit(mapped, donate_argnums=0).lower(state, self.numbers, np.int32(1)))

    def compile_record(self, params: Params, episodes: int) -> Any:
        """`params, key -> RecordedEpisodes` of greedy episodes, as an executable for one device."""

        def play(params: Params, key: jax.Array) -> RecordedEpisodes:
            trainer = self.trainer
            return record(self.env, trainer.agents, trainer.learner.mixer, params, episode_keys(key, episodes))

        return compile_quickly(jax.jit(play).lower(params, jax.random.key(0)))


class ReusingProgram(Program):
    """A program that takes what an earlier equal one of the process compiled.

    Programs of this package's parts are equal where their settings are. Somebody else's code may change while its
    settings stay the same, in a notebook say, so there the lowered programs are compared.
    """

    def compile_init(self) -> Any:
        """`seeds, numbers -> state` before the first step, as an executable."""
        return self._compiled_once("init", self.lower_init, compile_quickly)

    def compile_chunk(self) -> Any:
        """The chunk as an executable; the state is donated."""
        return self._compiled_once("chunk", self.lower_chunk, self._compile)

    def _compiled_once(self, what: str, lower: Callable[[], Any], compile_: Callable[[Any], Any]) -> Any:
        lowered = lower() if has_parts_from_elsewhere(self.config) else None
        program = program_key(self.config) if lowered is None else fingerprint(lowered)
        key = f"{what} {program} {self.mesh.devices.tolist()} {self.mesh.shape}"
        found = _COMPILED.pop(key, None) or compile_(lowered or lower())
        _COMPILED[key] = found
        for oldest in list(_COMPILED)[:-MOST_COMPILED]:
            _COMPILED.pop(oldest, None)
        return found


def describe_memory(shapes: TrainState) -> dict[str, int]:
    """Bytes of each part of the state, over all devices."""
    seeds = shapes.seeds
    return {
        "replay": tree_bytes(seeds.replay),
        "parameters": tree_bytes(seeds.learner.params),
        "learner": tree_bytes(seeds.learner),
        "rollout": tree_bytes(seeds.rollout),
    }

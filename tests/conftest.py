"""Four simulated devices, checked shapes, and one tiny world that most tests share."""

import gc
import itertools
import os
import tempfile
from importlib.metadata import version

QUICK_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
QUICK_COMPILE += " --xla_cpu_parallel_codegen_split_count=1"
WITHOUT_FUSION = "--xla_cpu_use_fusion_emitters=false"
if version("jaxlib") < "0.11":  # later ones have no such flag
    QUICK_COMPILE += f" {WITHOUT_FUSION}"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_COMPILE}"  # the tests are all compilation
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # one for all processes of a test run
    CACHE = tempfile.TemporaryDirectory(prefix="qmix-jax-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
gc.set_threshold(50_000, 20, 20)  # while JAX traces, the default takes a twelfth of the time

pytest_plugins = ["resuming", "exporting"]

import jax  # noqa: E402

jax.config.update("jax_num_cpu_devices", 4)
jax.devices()  # started: nothing changes the number afterwards

from beartype import BeartypeConf, BeartypeHintOverrides, beartype  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

CHECKED = "actions agents envs learning mixers nn types"
checked = beartype(conf=BeartypeConf(hint_overrides=BeartypeHintOverrides({float: float | jax.Array})))
"""A setting that is a number may be traced."""
install_import_hook([f"qmix_jax.{name}" for name in CHECKED.split()], "conftest.checked")

from functools import cache, partial  # noqa: E402
from pathlib import Path  # noqa: E402

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

from qmix_jax.build import from_mapping, make_env  # noqa: E402
from qmix_jax.config import Config  # noqa: E402
from qmix_jax.run.checkpoint import write  # noqa: E402
from qmix_jax.run.program import Program  # noqa: E402
from qmix_jax.run.snapshot import PARAMS, Snapshot, to_host  # noqa: E402
from qmix_jax.types import MixerInput  # noqa: E402


def merge(base: dict, changes: dict) -> dict:
    """`base` with `changes`, nested dictionaries merged."""
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = merge(base.get(key, {}), value) if isinstance(value, dict) else value
    return merged


TINY = {
    "total_env_steps": 160,
    "env": {"name": "probe", "episode_length": 5, "ends": "random", "starts_per_rollout": 8},
    "algorithm": {"name": "qmix", "embed_size": 4, "hypernet_size": 8},
    "agent": {"hidden_size": 8},
    "rollout": {"num_envs": 4, "num_steps": 8},
    "exploration": {"start": 1.0, "finish": 0.1, "decay_env_steps": 100},
    "replay": {"capacity": 128},
    "learner": {"batch_size": 8, "env_steps_per_update": 16, "start_env_steps": 60, "learning_rate": 0.01},
    "target": {"every_env_steps": 96},
    "evaluation": {"every_env_steps": 64, "episodes": 8},
    "logging": {"display": "none"},
}


def tiny(**changes) -> Config:
    """A config that compiles in a second: the probe world, 4 environments x 8 steps, network of width 8."""
    return from_mapping(merge(TINY, changes))


@pytest.fixture(scope="session")
def probe():
    """The probe world with episodes of random length, half of them truncated."""
    return make_env(tiny().env)


class Trained:
    """A program run for three chunks."""

    def __init__(self, probe, devices, **changes):
        self.config = tiny(devices=devices, **changes)
        self.program = Program.make(self.config, probe)
        self.shapes = self.program.shapes
        self.init, self.chunk = self.program.compile_init(), self.program.compile_chunk()
        self.state, self.metrics = self.run(range(self.config.seed, self.config.seed + self.config.num_seeds))

    def run(self, seeds):
        """The state after three chunks, and the metrics of each."""
        numbers, metrics = self.program.numbers, []
        state = self.init(jnp.array(seeds), numbers)
        for _ in range(3):
            state, of_chunk = self.chunk(state, numbers)
            metrics.append(jax.device_get(of_chunk))
        return state, metrics


@pytest.fixture(scope="session")
def train(probe):
    """Compiles and runs a program, the first time that it is needed."""

    trained = cache(partial(Trained, probe))
    return lambda devices, matmul_dtype="float32": trained(devices, matmul_dtype=matmul_dtype)


@pytest.fixture(params=[1, 2], ids="{}-device".format)
def trained(request, train):
    """One program on one and two devices."""
    return train(devices=request.param)


def untrained_run(folder: Path, settings: dict) -> Path:
    """The folder of a run that has learnt nothing: settings and fresh parameters."""
    config = from_mapping(settings)
    state = Program.make(config, make_env(config.env)).init()
    folder.mkdir()
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(settings)))
    write(folder, Snapshot(0, {PARAMS: to_host(state.seeds.learner.params)}, "", {}))
    return folder


def input_of(q, action, state, hidden):
    """What a mixer sees of a joint action (B, N), for Q-values (B, N, A) of actions that are all legal."""
    return MixerInput(
        chosen_q=jnp.take_along_axis(q, action[..., None], -1)[..., 0],
        greedy_q=q.max(-1),
        action=jax.nn.one_hot(action, q.shape[-1]),
        is_greedy=action == q.argmax(-1),
        hidden=hidden,
        state=state,
    )


SPECIAL = np.array(
    [np.nan, np.inf, -np.inf, 3.4028235e38, -3.4028235e38, 0, -0.0, 1.2e-38, -1, 1, 1.0000001], np.float32
)


def strange_values(*shape):
    """Float32 of every kind: half of them special ones, half any bits at all (but for subnormal numbers: 0)."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, shape, np.uint32).view(np.float32)
    values = np.where(rng.random(shape) < 0.5, rng.choice(SPECIAL, shape), bits)
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, np.float32(0), values)


def masks(num_actions):
    """Every availability of so many actions in which one is legal: (2^A - 1, A)."""
    return np.array(list(itertools.product([False, True], repeat=num_actions)))[1:]


def best_legal(q, available):
    """The action that is to be chosen: the first with the largest legal value, where NaN and -inf are the lowest."""
    lowest = np.finfo(np.float32).min
    values = [(q[a] if q[a] > lowest else lowest, -a) for a in np.flatnonzero(available)]
    return -max(values)[1]


def random_params(seed, shapes):
    """Normal parameters of these shapes, biases too, without an initialiser, which would have to be compiled."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), shapes)

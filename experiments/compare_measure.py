"""The measuring processes of compare_jaxmarl.py: one job, one process, one JSON file.

python experiments/compare_measure.py '{"job": ..., "arguments": {...}, "result": "FILE.json"}'
"""

import copy
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from qmix_jax.reporters.metrics_file import MetricsFile
from qmix_jax.settings import ConfigError

SCRIPTS = {name: Path(f"baselines/QLearning/{name}_rnn.py") for name in ("qmix", "pqn_vdn")}
"""JaxMARL's training script for each algorithm."""
USAGE_ERROR = 2
POOL = 8
"""Threads that JaxMARL gets for several seeds."""
UNUSED = "wandb", "seaborn"
"""Packages that JaxMARL's script and gymnax import and that nothing measured here calls; a machine may lack them."""

# --- this side ---------------------------------------------------------------------------------------------------


def our_program(overrides: list[str]) -> Any:
    """The training program, not yet compiled."""
    from qmix_jax.build import from_mapping
    from qmix_jax.cli.compose import compose
    from qmix_jax.run.devices import use_cpu_cores

    config = from_mapping(compose(overrides))
    use_cpu_cores(config.devices)
    from qmix_jax.run.experiment import check

    return check(config)


def our_speed(overrides: list[str], warm_chunks: int, timed_chunks: int) -> dict:
    """Compile, warm up, and time chunks as a run of the command line does."""
    program = our_program(overrides)
    import jax

    begun = time.perf_counter()
    state, chunk = program.start(program.init)
    compile_seconds = time.perf_counter() - begun
    for _ in range(warm_chunks):
        state, _ = jax.block_until_ready(chunk(state, program.numbers))
    updates, begun = 0, time.perf_counter()
    for _ in range(timed_chunks):
        state, metrics = chunk(state, program.numbers)
        updates += int(jax.device_get(metrics).updates[0])
    jax.block_until_ready(state)
    seconds = time.perf_counter() - begun
    return {"compile_seconds": compile_seconds, "seconds": seconds, "updates": updates, "devices": program.mesh.size}


def our_memory(overrides: list[str]) -> dict:
    """Bytes of replay, without making it."""
    from qmix_jax.run.program import describe_memory

    program = our_program(overrides)
    transitions = program.config.replay_sequences * program.config.rollout.num_steps
    return {"bytes": describe_memory(program.shapes)["replay"], "transitions": transitions}


# --- JaxMARL -----------------------------------------------------------------------------------------------------


class MissingPackageError(Exception):
    """JaxMARL's script needs a package that is not installed."""


def import_peer(checkout: str, algorithm: str = "qmix") -> Any:
    """JaxMARL's script as a module, with the checkout's own jaxmarl."""
    sys.path.insert(0, checkout)
    script = Path(checkout) / SCRIPTS[algorithm]
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec and spec.loader
    for name in UNUSED:
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = ModuleType(name)
    module = importlib.util.module_from_spec(spec)
    streams = sys.stdout, sys.stderr
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        raise MissingPackageError(f"JaxMARL's script needs the package {name}: pip install {name}") from error
    finally:
        sys.stdout, sys.stderr = streams  # importing jaxmarl replaces them
    return module


def peer_train(peer: Any, settings: dict, iterations: int, chunk: int) -> Callable:
    """JaxMARL's training function of one seed: `iterations` rollouts, a greedy evaluation every `chunk`."""
    settings = copy.deepcopy(settings)  # JaxMARL's functions write into it
    env, _ = peer.env_from_config(settings)
    settings["TOTAL_TIMESTEPS"] = iterations * settings["NUM_ENVS"] * settings["NUM_STEPS"]
    settings["TEST_INTERVAL"] = (chunk + 0.5) / iterations  # JaxMARL multiplies and rounds down
    settings["TEST_NUM_STEPS"] = env.max_steps + 1  # one whole episode: JaxMARL tests the limit before it counts
    return peer.make_train(settings, env)


def run_peer(train: Callable, seeds: int, seed: int = 0) -> dict:
    """Compile and run as JaxMARL's script does: a jit of a vmap over seeds."""
    import jax

    keys = jax.random.split(jax.random.PRNGKey(seed), seeds)
    begun = time.perf_counter()
    compiled = jax.jit(jax.vmap(train)).lower(keys).compile()
    compile_seconds, begun = time.perf_counter() - begun, time.perf_counter()
    state = jax.block_until_ready(compiled(keys))["runner_state"][0]
    seconds = time.perf_counter() - begun
    return {"compile_seconds": compile_seconds, "seconds": seconds, "updates": int(state.grad_steps.ravel()[0])}


def peer_speed(checkout: str, settings: dict, seeds: int, chunk: int, warm: int, timed: int) -> dict:
    """A run of the warm-up alone, and one that goes on: what lies between is the time on the clock.

    Its orthogonal initialisers, vmapped over seeds, wait for each other for ever in XLA's pool of two threads (jaxlib
    0.10.2 on two cores), so with several seeds the pool is larger.
    """
    if seeds > 1:
        os.environ.setdefault("PJRT_NPROC", str(max(POOL, os.cpu_count() or 1)))
    peer = import_peer(checkout)
    short, long = (run_peer(peer_train(peer, settings, length, chunk), seeds) for length in (warm, warm + timed))
    between = {key: long[key] - short[key] for key in ("seconds", "updates")}
    return {"compile_seconds": short["compile_seconds"], **between, "devices": 1}


def peer_memory(checkout: str, settings: dict) -> dict:
    """Bytes of the replay that JaxMARL's script would make, without making it."""
    import jax

    from qmix_jax.types import tree_bytes

    train = peer_train(import_peer(checkout), settings, iterations=1, chunk=1)
    buffer = jax.eval_shape(train, jax.random.PRNGKey(0))["runner_state"][1]
    return {"bytes": tree_bytes(buffer), "transitions": buffer.experience.rewards["__all__"].size}


def peer_score(
    checkout: str,
    algorithm: str,
    settings: dict,
    iterations: int,
    chunk: int,
    score: str,
    peer_score: str,
    seed: int,
    folder: str,
) -> dict:
    """Train, writing every evaluation into the folder's metrics.jsonl as it comes, under this side's name of the score.

    JaxMARL's script hands its metrics to `wandb.log` after each rollout; here it finds this function in its place.
    """
    peer, file = import_peer(checkout, algorithm), MetricsFile(Path(folder))

    def log(values: dict, step: Any = None) -> None:
        del step  # of PQN-VDN's script
        if int(values["update_steps"]) % chunk == 0:
            file.on_evaluation({"env_steps": int(values["env_step"]), score: [float(values[peer_score])]})

    peer.wandb = SimpleNamespace(log=log)
    return run_peer(peer_train(peer, {**settings, "WANDB_MODE": "offline"}, iterations, chunk), seeds=1, seed=seed)


JOBS = {job.__name__: job for job in (our_speed, our_memory, peer_speed, peer_memory, peer_score)}


def main(jobs: dict[str, Callable[..., dict]] = JOBS) -> int:
    """Do one of the jobs; returns 2 where one line on stderr says what is wrong."""
    order = json.loads(sys.argv[1])
    try:
        result = jobs[order["job"]](**order["arguments"])
    except (ConfigError, MissingPackageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    Path(order["result"]).write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())

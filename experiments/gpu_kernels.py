"""Count the kernels that a GPU runs for training, in the program as XLA compiles it for an H100. No GPU is needed.

    pip install 'jax[cuda13]'                       # the compiler; in an environment of its own, it is 4 GB
    python experiments/gpu_kernels.py               # QMIX on SMAX 2s3z
    python experiments/gpu_kernels.py +preset=jaxmarl_mpe num_seeds=64
    python experiments/gpu_kernels.py --peer JaxMARL --case simple_spread      # JaxMARL's program of the same work

One kernel after the other, each waits a microsecond or more to be started, and with networks this small that is what a
GPU spends its time on. At a branch, and at each turn of a loop of unknown length, the GPU moreover waits for the host.
So both numbers, for an iteration (a rollout and its updates), say what to mend where no GPU can be had to measure on.
They are no measurement of time. An evaluation is a loop beside that of the iterations; JaxMARL's is left out. Matrix
products are cuBLAS's here, since Triton's are chosen by trying them on a GPU.
"""

import argparse
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from qmix_jax.bench.profile import without_loops
from qmix_jax.settings import ConfigError

H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 device_memory_size: 84942979072 l2_cache_size: 52428800
}
"""
FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all"}
"""Operations that start nothing."""
FLAGS = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"


class Loop(NamedTuple):
    """A computation of the program that is run again and again."""

    name: str
    turns: int | None
    """None where the length is not known before."""
    kernels: int
    """Of one turn, without the loops inside."""
    branches: int
    inner: list["Loop"]

    @property
    def total(self) -> int:
        """Kernels of all turns, with the loops inside (of those of unknown length: one turn)."""
        return (self.turns or 1) * (self.kernels + sum(loop.total for loop in self.inner))

    @property
    def waits(self) -> int:
        """How often the GPU waits for the host in all turns."""
        own = self.branches + (self.turns is None)
        return (self.turns or 1) * (own + sum(loop.waits for loop in self.inner))


def h100() -> Any:
    """An H100 to compile for, which need not be here."""
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc("h100", "cuda", topology="1x1x1", target_config=H100).devices[0]
    except NotImplementedError:
        raise SystemExit("the compiler for NVIDIA GPUs is missing; pip install 'jax[cuda13]'") from None


def computations(program: str) -> tuple[str, dict[str, list[str]]]:
    """The entry's name, and the instructions of every computation, from a compiled program's text."""
    entry, name, bodies = "", "", {}
    for line in re.sub(r"/\*.*?\*/", "", program).splitlines():
        head = re.match(r"(ENTRY )?%([\w.\-]+) \(.*\{$", line)
        if head:
            name = head[2]
            entry, bodies[name] = name if head[1] else entry, []
        elif name and " = " in line:
            bodies[name].append(line)
    return entry, bodies


def operation(line: str) -> str:
    """The name of an instruction's operation."""
    match = re.search(r" = (?:\(.*?\)|\S+) ([\w\-]+)\(", line)
    return match[1] if match else ""


def read_loop(bodies: dict[str, list[str]], body: str, name: str = "", turns: int | None = 1) -> Loop:
    """A loop by the name of its body. Of a branch's sides the one with most kernels counts."""
    kernels, branches, inner = 0, 0, []
    for line in bodies[body]:
        kind = operation(line)
        if kind == "while":
            length = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            inner.append(read_loop(bodies, called(line, "body")[0], told_by(line), int(length[1]) if length else None))
        elif kind == "conditional":
            sides = [read_loop(bodies, side) for side in called(line, "branch_computations|true_computation")]
            dearest = max(sides, key=lambda side: side.total)
            kernels, branches = kernels + dearest.kernels, branches + 1 + dearest.branches
            inner += dearest.inner
        elif kind == "call":
            side = read_loop(bodies, called(line, "to_apply")[0])
            kernels, branches, inner = kernels + side.kernels, branches + side.branches, inner + side.inner
        elif kind not in FREE and not kind.endswith("-done"):
            kernels += 1
    return Loop(name, turns, kernels, branches, inner)


def called(line: str, attribute: str) -> list[str]:
    """The computations that an instruction names in an attribute."""
    match = re.search(rf"(?:{attribute})=(\{{.*?\}}|%[\w.\-]+)", line)
    sides = re.findall(r"%([\w.\-]+)", match[1] if match else "")
    return sides + re.findall(r"false_computation=%([\w.\-]+)", line)


def told_by(line: str) -> str:
    """Where in the Python program an instruction comes from: what is around it, without loops and branches."""
    match = re.search(r'op_name="(.*?)"', line)
    return without_loops(match[1] if match else "") or "loop"


def rows(loop: Loop, depth: int = 0) -> Iterator[str]:
    """The lines of the table, outer loops first."""
    turns = "?" if loop.turns is None else f"{loop.turns:,}"
    indent = "&nbsp;" * 4 * depth
    yield f"| {indent}{loop.name} | {turns} | {loop.kernels:,} | {loop.total:,} | {loop.waits:,} |"
    for inner in loop.inner:
        yield from rows(inner, depth + 1)


def read_program(program: str) -> Loop:
    """A compiled program's text as one loop of one turn."""
    entry, bodies = computations(program)
    return read_loop(bodies, entry)


def of_an_iteration(whole: Loop) -> tuple[float, float]:
    """Kernels and waits for the host of an iteration: of a turn of the loop that has most kernels."""
    iterations = max((loop for loop in whole.inner if loop.turns), key=lambda loop: loop.total)
    assert iterations.turns
    return iterations.total / iterations.turns, iterations.waits / iterations.turns


def show(program: str, env_steps: int) -> str:
    """The table, and what an iteration of `env_steps` environment steps comes to."""
    whole = read_program(program)
    kernels, waits = of_an_iteration(whole)
    heads = "| loop | turns | kernels a turn | kernels in all | waits for the host |\n| --- | --- | --- | --- | --- |"
    lines = [heads, *(line for loop in whole.inner for line in rows(loop))]
    summary = (
        f"An iteration of {env_steps:,} environment steps: {kernels:,.0f} kernels, {waits:,.0f} waits for the host"
    )
    return "\n".join([*lines, "", f"{summary}; {kernels / env_steps:.2f} kernels an environment step."])


def ours(overrides: list[str], device: Any = None) -> tuple[str, int]:
    """This project's chunk of training, and the environment steps of an iteration of all seeds.

    Args:
        overrides: settings.
        device: what to compile for; an H100 where none is given.
    """
    from qmix_jax.build import from_mapping, make_env
    from qmix_jax.cli.compose import compose
    from qmix_jax.run.program import Program

    config = from_mapping(compose(overrides))
    program = Program.make(config, make_env(config.env), [device or h100()])
    return program.compile_chunk().as_text(), config.iteration_env_steps * config.num_seeds


def peers(checkout: Path, case: str, seeds: int) -> tuple[str, int]:
    """JaxMARL's program, as experiments/compare_jaxmarl.py measures its speed, with 10 iterations and no evaluation."""
    from compare_jaxmarl import CASES, peer_settings, rollout_steps
    from compare_measure import import_peer, peer_train

    if not (checkout / "baselines/QLearning").is_dir():
        raise SystemExit(f"error: {checkout} is no checkout of JaxMARL")
    if case not in CASES:
        raise SystemExit(f"error: --case is one of {', '.join(CASES)}, not {case}")
    arguments = argparse.Namespace(checkout=checkout, eval_episodes=0, set=[])
    settings = peer_settings(arguments, CASES[case], CASES[case].same_work)
    train = peer_train(import_peer(str(checkout)), settings, iterations=10, chunk=5)
    place = jax.sharding.SingleDeviceSharding(h100())
    keys = jax.ShapeDtypeStruct((seeds, 2), "uint32", sharding=place)
    return jax.jit(jax.vmap(train)).lower(keys).compile().as_text(), rollout_steps(settings) * seeds


def main() -> None:
    """Compile and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, metavar="DIR", help="count JaxMARL's program, of this checkout")
    parser.add_argument("--case", default="2s3z", help="the peer's task: 3m, 2s3z or simple_spread (default 2s3z)")
    parser.add_argument("--seeds", type=int, default=1, help="the peer's seeds (default 1)")
    arguments, overrides = parser.parse_known_args()
    jax.config.update("jax_platforms", "cpu")  # what is not compiled for the H100 is done here
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
    try:
        program = peers(arguments.peer, arguments.case, arguments.seeds) if arguments.peer else ours(overrides)
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from None
    print(show(*program))


if __name__ == "__main__":
    main()

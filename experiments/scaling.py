"""Many devices: what they exchange and keep, what that would cost elsewhere, and how training learns on them.

    python experiments/scaling.py counts       # from compiled programs: bytes of an update, replay of a device
    python experiments/scaling.py curves       # learning curves on 1, 2, 4 and 8 simulated devices

Prints tables for docs/scaling.md, and writes the numbers to NAME.json in the folder `--out`. `--case` chooses tasks.
"""

import argparse
import itertools
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qmix_jax.bench.report import table
from qmix_jax.build import from_mapping, make_env
from qmix_jax.cli.compose import compose
from qmix_jax.config import Config
from qmix_jax.files import write_json
from qmix_jax.run.program import Program, ReusingProgram
from qmix_jax.run.startup import start_jax
from qmix_jax.statistics import mean_over_seeds
from qmix_jax.types import tree_bytes

CASES = {
    "2s3z": [],
    "3m": ["env.map=3m"],
    "simple_spread": ["+preset=jaxmarl_mpe"],
    "27m_vs_30m": ["env.map=27m_vs_30m"],
}
DEVICES = (1, 8, 256)
"""For which the tables say what a device keeps and exchanges."""


def from_overrides(overrides: list[str]) -> Config:
    """The settings as the command line composes them."""
    return from_mapping(compose(overrides))


# --- what devices exchange and keep ----------------------------------------------------------------------------------

COLLECTIVES = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"


class Collective(NamedTuple):
    """An operation of a compiled program in which devices exchange arrays."""

    name: str
    """XLA's."""
    bytes: int
    """Of the result on one device."""
    groups: str
    """The devices that exchange with each other: {{0,1},{2,3}}."""
    origin: str
    """Where in the Python program it comes from."""


def collectives(program: str) -> list[Collective]:
    """The collectives in a compiled program's text, each once, however often a loop repeats it."""
    lines = re.findall(rf"^.* = (.+?) ((?:ragged-)?(?:{COLLECTIVES}))(?:-start)?\((.*)$", program, re.MULTILINE)
    return [
        Collective(name, size_of(result), groups_of(rest), found(r'op_name="(.*?)"', rest))
        for result, name, rest in lines
    ]


def groups_of(operation: str) -> str:
    """The groups of devices in an operation's text; JAX 0.12 names axes: mesh['seed'=2,'data'=4] {'data'}."""
    mesh = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", operation)
    if not mesh:
        return found(r"replica_groups=(\S+),", operation)
    axes, shared = mesh.groups()
    names, sizes = zip(*re.findall(r"'(\w+)'=(\d+)", axes), strict=True)
    order = sorted(range(len(names)), key=lambda i: f"'{names[i]}'" in shared)  # shared axes last
    devices = np.arange(math.prod(map(int, sizes))).reshape([int(size) for size in sizes]).transpose(order)
    count = math.prod(int(size) for name, size in zip(names, sizes, strict=True) if f"'{name}'" in shared)
    return str(devices.reshape(-1, count).tolist()).translate(str.maketrans("[]", "{}", " "))


def size_of(result: str) -> int:
    """Bytes of all arrays in a type such as `(f32[3,4]{1,0}, pred[])`."""
    arrays = re.findall(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]", result)
    return sum(int(bits or 8) // 8 * math.prod(map(int, filter(None, sizes.split(",")))) for _, bits, sizes in arrays)


def found(pattern: str, text: str) -> str:
    """The pattern's group in a text, or ''."""
    match = re.search(pattern, text)
    return match[1] if match else ""


class Counts(NamedTuple):
    """What a task's run exchanges and keeps, with one seed on several devices."""

    parameters: int
    update_bytes: int
    """Of an update's all-reduces, on each device."""
    update_all_reduces: int
    chunk_bytes: int
    """Of all others, once a chunk."""
    env_steps_per_update: float
    replay_bytes: int
    """Of all devices together."""


def count(case: str, devices: int = 8) -> Counts:
    """Compile a task's chunk for simulated devices, and read what it exchanges and keeps."""
    config = from_overrides([*CASES[case], f"devices={devices}"])
    program = Program.make(config, make_env(config.env))
    exchanged = collectives(program.compile_chunk().as_text())
    assert {each.name for each in exchanged} == {"all-reduce"}
    update = [each.bytes for each in exchanged if "/learn/" in each.origin]
    return Counts(
        parameters=tree_bytes(program.shapes.seeds.learner.params) // 4,
        update_bytes=sum(update),
        update_all_reduces=len(update),
        chunk_bytes=sum(each.bytes for each in exchanged) - sum(update),
        env_steps_per_update=config.learner.env_steps_per_update,
        replay_bytes=tree_bytes(program.shapes.seeds.replay),
    )


def show_counts(counts: dict[str, Counts]) -> str:
    """Kilobytes and megabytes of each task, and what an all-reduce takes by the model."""
    head = ["", "parameters", "kB an update", "all-reduces an update", "bytes a chunk", "env steps an update"]
    head += [f"replay MB on {devices}" for devices in DEVICES]
    rows = [
        [
            case,
            f"{each.parameters:,}",
            f"{each.update_bytes / 1e3:,.0f}",
            str(each.update_all_reduces),
            str(each.chunk_bytes),
            f"{each.env_steps_per_update:g}",
            *(f"{each.replay_bytes / devices / 1e6:,.2f}" for devices in DEVICES),
        ]
        for case, each in counts.items()
    ]
    return table(head, rows)


# --- what that would cost elsewhere: a projection --------------------------------------------------------------------

ITERATIONS = {"simple_spread": (1.53e-3, 208), "2s3z": (5.28e-3, 1_024)}
"""Seconds and environment steps of an iteration, measured on one H200 (gpu/h200/measured.json)."""
GPUS_OF_HOST, CORES_OF_HOST = 8, 2


def nccl_seconds(size: int, gpus: int) -> float:
    """An all-reduce of `size` bytes among H100s, eight a host, by the model that NCCL itself chooses algorithms by
    (src/graph/tuning.cc, commit b647562): a tree with the protocol LL, 0.6 us a step of NVLink, 5 us one of the
    network, 6.8 us in any case; 87.7 GB/s within a host and 20.4 GB/s between hosts, in both directions together.
    """
    hosts = math.ceil(gpus / GPUS_OF_HOST)
    steps = (math.ceil(gpus / hosts) - 1) * 0.6 + math.log2(hosts) * 5.0
    return (6.8 + 2 * steps) * 1e-6 + size / ((87.7e9 if hosts == 1 else 20.4e9) / 2)


def ring_seconds(size: int, hosts: int, latency: float = 50e-6, bandwidth: float = 1.25e9) -> float:
    """An all-reduce of `size` bytes in a ring of hosts (Gloo's), by default with 10-gigabit Ethernet and an assumed 50
    us a message.
    """
    return 2 * (hosts - 1) * (latency + size / hosts / bandwidth)


def hosts_until(size: int, seconds: float) -> int:
    """The number of hosts from which a ring all-reduce takes longer than `seconds` of work that they share, as said in
    docs/scaling.md.
    """
    return next(hosts for hosts in itertools.count(2) if ring_seconds(size, hosts) > seconds / hosts)


def show_projection(counts: dict[str, Counts]) -> str:
    """Of each task that was measured: an all-reduce, its share, and all GPUs' speed if each has a run's work."""
    rows = []
    for case in filter(ITERATIONS.get, counts):
        each, (compute, env_steps) = counts[case], ITERATIONS[case]
        for gpus in DEVICES[1:]:
            seconds = nccl_seconds(each.update_bytes, gpus)
            exchange = seconds * env_steps / each.env_steps_per_update
            speed = gpus * env_steps / (compute + exchange)
            cells = f"{seconds * 1e6:.0f}", f"{compute * 1e3:.1f}", f"{exchange / (compute + exchange):.1%}"
            rows.append([f"{case}, {gpus} GPUs", *cells, f"{speed:,.0f}"])
    head = ["", "an all-reduce, us", "an iteration, ms", "share of all-reduces", "env steps/s"]
    return table(head, rows)


# --- learning curves ------------------------------------------------------------------------------------------------

LEARNING = {
    "two_step": ["env=two_step", "total_env_steps=10_000", "evaluation.every_env_steps=1_000"],
    "simple_spread": [
        *CASES["simple_spread"],
        "total_env_steps=100_000",
        "exploration.decay_env_steps=50_000",
        "evaluation.every_env_steps=20_000",
    ],
}
"""Tasks short enough to be learnt by many seeds on simulated devices."""


def learn(case: str, devices: int, seeds: int) -> list[list[float]]:
    """The return of every evaluation (seeds, points), where all devices share each seed's environments and batch."""
    config = from_overrides([*LEARNING[case], f"devices={devices}"])
    env, curves = make_env(config.env), []
    for seed in range(seeds):
        program = ReusingProgram.make(replace(config, seed=seed), env)
        state, chunk = program.init(), program.compile_chunk()
        curve = []
        for _ in range(config.num_chunks):
            state, metrics = chunk(state, program.numbers)
            curve.append((metrics.evaluation.total_return / metrics.evaluation.episodes).item())
        curves.append(curve)
    return curves


def agree(curves: np.ndarray, others: np.ndarray) -> bool:
    """Whether at every evaluation the 95 % intervals of the means over seeds overlap; curves (seeds, points)."""
    (_, low, high), (_, other_low, other_high) = mean_over_seeds(curves), mean_over_seeds(others)
    return bool(((low <= other_high) & (other_low <= high)).all())


def show_curves(case: str, curves: dict[int, list[list[float]]]) -> str:
    """Mean over seeds with its interval at a quarter, half and the end of training, by number of devices."""
    rows = []
    for devices, of_seeds in curves.items():
        points = list(zip(*mean_over_seeds(np.array(of_seeds)), strict=True))
        chosen = [points[math.ceil(len(points) * part) - 1] for part in (0.25, 0.5, 1)]
        cells = [f"{mean:.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in chosen]
        is_equal = agree(np.array(of_seeds), np.array(curves[1]))
        rows.append([f"{case}, {devices} devices", *cells, "yes" if is_equal else "no"])
    return table(["return of greedy play", "after a quarter", "half", "all", "agrees with one device"], rows)


# --- the command ----------------------------------------------------------------------------------------------------


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["counts", "curves"])
    parser.add_argument("--case", nargs="+", help=f"of {', '.join(CASES)}; for curves of {', '.join(LEARNING)}")
    parser.add_argument("--out", type=Path, default=Path("scaling"), metavar="DIR", help="default: scaling")
    parser.add_argument("--seeds", type=int, default=5, help="of the curves (default 5)")
    arguments = parser.parse_args()
    start_jax(["8"])
    if arguments.what == "curves":
        cases = arguments.case or list(LEARNING)
        results = {case: {devices: learn(case, devices, arguments.seeds) for devices in (1, 2, 4, 8)} for case in cases}
        shown = "\n\n".join(show_curves(case, curves) for case, curves in results.items())
    else:
        counts = {case: count(case) for case in arguments.case or ["simple_spread", "2s3z", "27m_vs_30m"]}
        shown = f"{show_counts(counts)}\n\n{show_projection(counts)}"
        results = {case: each._asdict() for case, each in counts.items()}
    print(shown)
    write_json(arguments.out / f"{arguments.what}.json", results)


if __name__ == "__main__":
    main()

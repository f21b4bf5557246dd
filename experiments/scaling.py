"""Many devices: what they exchange and keep, how training learns on them, and what is possible on two CPU cores.

    python experiments/scaling.py counts       # from compiled programs: bytes of an update, replay of a device
    python experiments/scaling.py curves       # learning curves on 1, 2, 4 and 8 simulated devices
    python experiments/scaling.py cores        # two devices beside independent processes, by turns

Prints tables for docs/scaling.md, and writes the numbers to NAME.json in the folder `--out`. `--case` chooses tasks.
"""

import argparse
import itertools
import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from qmix_jax.bench import probe
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


def from_overrides(overrides: Sequence[str]) -> Config:
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
    """The devices that exchange with each other, as XLA writes them: {{0,1},{2,3}}."""
    origin: str
    """Where in the Python program it comes from."""


def collectives(program: str) -> list[Collective]:
    """The collectives in a compiled program's text, each once, however often a loop repeats it."""
    lines = re.findall(rf"^.* = (.+?) ((?:ragged-)?(?:{COLLECTIVES}))(?:-start)?\((.*)$", program, re.MULTILINE)
    return [
        Collective(name, size_of(result), found(r"replica_groups=(\S+),", rest), found(r'op_name="(.*?)"', rest))
        for result, name, rest in lines
    ]


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


# --- what two cores can do -------------------------------------------------------------------------------------------

TICKS = os.sysconf("SC_CLK_TCK")
WAYS = {
    "one device": (1, "", [{0}]),
    "two processes, each with a whole run": (1, "", [{0}, {1}]),
    "two processes, each with half a run": (1, "half", [{0}, {1}]),
    "two devices of one process": (2, "", [{0, 1}]),
}
"""How cores are used: devices of a process, "half" for half of the environments and batch, the cores of each process.
"""


class Turn(NamedTuple):
    """One way, measured once."""

    env_steps_per_second: float
    """Of all processes together."""
    cpu_seconds_per_thousand_env_steps: float
    cores_used: float
    """CPU seconds per second."""


class Worker(NamedTuple):
    """A process that trains on request (`qmix_jax.bench.probe`), with a full replay buffer."""

    process: subprocess.Popen[str]
    iterations: int
    """Of a request."""
    env_steps: int
    """Of a request."""

    def wait_until_ready(self) -> None:
        """Until everything is compiled."""
        assert self.process.stdout and self.process.stdout.readline().strip() == probe.READY

    def answer(self) -> float:
        """The seconds that the request took."""
        assert self.process.stdout
        return float(self.process.stdout.readline()) * self.iterations / 1e3

    def cpu_seconds(self) -> float:
        """User and system time of all threads so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def halves(config: Config) -> list[str]:
    """The settings of half a run: its share of the environments and of every batch."""
    learner, rollout = config.learner, config.rollout
    return [
        f"rollout.num_envs={rollout.num_envs // 2}",
        f"learner.batch_size={learner.batch_size // 2}",
        f"learner.env_steps_per_update={learner.env_steps_per_update / 2:g}",
        f"replay.capacity={config.replay.capacity // 2}",
    ]


@contextmanager
def started(case: str, devices: int, share: str, cores: set[int], iterations: int) -> Iterator[Worker]:
    """A process that runs on these cores only."""
    overrides = [*CASES[case], f"devices={devices}", *(halves(from_overrides(CASES[case])) if share else [])]
    config = from_overrides(overrides)
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # the process inherits it
    try:
        command = [sys.executable, "-P", probe.__file__, "training", str(iterations), *overrides]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    finally:
        os.sched_setaffinity(0, all_cores)
    try:
        yield Worker(process, iterations, config.iteration_env_steps * iterations)
    finally:
        process.kill()
        process.wait()


def take_turn(workers: Sequence[Worker]) -> Turn:
    """All of these processes train at once."""
    before = [worker.cpu_seconds() for worker in workers]
    for worker in workers:
        print(file=worker.process.stdin, flush=True)
    seconds = [worker.answer() for worker in workers]
    cpu = [worker.cpu_seconds() - earlier for worker, earlier in zip(workers, before, strict=True)]
    steps = [worker.env_steps for worker in workers]
    rate = sum(n / each for n, each in zip(steps, seconds, strict=True))
    return Turn(rate, sum(cpu) / sum(steps) * 1e3, sum(c / s for c, s in zip(cpu, seconds, strict=True)))


def measure_cores(case: str, rounds: int, iterations: int) -> dict[str, list[Turn]]:
    """Every way in random order, round by round."""
    turns: dict[str, list[Turn]] = {name: [] for name in WAYS}
    with ExitStack() as stack:
        workers = {
            name: [stack.enter_context(started(case, devices, share, cores, iterations)) for cores in of_each]
            for name, (devices, share, of_each) in WAYS.items()
        }
        for worker in itertools.chain(*workers.values()):
            worker.wait_until_ready()
        for _ in range(rounds):
            for name in random.sample(list(WAYS), len(WAYS)):
                turns[name].append(take_turn(workers[name]))
    return turns


def show_cores(case: str, turns: dict[str, list[Turn]]) -> str:
    """Medians, and medians of the rounds' ratios to one device."""
    alone = turns["one device"]
    rows = []
    for name, own in turns.items():
        ratios = sorted(
            each.env_steps_per_second / one.env_steps_per_second for each, one in zip(own, alone, strict=True)
        )
        quarter = len(ratios) // 4
        cost, one_cost = (median(turn.cpu_seconds_per_thousand_env_steps for turn in each) for each in (own, alone))
        rows.append(
            [
                f"{case}, {name}",
                f"{median(turn.env_steps_per_second for turn in own):,.0f}",
                f"{median(ratios):.2f} [{ratios[quarter]:.2f}, {ratios[-1 - quarter]:.2f}]",
                f"{cost * 1e3:.1f}",
                f"{cost / one_cost:.2f}",
                f"{median(turn.cores_used for turn in own):.2f}",
            ]
        )
    head = ["", "env steps/s", "times one device [middle half]", "CPU ms of 1,000 steps", "times", "cores used"]
    return table(head, rows)


# --- the command ----------------------------------------------------------------------------------------------------


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["counts", "curves", "cores"])
    parser.add_argument("--case", nargs="+", help=f"of {', '.join(CASES)}; for curves of {', '.join(LEARNING)}")
    parser.add_argument("--out", type=Path, default=Path("scaling"), metavar="DIR", help="default: scaling")
    parser.add_argument("--seeds", type=int, default=5, help="of the curves (default 5)")
    parser.add_argument("--rounds", type=int, default=15, help="in which each way of using cores has a turn (15)")
    parser.add_argument("--iterations", type=int, default=20, help="of a turn (20)")
    arguments = parser.parse_args()
    if arguments.what == "cores":
        cases = arguments.case or ["simple_spread", "2s3z", "3m"]
        results = {case: measure_cores(case, arguments.rounds, arguments.iterations) for case in cases}
        shown = "\n\n".join(show_cores(case, turns) for case, turns in results.items())
        results = {
            case: {way: [turn._asdict() for turn in own] for way, own in results[case].items()} for case in cases
        }
    elif arguments.what == "curves":
        start_jax(["8"])
        cases = arguments.case or list(LEARNING)
        results = {case: {devices: learn(case, devices, arguments.seeds) for devices in (1, 2, 4, 8)} for case in cases}
        shown = "\n\n".join(show_curves(case, curves) for case, curves in results.items())
    else:
        start_jax(["8"])
        counts = {case: count(case) for case in arguments.case or ["simple_spread", "2s3z", "27m_vs_30m"]}
        shown, results = show_counts(counts), {case: each._asdict() for case, each in counts.items()}
    print(shown)
    write_json(arguments.out / f"{arguments.what}.json", results)


if __name__ == "__main__":
    main()

"""Two devices of one process beside independent processes, by turns: what two CPU cores can do, and what is lost.

    python experiments/cores.py                     # simple_spread, 2s3z and 3m
    python experiments/cores.py --case 2s3z --rounds 30

Prints tables for docs/scaling.md, and writes every turn to cores.json in the folder `--out`. Ratios are of one round,
since the machine's speed varies; CPU time counts only what the processes themselves compute.
"""

import argparse
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from scaling import CASES, from_overrides

from qmix_jax.bench import probe
from qmix_jax.bench.report import table
from qmix_jax.config import Config
from qmix_jax.files import write_json

TICKS = os.sysconf("SC_CLK_TCK")


class Way(NamedTuple):
    """One way of using cores."""

    cores: list[set[int]]
    """Of each process."""
    devices: int = 1
    """Of a process."""
    has_half: bool = False
    """Whether a process has half of the environments and batch."""
    threads: int = 1
    """Of the pool that XLA's library for matrix products gets: at least the number of devices."""


WAYS = {
    "one device": Way([{0}]),
    "one device, XLA's pool has two threads": Way([{0}], threads=2),
    "two processes, each with a whole run": Way([{0}, {1}]),
    "two processes, each with half a run": Way([{0}, {1}], has_half=True),
    "two devices of one process": Way([{0, 1}], devices=2, threads=2),
}


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
def started(case: str, way: Way, cores: set[int], iterations: int) -> Iterator[Worker]:
    """A process that runs on these cores only."""
    share = halves(from_overrides(CASES[case])) if way.has_half else []
    overrides = [*CASES[case], f"devices={way.devices}", *share]
    config = from_overrides(overrides)
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # the process inherits it
    try:
        command = [sys.executable, "-P", probe.__file__, "training", str(iterations), *overrides]
        environment = os.environ | {"PJRT_NPROC": str(way.threads)}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
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
            name: [stack.enter_context(started(case, way, cores, iterations)) for cores in way.cores]
            for name, way in WAYS.items()
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


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=["simple_spread", "2s3z", "3m"])
    parser.add_argument("--rounds", type=int, default=15, help="in which each way of using cores has a turn (15)")
    parser.add_argument("--iterations", type=int, default=20, help="of a turn (20)")
    parser.add_argument("--out", type=Path, default=Path("scaling"), metavar="DIR", help="default: scaling")
    arguments = parser.parse_args()
    results = {}
    for case in arguments.case:
        turns = measure_cores(case, arguments.rounds, arguments.iterations)
        print(show_cores(case, turns), flush=True)
        results[case] = {way: [turn._asdict() for turn in own] for way, own in turns.items()}
    write_json(arguments.out / "cores.json", results)


if __name__ == "__main__":
    main()

"""Compare the speed of checkouts of this repository on a machine whose own speed wanders.

    git worktree add ../before main~5
    python experiments/take_turns.py ../before .                                 # training, the default run
    python experiments/take_turns.py ../before . --part learning env.map=3m      # updates alone, with settings
    python experiments/take_turns.py . .@--xla_cpu_enable_fast_math=true         # a compiler's flags behind an @

Every checkout gets a process of its own that compiles a part of training and stays; then they take turns of some
`--turns` iterations (or updates), in random order, for as many `--rounds`. What counts is the median of the ratios
within a round.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

PARTS = ("training", "learning", "playing", "evaluation")
READY = "ready"
USAGE_ERROR = 2


def refuse(why: str) -> NoReturn:
    """End with a mistake in one line."""
    print(f"take_turns.py: error: {why}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def serve(part: str, turns: int, overrides: list[str]) -> None:
    """Compile, then answer every line of stdin with the milliseconds of an iteration."""
    from qmix_jax.cli.startup import start_jax

    from qmix_jax.bench import parts
    from qmix_jax.bench.measure import Stand
    from qmix_jax.cli.compose import compose
    from qmix_jax.config import ConfigError, from_mapping
    from qmix_jax.run import experiment

    try:
        config = from_mapping(compose(overrides))
        start_jax([config.devices])
        stand = Stand.make(experiment.check(config), lambda _: None)
    except ConfigError as error:
        refuse(str(error))
    run = stand.compile_training()  # which also fills the replay
    if part != "training":
        run = stand.compile(part, getattr(parts, part)(stand.program.trainer))
    for _ in range(3):
        run(turns)
    print(READY, flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        run(turns)
        print((time.perf_counter() - begun) / turns * 1e3, flush=True)


def start(candidate: str, arguments: argparse.Namespace) -> subprocess.Popen[str]:
    """A checkout's process, compiled and ready; exits where it cannot be."""
    checkout, _, flags = candidate.partition("@")
    folder = Path(checkout).resolve()
    if not (folder / "qmix_jax").is_dir():
        refuse(f"{checkout} is no checkout of qmix_jax")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    line = [sys.executable, __file__, "--serve", "--part", arguments.part, "--turns", str(arguments.turns)]
    process = subprocess.Popen(
        [*line, *arguments.rest], cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    if process.stdout.readline().strip() != READY:
        sys.exit(process.wait() or USAGE_ERROR)  # the process has said why
    return process


def ask(process: subprocess.Popen[str]) -> float:
    """Milliseconds of an iteration in one turn of a candidate."""
    assert process.stdin and process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main() -> None:
    """Start all candidates, let them take turns, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rest", nargs="*", metavar="CHECKOUT[@FLAGS] | NAME=VALUE", help="the first is compared to")
    parser.add_argument("--part", choices=PARTS, default=PARTS[0])
    parser.add_argument("--turns", type=int, default=30, help="iterations in a turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=40, help="default: %(default)s")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_intermixed_args()
    if arguments.serve:
        serve(arguments.part, arguments.turns, arguments.rest)
        return
    candidates = [word for word in arguments.rest if "=" not in word.partition("@")[0]]
    arguments.rest = [word for word in arguments.rest if word not in candidates]
    if not candidates:
        parser.error("name a checkout, or several")
    processes = [start(candidate, arguments) for candidate in candidates]
    times: list[list[float]] = [[] for _ in candidates]
    for _ in range(arguments.rounds):
        for i in random.sample(range(len(candidates)), len(candidates)):
            times[i].append(ask(processes[i]))
    for process in processes:
        process.kill()
    print("| checkout | ms an iteration, median | least | time, as a share of the first's |")
    print("| --- | --- | --- | --- |")
    for candidate, own in zip(candidates, times, strict=True):
        ratio = statistics.median(mine / first for mine, first in zip(own, times[0], strict=True))
        print(f"| {candidate} | {statistics.median(own):.3f} | {min(own):.3f} | {ratio:.3f} |")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)

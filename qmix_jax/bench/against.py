"""This code against other checkouts of it, on a machine whose speed varies.

Each checkout gets a process, which compiles a part of training (`qmix_jax.bench.probe`). Then they are timed
alternately, in random order within a round; the result is the ratio within a round. Two processes of equal code differ
for as long as they run, so that they are started anew several times.
"""

import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

from qmix_jax.bench import probe
from qmix_jax.bench.report import table
from qmix_jax.settings import ConfigError, require

HERE = Path(__file__).resolve().parents[2]
"""The folder from which this package is imported."""


class Timing(NamedTuple):
    """What is timed, and how often."""

    part: str
    """A name of `qmix_jax.bench.probe.PARTS`."""
    iterations: int
    """Iterations (updates, rollouts, evaluations) that are timed together."""
    rounds: int
    starts: int
    """How many processes of each checkout share the rounds."""
    overrides: Sequence[str]
    """Settings of the run, NAME=VALUE."""


def measure(checkouts: Sequence[str], timing: Timing) -> list[list[float]]:
    """Milliseconds an iteration: of this code, then of each checkout, a list with one number a round.

    `checkouts` are folders, with XLA flags behind an `@`.

    Raises:
        ConfigError: a folder is no checkout, or the settings cannot work there.
    """
    for checkout in checkouts:
        folder = checkout.partition("@")[0]
        require((Path(folder) / "qmix_jax").is_dir(), f"--against {folder}: no checkout of qmix_jax")
    shares = [len(range(start, timing.rounds, timing.starts)) for start in range(min(timing.starts, timing.rounds))]
    rounds = [times for count in shares for times in _rounds((str(HERE), *checkouts), timing, count)]
    return [list(times) for times in zip(*rounds, strict=True)]


def _rounds(checkouts: Sequence[str], timing: Timing, count: int) -> Iterator[list[float]]:
    """Start a process of each checkout, in random order too, and time all of them so many times."""
    numbers = range(len(checkouts))
    with ExitStack() as stack:
        order = random.sample(numbers, len(numbers))
        processes = {i: stack.enter_context(_started(checkouts[i], timing)) for i in order}
        for _ in range(count):
            times = {i: _time(processes[i]) for i in random.sample(numbers, len(numbers))}
            yield [times[i] for i in numbers]


@contextmanager
def _started(checkout: str, timing: Timing) -> Iterator[subprocess.Popen[str]]:
    """The process of a checkout, ready to be timed."""
    name, _, flags = checkout.partition("@")
    folder = str(Path(name).resolve())
    xla_flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    process = subprocess.Popen(
        [sys.executable, "-P", probe.__file__, timing.part, str(timing.iterations), *timing.overrides],
        env={**os.environ, "PYTHONPATH": folder, "XLA_FLAGS": xla_flags},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    try:
        is_ready = process.stdout.readline().strip() == probe.READY
        require(is_ready, f"{name} cannot be timed, for the reason above")
        yield process
    finally:
        process.kill()
        process.wait()


def _time(process: subprocess.Popen[str]) -> float:
    """Milliseconds an iteration of a checkout, timed now."""
    assert process.stdin and process.stdout
    try:
        process.stdin.write("\n")
        process.stdin.flush()
        return float(process.stdout.readline())
    except (OSError, ValueError) as error:
        raise ConfigError("a checkout's process ended while it was timed, for the reason above") from error


def markdown(checkouts: Sequence[str], times: Sequence[Sequence[float]]) -> str:
    """A table of all checkouts, with the speed of this code relative to each."""
    ours = times[0]
    rows = [["this code", f"{median(ours):.3f}", f"{min(ours):.3f}", "1", ""]]
    for checkout, theirs in zip(checkouts, times[1:], strict=True):
        ratios = [other / own for own, other in zip(ours, theirs, strict=True)]
        first, _, third = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        spread = f"{first:.3f} to {third:.3f}"
        rows.append([checkout, f"{median(theirs):.3f}", f"{min(theirs):.3f}", f"{median(ratios):.3f}", spread])
    head = ["checkout", "ms an iteration", "least", "speed of this code relative to it", "middle half of the rounds"]
    return table(head, rows)

"""`qmix-jax bench`: how fast training is; against an earlier bench, or against another checkout."""

import argparse
import time
from pathlib import Path

from qmix_jax.bench.probe import PARTS
from qmix_jax.build import from_mapping
from qmix_jax.cli.arguments import Parser, count_from
from qmix_jax.run import startup
from qmix_jax.settings import require

DESCRIPTION = """\
Measure how fast training is, part by part, and how its cost grows with its sizes. Settings NAME=VALUE are those of
qmix-jax train.

Each number is the median of repeats after a warm-up, beside the range of all repeats. Compiling is timed apart, without
the cache on disk. Nothing else should run meanwhile. docs/benchmark.md says how to read the figures."""

EXAMPLES = """\
examples
  qmix-jax bench                                      QMIX on SMAX 2s3z
  qmix-jax bench env.map=3m num_seeds=8 --quick
  qmix-jax bench env=mpe devices=1
  qmix-jax bench --compare bench/2026-01-31_12-00-00/bench.json
  qmix-jax bench --against ../before env.map=3m"""

OPTIONS_OF_ONE = ("quick", "compare", "profile")


def main(arguments: list[str]) -> int:
    """Measure what the command line says; returns the exit status."""
    options = parse(arguments)
    if options.against:
        return compare_checkouts(options)
    from qmix_jax.bench.compare import read
    from qmix_jax.cli.compose import compose

    earlier = read(options.compare) if options.compare else None
    settings = compose(options.overrides)
    startup.import_jax()
    config = from_mapping(settings)
    startup.start_jax([config.devices])
    import jax

    from qmix_jax.bench.run import BenchOptions, bench

    jax.config.update("jax_enable_compilation_cache", False)  # a cached program would not be compiled
    bench(config, settings, BenchOptions(options.out, not options.quick, earlier, options.profile))
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options, with the settings that stand anywhere among them as `overrides`."""
    parser = Parser("bench", takes_settings=True, description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument(
        "--quick", action="store_true", help="leave out how the cost grows: two minutes instead of five, on 2 cores"
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="OLD.json",
        help="compare each figure with that of an earlier bench.json, and name regressions",
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="DIR",
        help="also write a JAX profiler trace of four iterations (for TensorBoard or Perfetto), and name the longest "
        "operations in it",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("bench") / time.strftime("%Y-%m-%d_%H-%M-%S"),
        metavar="DIR",
        help="where bench.json, bench.md and bench.png go; else bench/TIME below the current folder",
    )
    group = parser.add_argument_group("this code against another checkout of it, measured alternately")
    group.add_argument(
        "--against",
        action="append",
        metavar="CHECKOUT[@FLAGS]",
        help="the folder of another checkout (several: repeat the option), with XLA flags for it behind an @",
    )
    group.add_argument("--part", choices=PARTS, default="training", help="what to time (default training)")
    group.add_argument("--iterations", type=count_from(1), default=30, metavar="N", help="timed at once (default 30)")
    group.add_argument(
        "--rounds", type=count_from(1), default=40, metavar="N", help="times that each checkout is timed (default 40)"
    )
    group.add_argument(
        "--starts", type=count_from(1), default=4, metavar="N", help="processes that share these times (default 4)"
    )
    return parser.parse_intermixed_args(arguments)


def compare_checkouts(options: argparse.Namespace) -> int:
    """Time this code and other checkouts, and print their ratios; returns the exit status."""
    from qmix_jax.bench import against

    unused = ["--" + name for name in OPTIONS_OF_ONE if getattr(options, name)]
    require(not unused, f"--against does not go with {', '.join(unused)}")
    timing = against.Timing(options.part, options.iterations, options.rounds, options.starts, options.overrides)
    print(against.markdown(options.against, against.measure(options.against, timing)))
    return 0

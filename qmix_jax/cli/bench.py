"""`qmix-jax bench`: settings as for training, and where to write what was measured."""

import argparse
import time
from pathlib import Path
from typing import NoReturn

from qmix_jax.build import from_mapping
from qmix_jax.cli.startup import import_jax, start_jax
from qmix_jax.settings import ConfigError, nearest, require

HELP = """\
usage: qmix-jax bench [SETTING=VALUE ...] [--quick] [--compare OLD.json] [--profile DIR] [--out DIR]

Measure how fast training is, part by part, and how its cost grows. Settings are those of qmix-jax train.

  --quick             leave out how the cost grows: two minutes instead of five, on 2 cores
  --compare OLD.json  set every figure beside that of an earlier bench.json, and name what became worse
  --profile DIR       also write a JAX profiler trace of four iterations (for TensorBoard or Perfetto), and name the
                      longest operations in it
  --out DIR           where bench.json, bench.md and bench.png go; else bench/TIME below the current folder

Examples
  qmix-jax bench                                      QMIX on SMAX 2s3z
  qmix-jax bench env.map=3m num_seeds=8 --quick
  qmix-jax bench env=mpe devices=1
  qmix-jax bench --compare bench/2026-01-31_12-00-00/bench.json

Every number is the median of repeats after a warm-up, with their whole range beside it; compiling is timed apart and
without the cache on disk. Let nothing else run meanwhile. docs/benchmark.md says how to read the figures."""

OPTIONS = ("--quick", "--compare", "--profile", "--out")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see qmix-jax bench --help")


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and the settings that stand anywhere among them."""
    parser = _Parser(prog="qmix-jax bench", add_help=False, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--compare", type=Path)
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--out", type=Path, default=Path("bench") / time.strftime("%Y-%m-%d_%H-%M-%S"))
    options, settings = parser.parse_known_args(arguments)
    for word in settings:
        require(not word.startswith("-"), f"unknown option '{word}'{nearest(word, OPTIONS)}; settings have no dashes")
    return options, settings


def main(arguments: list[str]) -> int:
    """Measure what the command line says; returns the exit status."""
    if not {"-h", "--help"}.isdisjoint(arguments):
        print(HELP)
        return 0
    options, overrides = parse(arguments)
    from qmix_jax.bench.compare import read
    from qmix_jax.cli.compose import compose

    against = read(options.compare) if options.compare else None
    settings = compose(overrides)
    import_jax()
    config = from_mapping(settings)
    start_jax([config.devices])
    import jax

    from qmix_jax.bench.run import Wishes, bench

    jax.config.update("jax_enable_compilation_cache", False)  # or the seconds of compiling would mean nothing
    bench(config, settings, Wishes(options.out, not options.quick, against, options.profile))
    return 0

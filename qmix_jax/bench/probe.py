"""The process that `qmix-jax bench --against` starts in each checkout: times one part of training repeatedly.

    python probe.py PART ITERATIONS NAME=VALUE ...

Prints `ready` once everything is compiled, then a line of milliseconds an iteration for each line of stdin. It runs
with the code of the other checkout, so it uses few names, and tries the earlier places of those that moved.
"""

import inspect
import sys
import time
from importlib import import_module
from typing import Any

READY = "ready"
USAGE_ERROR = 2
WARM_UPS = 3
PARTS = {"training": "training", "learner": "learning", "rollout": "playing", "evaluation": "evaluation"}
"""Part of training -> its name in `qmix_jax.bench.parts`."""


def find(*places: str) -> Any:
    """The first `module:name` that this checkout has."""
    for place in places:
        module, _, name = place.partition(":")
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError):
            continue
    raise ImportError(f"this checkout has none of {', '.join(places)}")


def prepare(part: str, overrides: list[str]) -> Any:
    """`run(count)` for a part of training, compiled, with a full replay buffer."""
    compose = find("qmix_jax.cli.compose:compose")
    from_mapping = find("qmix_jax.build:from_mapping", "qmix_jax.config:from_mapping")
    start_jax = find("qmix_jax.run.startup:start_jax", "qmix_jax.cli.startup:start_jax")
    config = from_mapping(compose(overrides))
    start_jax([config.devices])
    check = find("qmix_jax.run.experiment:check", "qmix_jax.experiment:check")
    benchmark = find("qmix_jax.bench.measure:Benchmark", "qmix_jax.bench.measure:Stand").make(
        check(config), lambda _: None
    )
    run = benchmark.compile_training()
    if part == "training":
        return run
    make = find(f"qmix_jax.bench.parts:{PARTS[part]}")
    takes_trainer = "part" in inspect.signature(benchmark.compile).parameters  # as before numbers were arguments
    return benchmark.compile(part, make(benchmark.program.trainer) if takes_trainer else make)


def main(part: str, iterations: int, overrides: list[str]) -> int:
    """Compile, then answer each line of stdin; returns the exit status."""
    config_error = find("qmix_jax.config:ConfigError", "qmix_jax.settings:ConfigError")
    try:
        run = prepare(part, overrides)
    except config_error as error:
        print(f"qmix-jax: error: {error}", file=sys.stderr)
        return USAGE_ERROR
    for _ in range(WARM_UPS):
        run(iterations)
    print(READY, flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        run(iterations)
        print((time.perf_counter() - begun) / iterations * 1e3, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))

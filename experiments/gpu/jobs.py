"""The measuring processes of measure.py: one job, one process, one JSON file, as in compare_measure.py.

python experiments/gpu/jobs.py '{"job": ..., "arguments": {...}, "result": "FILE.json"}'

This process starts JAX, and with it takes most of the card's memory; measure.py never does.
"""

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))

import compare_measure  # noqa: E402

from qmix_jax.files import read_json  # noqa: E402
from qmix_jax.records import describe_machine, read_metrics  # noqa: E402
from qmix_jax.settings import ConfigError, require  # noqa: E402

TRACED_ITERATIONS = 4
PRODUCT = 1024
QUICK = "--quick"


def machine() -> dict:
    """Card, driver, versions, commit."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit", "--format=csv,noheader"]
    driver = ""
    with contextlib.suppress(OSError):
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    described = {name: value for name, value in describe_machine().items() if name != "command"}
    return {**described, "driver": driver or None}


def tests(arguments: list[str]) -> dict:
    """Run tests of this repository; how many passed, and the names of those that did not."""
    import pytest

    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        places = [str(ROOT / word) if word.startswith("tests/") else word for word in arguments]
        pytest.main([*places, "--rootdir", str(ROOT), "-p", "no:cacheprovider", f"--junitxml={report}"])
        cases = list(ElementTree.parse(report).iter("testcase"))
    outcomes: dict[str, list[str]] = {"passed": [], "failure": [], "error": [], "skipped": []}
    for case in cases:
        kind = next((child.tag for child in case if child.tag in outcomes), "passed")
        outcomes[kind].append(f"{case.get('classname')}::{case.get('name')}")
    require(bool(cases), f"pytest found no test: {' '.join(arguments)}")
    return {
        "passed": len(outcomes["passed"]),
        "skipped": len(outcomes["skipped"]),
        "failed": outcomes["failure"] + outcomes["error"],
    }


def speed(overrides: list[str]) -> dict:
    """Environment steps/s of training without evaluation, in the steady state, over all seeds."""
    from qmix_jax.bench.measure import FEW_REPEATS, Benchmark, peak_bytes, time_repeatedly, update_period

    shorten_repeats()
    program = compare_measure.our_program(overrides)
    config, benchmark = program.config, Benchmark.make(program, say=print)
    seconds = time_repeatedly(benchmark.compile_training(), update_period(config), FEW_REPEATS)
    name, env_steps = "training_without_evaluation", config.iteration_env_steps * config.num_seeds
    benchmark.rate(name, env_steps, "env_steps", seconds)
    return {
        "env_steps_per_second": benchmark.figures[f"{name}/env_steps_per_second"]._asdict(),
        "compile_seconds": benchmark.figures[f"{name}/compile_seconds"].median,
        "peak_bytes": peak_bytes(program),
        "env_steps_an_iteration": env_steps,
    }


def bench(overrides: list[str], folder: str) -> dict:
    """The parts of training with a trace: what `qmix-jax bench --quick --profile` leaves behind."""
    from qmix_jax.cli.bench import main

    shorten_repeats()
    with tempfile.TemporaryDirectory() as trace:
        main([*overrides, "--quick", "--profile", trace, "--out", folder])
    return without_machine(Path(folder) / "bench.json")


def train(overrides: list[str], folder: str) -> dict:
    """A run of the command line, which goes on where it was cut off; its curve so far."""
    from qmix_jax.cli.main import main

    status = main(["train", *overrides, "resume=auto", f"hydra.run.dir={folder}"])
    return {"status": status, "curve": curve(Path(folder))}


def curve(folder: Path) -> list[dict]:
    """Environment steps, seconds and every seed's score at each evaluation of a run."""
    rows = read_metrics(folder / "metrics.jsonl")
    kept = ("env_steps", "wall_seconds", "compile_seconds", "eval/win_rate", "eval/return")
    return [{name: row[name] for name in kept if name in row} for row in rows]


def without_machine(path: Path) -> dict:
    """What a script wrote, without the machine, which measure.py names."""
    return {name: value for name, value in read_json(path).items() if name != "machine"}


def compare(checkout: str, arguments: list[str]) -> dict:
    """experiments/compare_jaxmarl.py as it is."""
    import compare_jaxmarl

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "compared.json"
        sys.argv = ["compare_jaxmarl.py", checkout, *arguments, "--out", str(out)]
        compare_jaxmarl.main()
        return without_machine(out)


def kernels(overrides: list[str]) -> dict:
    """Kernels and waits for the host of an iteration: in the program as compiled here, and those that a trace shows
    with the time that they run.

    The trace counts what the streams of a GPU did; of a CPU it says nothing.
    """
    import gpu_kernels
    import jax

    from qmix_jax.bench.measure import Benchmark

    run = Benchmark.make(compare_measure.our_program(overrides), say=print).compile_training()
    program, env_steps = gpu_kernels.ours(overrides, jax.devices()[0])
    counted, waits = gpu_kernels.of_an_iteration(gpu_kernels.read_program(program))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run(TRACED_ITERATIONS)
        events = [(event.name, event.duration_ns) for line in gpu_streams(Path(folder)) for event in line.events]
    copies = [name for name, _ in events if name.startswith("Memcpy")]
    return {
        "env_steps": env_steps,
        "compiled": {"kernels": counted, "waits": waits},
        "traced": {
            "kernels": (len(events) - len(copies)) / TRACED_ITERATIONS,
            "copies": len(copies) / TRACED_ITERATIONS,
            "copies_to_host": sum("D2H" in name for name in copies) / TRACED_ITERATIONS,
            "kernel_ms": sum(nanoseconds for _, nanoseconds in events) / 1e6 / TRACED_ITERATIONS,
        },
    }


def gpu_streams(folder: Path) -> list[Any]:
    """The streams of every GPU in the trace below a folder."""
    from jax.profiler import ProfileData

    (trace,) = folder.rglob("*.xplane.pb")
    planes = ProfileData.from_file(str(trace)).planes
    gpus = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    return [line for plane in gpus for line in plane.lines if line.name.startswith("Stream")]


def counted_kernels(overrides: list[str]) -> dict:
    """Kernels and waits for the host of an iteration, in the program that gpu_kernels.py compiles for an H100."""
    import os

    import gpu_kernels
    import jax

    jax.config.update("jax_platforms", "cpu")
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {gpu_kernels.FLAGS}"
    try:
        program, env_steps = gpu_kernels.ours(overrides)
    except SystemExit as error:
        raise ConfigError(str(error)) from error
    count, waits = gpu_kernels.of_an_iteration(gpu_kernels.read_program(program))
    return {"env_steps": env_steps, "compiled": {"kernels": count, "waits": waits}}


def precision(overrides: list[str]) -> dict:
    """How far an update here is from the same one on the CPU, and a product from its value in float64.

    Relative errors of the loss and of the gradient's norm, and of a 1,024 x 1,024 product the largest error over the
    largest entry; by the precision of float32 products (`default`: as training runs; `highest`: full).
    """
    import jax
    import numpy as np

    from qmix_jax.bench import parts
    from qmix_jax.bench.measure import Benchmark
    from qmix_jax.build import from_mapping, make_env
    from qmix_jax.cli.compose import compose
    from qmix_jax.run.program import Program

    config = from_mapping(compose(overrides))
    places = {"cpu": jax.devices("cpu")[0], "here": jax.devices()[0]}

    def program(place: str) -> Program:
        return Program.make(config, make_env(config.env), [places[place]])

    with jax.default_device(places["cpu"]):
        benchmark = Benchmark.make(program("cpu"), say=print)
        benchmark.compile_training()  # fills replay

    def losses(place: str, precision: str) -> dict[str, float]:
        chosen = jax.default_matmul_precision(None if precision == "default" else precision)
        with jax.default_device(places[place]), chosen:
            one = program(place)
            placed = one.place(jax.tree.map(jax.numpy.copy, benchmark.state))  # it will be taken over
            updates = one.compile_loop(parts.learning, placed)
            _, (_, metrics) = updates(placed, one.numbers, np.int32(1))
        return {name: float(np.mean(value)) for name, value in jax.device_get(metrics)._asdict().items()}

    left, right = np.random.default_rng(0).standard_normal((2, PRODUCT, PRODUCT), np.float32)
    exact = left.astype(np.float64) @ right.astype(np.float64)
    reference = losses("cpu", "highest")
    errors = {}
    for name in ("default", "highest"):
        mine = losses("here", name)
        product = jax.numpy.matmul(left, right, precision=name)
        errors[name] = {
            key: abs(mine[key] - reference[key]) / max(abs(reference[key]), 1e-30) for key in ("loss", "grad_norm")
        }
        errors[name]["product"] = float(np.abs(np.asarray(product, np.float64) - exact).max() / np.abs(exact).max())
    return {"errors": errors, "reference": reference}


def shorten_repeats() -> None:
    """In a dry run, take as few turns as there can be."""
    if QUICK in sys.argv:
        from qmix_jax.bench import measure

        measure.SECONDS = 0.001


JOBS = {
    job.__name__: job for job in (machine, tests, speed, bench, train, compare, kernels, counted_kernels, precision)
}

if __name__ == "__main__":
    sys.exit(compare_measure.main(JOBS))

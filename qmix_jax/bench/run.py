"""A whole bench: measure, compare, write."""

import os
import time
from pathlib import Path
from typing import NamedTuple

from qmix_jax.agents.base import num_features
from qmix_jax.bench import compare, report
from qmix_jax.bench.measure import Figures, measure
from qmix_jax.bench.picture import draw
from qmix_jax.bench.scaling import Measured, growth_figures, measure_growth
from qmix_jax.config import Config
from qmix_jax.files import write_file, write_json
from qmix_jax.import_path import title_of
from qmix_jax.records import describe_machine
from qmix_jax.run import experiment, messages
from qmix_jax.run.program import Program
from qmix_jax.settings import ConfigError


class BenchOptions(NamedTuple):
    """What a bench does besides measuring the parts of training, and where it writes."""

    out: Path
    """The folder of its files."""
    with_growth: bool = True
    """Also measure how the cost grows with the sizes."""
    against: dict | None = None
    """The results of an earlier bench, to compare with."""
    profile: Path | None = None
    """The folder for a profiler's trace; None: no trace."""


def bench(config: Config, settings: dict, options: BenchOptions) -> None:
    """Measure, print each figure and the report, and write bench.json, bench.md and bench.png.

    Raises:
        ConfigError: the config cannot work, or the folder cannot be made; nothing has been measured.
    """
    begun, load = time.perf_counter(), os.getloadavg()[0]
    program = experiment.check(config)
    _make_folder(options.out)

    def say(line: str) -> None:
        print(f"[{time.perf_counter() - begun:4.0f} s] {line}", flush=True)

    start = {"started": time.strftime("%Y-%m-%d %H:%M:%S"), "load": load, **_subject(program), "settings": settings}
    print(f"{start['title']}: {start['program']}", flush=True)
    figures, profile = measure(program, say, options.profile)
    axes = measure_growth(config, say) if options.with_growth else {}
    results = start | {"seconds": time.perf_counter() - begun} | _to_plain(figures, axes)
    if profile:
        operations = [operation._asdict() for operation in profile.operations]
        results["profile"] = {"busy": profile.busy, "operations": operations}
    _write(results, options)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {folder}: {error.strerror}; choose another folder with --out DIR") from error


def _subject(program: Program) -> dict:
    """The program and the machine that are measured."""
    config = program.config
    rollout, learner = config.rollout, config.learner
    sizes = (
        f"{rollout.num_envs} environments x {rollout.num_steps} steps, batches of {learner.batch_size} sequences every "
        f"{learner.env_steps_per_update:g} steps, "
        f"agent={title_of(config.agent.name)} of width {num_features(program.trainer.agents)}"
    )
    return {
        "title": messages.title(config, program.env),
        "program": f"{sizes} · {messages.describe(program)}",
        "machine": describe_machine(),
    }


def _to_plain(figures: Figures, axes: dict[str, list[Measured]]) -> dict:
    """The measurements as plain containers."""
    figures = figures | growth_figures(axes)
    return {
        "figures": {name: figure._asdict() for name, figure in figures.items()},
        "growth": {
            axis: [{"label": point.label, "size": point.size, "env_steps": point.env_steps} for point in points]
            for axis, points in axes.items()
        },
    }


def _write(results: dict, options: BenchOptions) -> None:
    """Write the files, and print the tables."""
    text = report.markdown(results)
    if options.against:
        text += "\n" + compare.markdown(options.against, results)
    write_json(options.out / "bench.json", results, indent=2)
    write_file(options.out / "bench.md", text)
    draw(results, options.out / "bench.png")
    print(f"\n{text}\nbench.json, bench.md, bench.png: {options.out}")

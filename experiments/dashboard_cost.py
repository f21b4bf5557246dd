"""The cost of a dashboard: the speed of training with it over the speed without it.

python experiments/dashboard_cost.py --rounds 8 env.map=3m total_env_steps=200_000 \
    evaluation.every_env_steps=20_000 checkpoint.replay=false

The program is compiled once. Each round trains it from the start with each of DASHBOARDS, in rotating order. The time
between the first and the last row counts. Processor time is that of this process and its children; it says more than
the clock if others use the machine.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from qmix_jax.build import from_mapping
from qmix_jax.cli.compose import compose
from qmix_jax.config import Config
from qmix_jax.reporters.base import Callback
from qmix_jax.reporters.dashboard import make_dashboards
from qmix_jax.reporters.display import make_display
from qmix_jax.reporters.metrics_file import MetricsFile
from qmix_jax.run.experiment import Run, check
from qmix_jax.run.resume import ResumePoint
from qmix_jax.run.saver import Saver
from qmix_jax.run.startup import start_jax

DASHBOARDS = {
    "none": [],
    "wandb offline": ["logging.wandb.mode=offline"],
    "TensorBoard": ["logging.tensorboard=true"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("settings", nargs="*")
    arguments = parser.parse_args()
    settings = {name: compose([*arguments.settings, *line]) for name, line in DASHBOARDS.items()}
    configs = {name: from_mapping(each) for name, each in settings.items()}
    start_jax([configs["none"].devices])
    costs = measure(configs, settings, arguments.rounds)
    print("| dashboard | steps/s | steps/s, ratio | processor time, ratio |\n| --- | --- | --- | --- |")
    for name, watches in costs.items():
        pairs = list(zip(watches, costs["none"], strict=True))
        speed = statistics.median(watch.env_steps / watch.seconds for watch in watches)
        ratios = spread([other.seconds / watch.seconds for watch, other in pairs])
        print(f"| {name} | {speed:,.0f} | {ratios} | {spread([x.processor / y.processor for x, y in pairs])} |")


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


class Stopwatch(Callback):
    """A reporter that measures the time between the first and the last row."""

    def __init__(self):
        self._began: tuple[float, ...] = ()
        self.env_steps, self.seconds, self.processor = 0.0, 0.0, 0.0

    def on_evaluation(self, row: dict) -> None:
        us = psutil.Process()
        used = [each.cpu_times() for each in (us, *us.children(recursive=True))]
        now = row["env_steps"], time.perf_counter(), sum(times.user + times.system for times in used)
        self._began = self._began or now
        self.env_steps, self.seconds, self.processor = (x - y for x, y in zip(now, self._began, strict=True))


def measure(configs: dict[str, Config], settings: dict[str, dict], rounds: int) -> dict[str, list[Stopwatch]]:
    """The cost of every round, by dashboard."""
    program = check(configs["none"])
    chunk = program.start(program.init)[1]

    class Compiled(Run):
        def _begin(self):
            return program.init(), chunk

    names, costs = list(configs), {name: [] for name in configs}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            with tempfile.TemporaryDirectory() as folder:
                run = Compiled(program, Path(folder), ResumePoint())
                costs[name].append(cost_of(run, configs[name], settings[name]))
    return costs


def cost_of(run: Run, config: Config, settings: dict) -> Stopwatch:
    """The cost of one run with the dashboards of a config."""
    stopwatch = Stopwatch()
    run.write_settings(settings)
    dashboards = make_dashboards(config, settings, run.folder, [])
    saver = Saver(run.folder, config.checkpoint, print)
    with make_display("none", title="", total_env_steps=1, num_seeds=1) as display:
        run.train([MetricsFile(run.folder), display, *dashboards, stopwatch], saver, display.message, [])
    saver.close()
    for dashboard in dashboards:
        dashboard.close()
    return stopwatch


if __name__ == "__main__":
    main()

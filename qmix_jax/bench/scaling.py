"""How the cost of training grows with its sizes: one setting is enlarged at a time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from qmix_jax.bench.measure import FEW_REPEATS, Benchmark, Figure, Figures, counted, time_repeatedly, update_period
from qmix_jax.build import environments
from qmix_jax.config import Config, ReplayConfig
from qmix_jax.run import experiment
from qmix_jax.settings import ConfigError

FACTORS = (1, 2, 4)
REPLAY_ROLLOUTS = 8  # a small buffer fills soon and fits large teams; its size costs no time


class Point(NamedTuple):
    """One size of an enlarged setting."""

    label: str
    config: Config


def axes_of_growth(config: Config) -> dict[str, list[Point]]:
    """The configs of each enlarged setting. Teams grow where the environment has several sizes of them."""
    rollout, network = config.rollout, config.agent.settings
    axes: dict[str, list[Point]] = {"num_envs": [], "num_seeds": [], "agents": [], "hidden_size": [], "num_steps": []}

    def add(axis: str, size: int | str, larger: Config) -> None:
        replay = ReplayConfig(capacity=REPLAY_ROLLOUTS * larger.iteration_env_steps)
        axes[axis].append(Point(str(size), replace(larger, replay=replay)))

    for factor in FACTORS:
        envs, steps = factor * rollout.num_envs, factor * rollout.num_steps
        seeds = factor * config.num_seeds
        add("num_envs", envs, replace(config, rollout=replace(rollout, num_envs=envs)))
        add("num_seeds", seeds, replace(config, num_seeds=seeds))
        if hasattr(network, "hidden_size"):
            width = factor * network.hidden_size
            wider = replace(config.agent, settings=replace(network, hidden_size=width))
            add("hidden_size", width, replace(config, agent=wider))
        add("num_steps", steps, replace(config, rollout=replace(rollout, num_steps=steps)))
    for name, settings in environments()[config.env.name].team_sizes(config.env.settings).items():
        add("agents", name, replace(config, env=replace(config.env, settings=settings)))
    return {axis: points for axis, points in axes.items() if points}


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The exponent p of the power law cost ~ size^p that fits best: the slope of a line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


class Measured(NamedTuple):
    """The measurement of a point."""

    label: str
    size: int
    """The size along the axis; for maps the number of agents."""
    env_steps: int
    """Environment steps of an iteration, of all seeds together."""
    seconds: Figure
    """Of an iteration of training, its updates included."""


def measure_growth(config: Config, say: Callable[[str], None]) -> dict[str, list[Measured]]:
    """Measure each axis, point by point; a point that this machine cannot hold is left out with a message."""
    axes: dict[str, list[Measured]] = {}
    known: list[tuple[Config, Measured]] = []  # the axes share the point where nothing is enlarged
    for axis, points in axes_of_growth(config).items():
        axes[axis] = []
        for label, enlarged in points:
            try:
                point = next((point for other, point in known if other == enlarged), None) or _measure(enlarged)
            except ConfigError as error:
                say(f"{axis} {label}: left out, {error}")
                continue
            known.append((enlarged, point))
            size = point.size if axis == "agents" else int(label)
            axes[axis].append(point._replace(label=label, size=size))
            say(f"{axis} {label}: {point.seconds.median * 1e3:,.4g} ms an iteration")
    return axes


def _measure(config: Config) -> Measured:
    """One point, with its number of agents as its size."""
    program = experiment.check(config)
    run = Benchmark.make(program, say=lambda _: None).compile_training()
    seconds = time_repeatedly(run, update_period(config), FEW_REPEATS)
    return Measured("", program.env.spec.num_agents, config.iteration_env_steps * config.num_seeds, seconds)


def growth_figures(axes: dict[str, list[Measured]]) -> Figures:
    """The points and slopes by name."""
    points = {
        f"{axis}={point.label}/seconds_per_iteration": point.seconds
        for axis, points in axes.items()
        for point in points
    }
    slopes = {
        f"{axis}/slope": counted(slope([point.size for point in points], [point.seconds.median for point in points]))
        for axis, points in axes.items()
        if len(points) > 1
    }
    return points | slopes

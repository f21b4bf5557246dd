"""The team's value against what follows: Q_tot of the joint action taken beside the discounted return from there on.

python experiments/suite/values.py runs/suite/3m-qmix                  # greedy and with the epsilon of training
python experiments/suite/values.py runs/suite/3m-qmix --team 2 --episodes 4096

By time step, by how many units live on each side, and by whether every agent was greedy. Returns and values are those
of the loss, which are scaled by `learner.reward_scale`. `explained` is the share of the returns' variance that Q_tot
explains; below 0 it is worse than the mean. Runs on SMAX.
"""

import argparse
import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import script
from acting import Team
from jax import lax

from qmix_jax.bench.report import table
from qmix_jax.cli.arguments import count_from
from qmix_jax.envs.scene import scene_of
from qmix_jax.learning.rollout import advance
from qmix_jax.run.trained import TrainedRun, load_run
from qmix_jax.settings import require

TIMES = (0, 1, 2, 4, 8, 12, 16, 24, 32, 1000)
"""Edges of the groups of time steps."""


class Step(NamedTuple):
    """Before a step of E episodes; arrays (E,), of a whole play (T, E)."""

    q_tot: np.ndarray
    is_greedy: np.ndarray
    """Whether every agent took its best action."""
    reward: np.ndarray
    counts: np.ndarray
    """Whether the episode was still on."""
    units: np.ndarray
    """(..., 2) that live, of the team and of the enemy."""
    wins: np.ndarray
    """1 in the step that wins."""


def play(run: TrainedRun, team: Team, episodes: int, epsilon, key) -> Step:
    """Play epsilon-greedy episodes, each up to its end."""
    env, num_agents = run.env, run.env.spec.num_agents
    start = team.start(key, episodes)

    def step(carry, key):
        state, is_over = carry
        env_key, policy_key = jax.random.split(key)
        hidden, action, best, q_tot = team.decide(state, policy_key, epsilon)
        alive = jax.vmap(lambda *seen: scene_of(env, *seen)["alive"])(state.env_state, state.observation)
        units = jnp.stack([alive[:, :num_agents].sum(axis=1), alive[:, num_agents:].sum(axis=1)], axis=1)
        after, outcome = advance(env, jax.random.split(env_key, episodes), state, hidden, action)
        wins = outcome.metrics["win_rate"]
        seen = Step(q_tot, jnp.all(action == best, axis=1), outcome.reward, ~is_over, units, wins)
        return (after, is_over | outcome.terminated | outcome.truncated), seen

    keys = jax.random.split(jax.random.fold_in(key, 1), env.spec.episode_limit)
    return lax.scan(step, (start, jnp.zeros(episodes, bool)), keys)[1]


def returns(reward: np.ndarray, gamma: float) -> np.ndarray:
    """The discounted return (T, E) from every step on."""
    found = np.zeros(reward.shape)
    following = np.zeros(reward.shape[1])
    for time in reversed(range(len(reward))):
        following = found[time] = reward[time] + gamma * following
    return found


def groups(steps: Step) -> Iterator[tuple[str, np.ndarray]]:
    """Names and members (T, E) of groups of steps."""
    yield "all", steps.counts
    time = np.arange(len(steps.counts))[:, None]
    for low, high in itertools.pairwise(TIMES):
        name = f"steps {low} to {high - 1}" if high < TIMES[-1] else f"steps from {low} on"
        yield name, (low <= time) & (time < high)
    for allies, enemies in np.ndindex(*steps.units.max(axis=(0, 1)) + 1):
        yield f"{allies} against {enemies}", np.all(steps.units == (allies, enemies), axis=-1)
    yield "every agent greedy", steps.is_greedy
    yield "some agent random", ~steps.is_greedy


def rows(steps: Step, gamma: float, scale: float) -> Iterator[list[str]]:
    """The lines of the table, of groups with at least 50 steps."""
    following = returns(steps.reward * steps.counts, gamma) * scale
    error = steps.q_tot - following
    for name, members in groups(steps):
        chosen = members & steps.counts
        if chosen.sum() < 50:
            continue
        own, spread = error[chosen], following[chosen].var()
        explained = 1 - np.mean(own**2) / spread if spread > 0 else np.nan
        share = chosen.sum() / steps.counts.sum()
        numbers = (steps.q_tot[chosen].mean(), following[chosen].mean(), own.mean(), np.sqrt(np.mean(own**2)))
        yield [name, f"{share:.1%}", *(f"{number:.2f}" for number in numbers), f"{explained:.2f}"]


def main() -> int:
    """Play, and print a table for each epsilon."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--team", type=int, default=0, help="the number of the seed among the run's, from 0 (0)")
    parser.add_argument("--episodes", type=count_from(1), default=2048, help="(2048)")
    options = parser.parse_args()
    run = load_run(options.run)
    config = run.config
    require(
        config.env.name == "smax", f"{options.run} is a run of {config.env.name}, and units are counted on SMAX only"
    )
    played = jax.jit(partial(play, run, Team(run, options.team), options.episodes))
    for epsilon in (0.0, config.exploration.finish):
        steps = jax.device_get(played(epsilon, jax.random.key(0)))
        wins = np.sum(steps.wins * steps.counts) / options.episodes
        print(f"\nepsilon {epsilon:g}: {options.episodes} episodes, {wins:.1%} won\n")
        head = ["", "share", "Q_tot", "return", "error", "root of mean square", "explained"]
        print(table(head, list(rows(steps, config.learner.gamma, config.learner.reward_scale))))
    return 0


if __name__ == "__main__":
    script.exit_with(main, __file__)

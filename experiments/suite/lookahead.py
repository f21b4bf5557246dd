"""How much better a team could play, and what its values know of it: a lookahead with the simulator.

python experiments/suite/lookahead.py runs/suite/5m_vs_6m-qmix
python experiments/suite/lookahead.py runs/suite/5m_vs_6m-qmix --team 2 --episodes 96 --from-step 0,4,8

Before every step, candidates for the joint action (the greedy one, and epsilon-greedy ones with epsilon 0.1 to 0.6) are
each tried --tries times in the simulator, with new random numbers and greedy actions from then on.

First table: the greedy team, and the team that takes the candidate with the best mean return from some step on. The
lookahead uses the whole state, which the agents do not see, so agents may not reach its score.

Second table, of the greedy team by time step: the standard deviation between a state's candidates of their mean returns
(without that of the noise of the mean) and of their Q_tot, the correlation of both, and how much the best candidate's
mean return exceeds the greedy one's. Returns and values are those of the loss, scaled by `learner.reward_scale`.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import script
from acting import Team
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from qmix_jax.bench.report import table
from qmix_jax.cli.arguments import count_from
from qmix_jax.console import say
from qmix_jax.envs.base import metric_names
from qmix_jax.learning.rollout import RolloutState, advance
from qmix_jax.run.trained import TrainedRun, load_run

LOW, HIGH = 0.1, 0.6
WINDOW = 4
"""Time steps of a row of the second table."""


class Tried(NamedTuple):
    """Before each step of E episodes (T, E, ...)."""

    q_tot: Float[Array, "... C"]
    mean: Float[Array, "... C"]
    """The mean return of the candidate's tries."""
    noise: Float[Array, "... C"]
    """The variance of that mean."""
    counts: Bool[Array, "..."]
    """Whether the episode was still on."""


class Lookahead:
    """A team of a run that may try joint actions before it takes one."""

    def __init__(self, run: TrainedRun, team: int, candidates: int, tries: int):
        self._env, self._team, self._config = run.env, Team(run, team), run.config.learner
        self._candidates, self._tries = candidates, tries

    def play(self, episodes: int, from_step: Array, key: Array) -> tuple[Float[Array, "S E"], Tried]:
        """Play episodes, with the lookahead from a step on: scores, which are the return and then the environment's
        metrics, and what was tried.
        """
        env, team, names = self._env, self._team, metric_names(self._env)

        def step(carry, now):
            state, score, is_over = carry
            time, key = now
            keys = jax.random.split(key, 3)
            hidden, action, _, _ = team.decide(state, keys[0], 0.0)
            candidates, tried = self._try(state, is_over, keys[1])
            best = jnp.take_along_axis(candidates, jnp.argmax(tried.mean, 1)[:, None, None], 1)[:, 0]
            action = jnp.where(time >= from_step, best, action)
            after, outcome = advance(env, jax.random.split(keys[2], episodes), state, hidden, action)
            gained = jnp.stack([outcome.reward, *(outcome.metrics[name] for name in names)])
            carry = (after, score + gained * ~is_over, is_over | outcome.terminated | outcome.truncated)
            return carry, tried

        limit = env.spec.episode_limit
        times = (jnp.arange(limit), jax.random.split(jax.random.fold_in(key, 1), limit))
        start = (team.start(key, episodes), jnp.zeros((1 + len(names), episodes)), jnp.zeros(episodes, bool))
        (_, scores, _), tried = lax.scan(step, start, times)
        return scores, tried

    def _try(self, state: RolloutState, is_over: Bool[Array, "E"], key: Array) -> tuple[Int[Array, "E C N"], Tried]:
        """Candidates for the joint action, and what came of them."""
        episodes, candidates, tries = state.first.shape[0], self._candidates, self._tries
        epsilon = jnp.concatenate([jnp.zeros(1), jnp.linspace(LOW, HIGH, candidates - 1)])
        keys = jax.random.split(key)
        each = _repeated(state, candidates)
        hidden, action, _, q_tot = self._team.decide(each, keys[0], jnp.tile(epsilon, episodes)[:, None])
        start = _repeated((each, hidden, action, ~_repeated(is_over, candidates)), tries)
        played = self._finish(*start, key=keys[1])
        played = played.reshape(episodes, candidates, tries) * self._config.reward_scale
        mean, noise = played.mean(2), played.var(2, ddof=1) / tries
        tried = Tried(q_tot.reshape(mean.shape), mean, noise, ~is_over)
        return action.reshape(episodes, candidates, -1), tried

    def _finish(
        self, state: RolloutState, hidden: Array, action: Array, counts: Bool[Array, "B"], key: Array
    ) -> Float[Array, "B"]:
        """The discounted return of a joint action and of greedy ones up to the end of the episode, where it counts."""
        env, gamma = self._env, self._config.gamma

        def step(carry):
            state, hidden, action, total, discount, key = carry
            keys = jax.random.split(key, 3)
            state, outcome = advance(env, jax.random.split(keys[0], len(action)), state, hidden, action)
            total = total + discount * outcome.reward
            discount = discount * gamma * ~(outcome.terminated | outcome.truncated)
            hidden, action, _, _ = self._team.decide(state, keys[1], 0.0)
            return state, hidden, action, total, discount, keys[2]

        start = (state, hidden, action, jnp.zeros(len(action)), counts.astype(float), key)
        return lax.while_loop(lambda carry: jnp.any(carry[4] > 0), step, start)[3]


def _repeated(tree: Any, times: int) -> Any:
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, times, axis=0), tree)


def agreement(tried: Tried) -> list[list[str]]:
    """The rows of the second table."""
    found = []
    for first in range(0, len(tried.counts), WINDOW):
        window = Tried(*(leaf[first : first + WINDOW] for leaf in tried))
        q_tot, mean, noise = (leaf[window.counts] for leaf in window[:3])
        if len(mean) < 50:
            continue
        values, returns = (each - each.mean(1, keepdims=True) for each in (q_tot, mean))
        share = 1 - 1 / mean.shape[1]  # of the noise that is left beside a mean over the candidates
        spread = np.sqrt(max(np.mean(returns**2) - share * noise.mean(), 1e-12))
        correlation = np.mean(values * returns) / (np.std(values) * spread)
        numbers = (spread, np.std(values), correlation, np.mean(mean.max(1) - mean[:, 0]))
        found.append([f"{first} to {first + WINDOW - 1}", str(len(mean)), *(f"{number:.2f}" for number in numbers)])
    return found


def steps_from(text: str) -> list[int]:
    """Time steps, separated by commas."""
    if not all(word.isdecimal() for word in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} must be time steps, such as 0,4,8")
    return [int(word) for word in text.split(",")]


def main() -> int:
    """Play, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--team", type=int, default=0, help="the number of the seed among the run's, from 0 (0)")
    parser.add_argument("--episodes", type=count_from(1), default=48, help="(48)")
    parser.add_argument("--candidates", type=count_from(2), default=12, help="joint actions tried before a step (12)")
    parser.add_argument("--tries", type=count_from(2), default=6, help="of each (6)")
    parser.add_argument("--from-step", type=steps_from, metavar="STEPS", default="0,4,8", help="(0,4,8)")
    options = parser.parse_args()
    run = load_run(options.run)
    lookahead = Lookahead(run, options.team, options.candidates, options.tries)
    play = jax.jit(partial(lookahead.play, options.episodes))
    never = run.env.spec.episode_limit
    names = {never: "greedy"} | {step: f"lookahead from step {step} on" for step in options.from_step}
    played = {}
    for step, name in names.items():
        say(f"playing: {name}", sys.stderr)
        played[step] = jax.device_get(play(step, jax.random.key(0)))
    rows = [[names[step], *(f"{score:.3f}" for score in scores.mean(1))] for step, (scores, _) in played.items()]
    print(f"{options.episodes} episodes\n")
    print(table(["team", "return", *metric_names(run.env)], rows))
    head = ["steps", "states", "spread of returns", "of Q_tot", "correlation", "best above greedy"]
    print("\n" + table(head, agreement(played[never][1])))
    return 0


if __name__ == "__main__":
    script.exit_with(main, __file__)

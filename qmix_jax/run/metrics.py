"""The rows of metrics.jsonl from the metrics of chunks, seeds frozen by NaN, and the score of an evaluation."""

import heapq
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax.config import Config
from qmix_jax.envs.base import TeamEnv, metric_names
from qmix_jax.learning.exploration import epsilon_at
from qmix_jax.learning.rollout import EpisodeSums
from qmix_jax.records import ENVIRONMENT_NAN, FROZEN
from qmix_jax.run.program import ChunkMetrics, Program
from qmix_jax.run.usage import Usage
from qmix_jax.settings import require_one_of
from qmix_jax.types import Clock, Params

SUMS = ("wall_seconds", "compile_seconds", *Usage._fields)
"""Columns that add up over a run, also where it is resumed."""


class Seconds(NamedTuple):
    """Wall-clock times of a row."""

    total: float
    """Since the run started, without the time between a stop and a resume."""
    compiling: float
    chunk: float
    """For the chunk that the row reports."""


def make_row(program: Program, clock: Clock, metrics: ChunkMetrics, seconds: Seconds, used: Usage) -> dict:
    """The row of a chunk, with the clock after it, and what the run used so far."""
    config = program.config
    env_steps = env_steps_at(clock, config)
    mean_losses = {f"train/{name}": ratio(total, metrics.updates) for name, total in metrics.losses._asdict().items()}
    return {
        "env_steps": env_steps,
        "wall_seconds": round(seconds.total, 3),
        "compile_seconds": round(seconds.compiling, 3),
        **{name: round(value, 3) for name, value in used._asdict().items()},
        **mean_losses,
        **_episode_means("train", metrics.training),
        "train/updates": [int(count) for count in metrics.updates],
        "train/replay_fill": [_replay_fill(clock, config)] * config.num_seeds,
        "train/epsilon": float(epsilon_at(config.exploration, jnp.array(env_steps - config.rollout.num_envs))),
        "train/learning_rate": float(program.trainer.learner.learning_rate(jnp.array(env_steps))),
        "train/steps_per_second": round(config.chunk_env_steps * config.num_seeds / seconds.chunk, 1),
        **_episode_means("eval", metrics.evaluation),
    }


def env_steps_at(clock: Clock, config: Config) -> int:
    """Environment steps of each seed."""
    return int(clock.iteration) * config.iteration_env_steps


def _replay_fill(clock: Clock, config: Config) -> float:
    """How much of the replay is filled, from 0 to 1; 0 without replay."""
    rollouts = config.replay_sequences // config.rollout.num_envs
    return min(1.0, int(clock.iteration - clock.replay_start) / rollouts) if rollouts else 0.0


def _episode_means(prefix: str, sums: EpisodeSums) -> dict[str, list]:
    """For each seed the means over finished episodes (None where none finished), and the number of these episodes."""
    totals = {"return": sums.total_return, "episode_length": sums.total_length, **sums.metrics}
    means = {f"{prefix}/{name}": ratio(total, sums.episodes) for name, total in totals.items()}
    return {**means, f"{prefix}/episodes": [int(count) for count in sums.episodes]}


def ratio(total: Any, count: Any) -> list[float | None]:
    """total / count for each seed; None where the count is 0."""
    return [float(t) / float(c) if c > 0 else None for t, c in zip(total, count, strict=True)]


# --- seeds that met NaN ------------------------------------------------------------------------------------------


class FrozenSeeds:
    """The seeds whose loss or parameters became NaN.

    The program computes them further, since seeds do not affect each other. Their rows are masked from then on, and
    their parameters stay those from before the NaN.
    """

    def __init__(self, num_seeds: int, rows: Sequence[dict] = ()):
        """`rows` are those of a resumed run."""
        last, none = rows[-1] if rows else {}, [None] * num_seeds
        self.since: list[int | None] = list(last.get(FROZEN, none))
        """For each seed the environment step of the evaluation at which it met NaN; None while it is finite."""
        self.environment_nan_at: list[int | None] = list(last.get(ENVIRONMENT_NAN, none))
        """For each seed the environment step at which its environment gave NaN or infinity; None where it did not."""

    @property
    def count(self) -> int:
        """How many seeds are frozen."""
        return len(self.since) - self.since.count(None)

    @property
    def are_all(self) -> bool:
        """Whether every seed is frozen."""
        return None not in self.since

    def update(self, metrics: ChunkMetrics, params: Params, env_steps: int) -> list[int]:
        """Freeze the seeds that met NaN in a chunk; returns their indices."""
        leaves = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(params)]
        is_finite = np.all([np.isfinite(leaf).all(axis=1) for leaf in leaves], axis=0)
        is_finite &= np.isfinite(metrics.losses.loss)
        broken = [i for i, since in enumerate(self.since) if since is None and not is_finite[i]]
        for i in broken:
            self.since[i] = env_steps
        return broken

    def note_sources(self, env_steps: Mapping[int, int | None]) -> None:
        """Note for seeds (indices) the environment step at which the environment caused their NaN; None: it did not."""
        for i, step in env_steps.items():
            self.environment_nan_at[i] = step

    def keep(self, old: Params, new: Params) -> Params:
        """The new parameters, but the old ones of frozen seeds."""
        if not self.count:
            return new
        is_frozen = np.array([since is not None for since in self.since])

        def where(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            return np.where(is_frozen.reshape(-1, *[1] * (new.ndim - 1)), old, new)

        return jax.tree.map(where, old, new)

    def mask(self, row: dict) -> dict:
        """The row with None for frozen seeds: in the row of their NaN the evaluation, in later rows everything."""
        if not self.count:
            return row

        def hide(name: str, value: Any) -> Any:
            if not isinstance(value, list):
                return value
            shown = [
                since is None or (since == row["env_steps"] and not name.startswith("eval/")) for since in self.since
            ]
            return [item if is_shown else None for item, is_shown in zip(value, shown, strict=True)]

        return {name: hide(name, value) for name, value in row.items()} | {
            FROZEN: list(self.since),
            ENVIRONMENT_NAN: list(self.environment_nan_at),
        }


# --- the score of an evaluation ----------------------------------------------------------------------------------


def score_metric(config: Config, env: TeamEnv) -> str:
    """The metric by which the best checkpoints are chosen; raises ConfigError where the environment lacks it."""
    names = metric_names(env)
    wanted = config.checkpoint.metric
    if wanted == "auto":
        return "eval/win_rate" if "win_rate" in names else "eval/return"
    choices = [f"{prefix}/{name}" for prefix in ("eval", "train") for name in ("return", "episode_length", *names)]
    require_one_of("checkpoint.metric", wanted, ["auto", *choices])
    return wanted


class BestScores:
    """The `keep` largest scores so far."""

    def __init__(self, keep: int):
        self._keep = keep
        self._scores: list[float] = []

    def add(self, score: float | None) -> bool:
        """Take a score; returns whether fewer than `keep` earlier ones were as good."""
        if score is None or self._keep == 0:
            return False
        if len(self._scores) < self._keep:
            heapq.heappush(self._scores, score)
            return True
        return heapq.heappushpop(self._scores, score) < score

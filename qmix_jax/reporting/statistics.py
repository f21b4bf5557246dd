"""Aggregates over runs and tasks with their uncertainty (Agarwal et al. 2021, "Deep RL at the Edge of the Statistical
Precipice").

The definitions are those of the authors' library rliable. It is not used itself: its last release (1.2.0) needs
arch < 8, which fails to import beside pandas 3, and draws its resamples from NumPy's global generator, so that a report
could not be repeated. The tests compare with it where it can be imported.

*Scores* are a list with one array (runs,) for each task; tasks may have different numbers of runs.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000

Scores = Sequence[np.ndarray]


class Estimate(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """The mean of the middle half along the last axis: a quarter of the values (rounded down) is cut off each end."""
    count = values.shape[-1]
    cut = count // 4
    return np.sort(values, axis=-1)[..., cut : count - cut].mean(axis=-1)


def interquartile_mean_interval(scores: Scores) -> Estimate:
    """The interquartile mean over all runs of all tasks together, with a stratified bootstrap interval."""
    return _bootstrap(lambda resampled: interquartile_mean(np.concatenate(resampled, axis=-1)), scores)


def probability_of_improvement(scores: Scores, others: Scores) -> Estimate:
    """How likely a run of one algorithm beats a run of another on the same task, averaged over tasks.

        P = mean over tasks of mean over pairs of ([x > y] + [x = y] / 2)

    (Mann and Whitney's U over the number of pairs). Both algorithms' runs are resampled.
    """

    def compare(resampled: Scores) -> np.ndarray:
        pairs = zip(resampled[: len(scores)], resampled[len(scores) :], strict=True)
        return np.mean([_share_of_wins(x, y) for x, y in pairs], axis=0)

    return _bootstrap(compare, [*scores, *others])


def _share_of_wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(..., n) and (..., m) -> (...): the share of pairs that x wins."""
    gap = x[..., :, None] - y[..., None, :]
    return ((gap > 0) + 0.5 * (gap == 0)).mean(axis=(-1, -2))


def share_interval(count: int, total: int) -> Estimate:
    """The share of successes, with Wilson's interval: one that still says something where all or none succeed."""
    z = 1.959964
    share, scale = count / total, 1 + z**2 / total
    middle = (share + z**2 / (2 * total)) / scale
    half = z / scale * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return Estimate(share, max(0.0, float(middle - half)), min(1.0, float(middle + half)))


def _bootstrap(statistic: Callable[[Scores], np.ndarray], scores: Scores) -> Estimate:
    """The statistic and its percentile interval; runs are drawn with replacement within each array (stratified)."""
    generator = np.random.default_rng(0)
    resampled = [runs[generator.integers(len(runs), size=(RESAMPLES, len(runs)))] for runs in scores]
    low, high = np.percentile(statistic(resampled), (2.5, 97.5))
    return Estimate(float(statistic(scores)), float(low), float(high))

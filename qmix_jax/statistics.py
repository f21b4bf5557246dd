"""Estimates with their 95 % intervals.

A mean over seeds has Student's t interval (`mean_over_seeds`), on every display, dashboard and chart. Interquartile
means and probabilities of improvement have the stratified percentile bootstrap of Agarwal et al. 2021 ("Deep RL at the
Edge of the Statistical Precipice"), means over seeds and their episodes a nested one. The interval of a share of
episodes is never narrower than Wilson's for all episodes pooled (`widen`).

Definitions are those of rliable. It is not a dependency: release 1.2.0 needs arch < 8, which cannot be imported beside
pandas 3, and it resamples with NumPy's global generator, so that reports could not be repeated. scipy.stats.bootstrap
refuses arrays with a single run. Resamples here are the same every time.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
NESTED_RESAMPLES = 1000

TaskScores = Sequence[np.ndarray]
"""One array (runs,) for each task; tasks may have different numbers of runs."""


class Estimate(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


# --- shares ------------------------------------------------------------------------------------------------------


def share_interval(count: float, total: int) -> Estimate:
    """The share of successes with Wilson's interval, which has width even if all succeed or none does."""
    share = count / total
    low, high = _wilson(np.asarray(share), np.asarray(total))
    return Estimate(share, float(low), float(high))


def widen(
    share: np.ndarray, low: np.ndarray, high: np.ndarray, total: np.ndarray | int
) -> tuple[np.ndarray, np.ndarray]:
    """An interval over seeds, widened to at least Wilson's for `total` pooled episodes; NaN: no widening.

    If all seeds score alike (all at 0 or 100 %, for example), an interval over seeds has no width, as if further
    episodes could not come out otherwise. All arrays have one shape. The result lies within [0, 1] and contains the
    share.
    """
    least, most = _wilson(np.asarray(share), np.asarray(total))
    return np.clip(np.fmin(low, least), 0.0, share), np.clip(np.fmax(high, most), share, 1.0)


def _wilson(share: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's 95 % interval for shares of `total` independent trials, elementwise."""
    z = 1.959964
    scale = 1 + z**2 / total
    middle = (share + z**2 / (2 * total)) / scale
    half = z / scale * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return np.clip(middle - half, 0.0, share), np.clip(middle + half, share, 1.0)


# --- means over seeds --------------------------------------------------------------------------------------------


def mean_over_seeds(
    values: np.ndarray, episodes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, low and high, each (points,), of values (seeds, points): the mean over seeds with Student's t interval.

    NaN counts as missing. The interval of one seed is its value. With `episodes` (points,), the number of episodes of
    all seeds together, the values are shares of them: see `widen`.
    """
    from scipy.special import stdtrit  # takes half a second to import

    values = np.asarray(values, np.float64)
    is_known = np.isfinite(values)
    count = is_known.sum(0)
    mean = np.where(is_known, values, 0.0).sum(0) / np.where(count, count, np.nan)
    variance = (np.where(is_known, values - mean, 0.0) ** 2).sum(0) / np.maximum(count - 1, 1)
    half = np.where(count > 1, stdtrit(np.maximum(count - 1, 1), 0.975) * np.sqrt(variance / np.maximum(count, 1)), 0.0)
    low, high = mean - half, mean + half
    return (mean, low, high) if episodes is None else (mean, *widen(mean, low, high, episodes))


def seeds_interval(values: Sequence[float], episodes: float | None = None) -> Estimate | None:
    """`mean_over_seeds` of a single point, shares of `episodes` (NaN: not known how many); None without values."""
    if not values:
        return None
    counts = np.array([episodes]) if episodes else None
    return Estimate(*(float(each[0]) for each in mean_over_seeds(np.array(values)[:, None], counts)))


# --- bootstraps --------------------------------------------------------------------------------------------------


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """The mean of the middle half along the last axis: a quarter of the values (rounded down) is cut off each end."""
    from scipy.stats import trim_mean  # takes a second to import

    return trim_mean(values, 0.25, axis=-1)


def interquartile_mean_interval(scores: TaskScores, episodes: int | None = None) -> Estimate:
    """The interquartile mean over all runs of all tasks together, with a stratified bootstrap interval.

    With `episodes`, the number of episodes of all runs together, the scores are shares of them: see `widen`.
    """
    value, low, high = _bootstrap(lambda resampled: interquartile_mean(np.concatenate(resampled, axis=-1)), scores)
    if episodes:
        low, high = map(float, widen(np.asarray(value), np.asarray(low), np.asarray(high), episodes))
    return Estimate(value, low, high)


def probability_of_improvement(scores: TaskScores, others: TaskScores) -> Estimate:
    """The probability that a run of one algorithm beats a run of another on the same task, averaged over tasks.

        P = mean over tasks of mean over pairs of ([x > y] + [x = y] / 2)

    (Mann and Whitney's U over the number of pairs). The runs of both algorithms are resampled. If the bootstrap has no
    width, as when every pair has the same winner, the interval is Wilson's for the number of disjoint pairs.
    """

    def compare(resampled: TaskScores) -> np.ndarray:
        pairs = zip(resampled[: len(scores)], resampled[len(scores) :], strict=True)
        return np.mean([_share_of_wins(x, y) for x, y in pairs], axis=0)

    estimate = _bootstrap(compare, [*scores, *others])
    if estimate.low < estimate.high:
        return estimate
    pairs = sum(min(len(x), len(y)) for x, y in zip(scores, others, strict=True))
    return share_interval(estimate.value * pairs, pairs)


def _share_of_wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(..., n) and (..., m) -> (...): the share of pairs in which x is larger."""
    gap = x[..., :, None] - y[..., None, :]
    return ((gap > 0) + 0.5 * (gap == 0)).mean(axis=(-1, -2))


def performance_profile(scores: TaskScores, thresholds: np.ndarray) -> list[Estimate]:
    """At each threshold the share of runs that score more, averaged over tasks (Agarwal et al. 2021), each with its own
    stratified bootstrap interval.
    """

    def shares(runs: TaskScores) -> np.ndarray:
        return np.mean([(each[..., None] > thresholds).mean(-2) for each in runs], axis=0)

    low, high = np.percentile(shares(_resample(scores)), (2.5, 97.5), axis=0)
    return [Estimate(*map(float, each)) for each in zip(shares(scores), low, high, strict=True)]


def _bootstrap(statistic: Callable[[TaskScores], np.ndarray], scores: TaskScores) -> Estimate:
    """A statistic with its percentile interval."""
    low, high = np.percentile(statistic(_resample(scores)), (2.5, 97.5))
    return Estimate(float(statistic(scores)), float(low), float(high))


def _resample(scores: TaskScores) -> TaskScores:
    """`RESAMPLES` times the runs (RESAMPLES, runs), drawn with replacement within each task (stratified)."""
    generator = np.random.default_rng(0)
    return [runs[generator.integers(len(runs), size=(RESAMPLES, len(runs)))] for runs in scores]


def nested_bootstrap(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low and high (M,) of the percentile interval of the mean of values (S, E, M), over seeds and their episodes.

    Each resample draws S seeds, and for each of them E of its own episodes, with replacement.
    """
    generator = np.random.default_rng(0)
    seeds, episodes, _ = values.shape
    means = np.empty((NESTED_RESAMPLES, values.shape[2]))
    for k in range(NESTED_RESAMPLES):
        drawn = generator.integers(seeds, size=(seeds, 1))
        means[k] = values[drawn, generator.integers(episodes, size=(seeds, episodes))].mean(axis=(0, 1))
    low, high = np.percentile(means, (2.5, 97.5), axis=0)
    return low, high

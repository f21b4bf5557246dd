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


def interquartile_mean_interval(scores: Scores, episodes: int | None = None) -> Estimate:
    """The interquartile mean over all runs of all tasks together, with a stratified bootstrap interval.

    With `episodes`, the number of episodes of all runs together, the scores are shares of them: see `widen`.
    """
    value, low, high = _bootstrap(lambda resampled: interquartile_mean(np.concatenate(resampled, axis=-1)), scores)
    if episodes:
        low, high = map(float, widen(np.asarray(value), np.asarray(low), np.asarray(high), episodes))
    return Estimate(value, low, high)


def probability_of_improvement(scores: Scores, others: Scores) -> Estimate:
    """How likely a run of one algorithm beats a run of another on the same task, averaged over tasks.

        P = mean over tasks of mean over pairs of ([x > y] + [x = y] / 2)

    (Mann and Whitney's U over the number of pairs). Both algorithms' runs are resampled. Where that leaves no width, as
    when every pair has the same winner, the interval is Wilson's for as many pairs as have no run in common.
    """

    def compare(resampled: Scores) -> np.ndarray:
        pairs = zip(resampled[: len(scores)], resampled[len(scores) :], strict=True)
        return np.mean([_share_of_wins(x, y) for x, y in pairs], axis=0)

    estimate = _bootstrap(compare, [*scores, *others])
    if estimate.low < estimate.high:
        return estimate
    pairs = sum(min(len(x), len(y)) for x, y in zip(scores, others, strict=True))
    return share_interval(estimate.value * pairs, pairs)


def _share_of_wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(..., n) and (..., m) -> (...): the share of pairs that x wins."""
    gap = x[..., :, None] - y[..., None, :]
    return ((gap > 0) + 0.5 * (gap == 0)).mean(axis=(-1, -2))


def share_interval(count: float, total: int) -> Estimate:
    """The share of successes, with Wilson's interval: it has width also where all or none succeed."""
    share = count / total
    low, high = _wilson(np.asarray(share), np.asarray(total))
    return Estimate(share, float(low), float(high))


def _wilson(share: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low and high of Wilson's 95 % interval for shares of `total` independent tries (of any one shape)."""
    z = 1.959964
    scale = 1 + z**2 / total
    middle = (share + z**2 / (2 * total)) / scale
    half = z / scale * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return np.clip(middle - half, 0.0, share), np.clip(middle + half, share, 1.0)


def widen(
    share: np.ndarray, low: np.ndarray, high: np.ndarray, total: np.ndarray | int
) -> tuple[np.ndarray, np.ndarray]:
    """Low and high of an interval over seeds, no narrower than Wilson's for the share of `total` pooled episodes.

    Seeds that all score alike (all at 0 or 100 %, say) leave a bootstrap or a t interval without width, which would
    mean that further episodes could not come out otherwise. All arrays have one shape; where `total` is NaN, the
    interval stays as it is. The result lies within [0, 1] and holds the share.
    """
    least, most = _wilson(np.asarray(share), np.asarray(total))
    return np.clip(np.fmin(low, least), 0.0, share), np.clip(np.fmax(high, most), share, 1.0)


def seeds_interval(values: Sequence[float], episodes: int | None = None) -> Estimate | None:
    """The mean over seeds with Student's t interval; None without values, and without width for one value.

    With `episodes`, the number of all seeds' episodes, the values are shares of them: see `widen`.
    """
    if not values:
        return None
    count, mean = len(values), float(np.mean(values))
    half = _student_t(count - 1) * float(np.std(values, ddof=1)) / count**0.5 if count > 1 else 0.0
    if not episodes:
        return Estimate(mean, mean - half, mean + half)
    low, high = widen(np.asarray(mean), np.asarray(mean - half), np.asarray(mean + half), episodes)
    return Estimate(mean, float(low), float(high))


def _bootstrap(statistic: Callable[[Scores], np.ndarray], scores: Scores) -> Estimate:
    """The statistic and its percentile interval; runs are drawn with replacement within each array (stratified)."""
    generator = np.random.default_rng(0)
    resampled = [runs[generator.integers(len(runs), size=(RESAMPLES, len(runs)))] for runs in scores]
    low, high = np.percentile(statistic(resampled), (2.5, 97.5))
    return Estimate(float(statistic(scores)), float(low), float(high))


_STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def _student_t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t: a table, and its series in 1 / freedom beyond."""
    if freedom <= len(_STUDENT_T):
        return _STUDENT_T[freedom - 1]
    return 1.95996 + 2.37227 / freedom + 2.8225 / freedom**2

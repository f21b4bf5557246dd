"""Means, interquartile means and probabilities of improvement with their intervals, against known values."""

import numpy as np
import pytest

from qmix_jax.statistics import (
    interquartile_mean,
    interquartile_mean_interval,
    mean_over_seeds,
    performance_profile,
    probability_of_improvement,
    seeds_interval,
    share_interval,
)

# --- interquartile means and probabilities of improvement --------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [([7.0], 7.0), ([1.0, 3.0], 2.0), ([100.0, 2.0, 1.0, -100.0], 1.5), ([*range(10), 1000], 5.0)],
)
def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end(values, expected):
    assert interquartile_mean(np.array(values, float)) == expected
    assert interquartile_mean_interval([np.array(values, float)]).value == expected


def test_the_interquartile_mean_pools_the_runs_of_all_tasks():
    tasks = [np.array([0.0, 1.0]), np.array([2.0, 3.0])]
    assert interquartile_mean_interval(tasks).value == 1.5


def test_resamples_stay_within_their_task():
    """Each task's runs are alike, so that a stratified resample changes nothing; a plain one would."""
    assert interquartile_mean_interval([np.zeros(4), np.ones(4)]) == (0.5, 0.5, 0.5)


def test_the_interval_is_that_of_the_bootstrap_distribution():
    """Of two runs, 0 and 1, a resample has the mean 0, 1/2 or 1 with probability 1/4, 1/2, 1/4."""
    assert interquartile_mean_interval([np.array([0.0, 1.0])]) == (0.5, 0.0, 1.0)
    runs = np.random.default_rng(0).normal(size=40)
    estimate = interquartile_mean_interval([runs])
    assert estimate == interquartile_mean_interval([runs]), "reports can be repeated"
    assert 0.4 < estimate.high - estimate.low < 1.0  # 3.9 standard errors of a trimmed mean: about 0.7


@pytest.mark.parametrize(
    ("x", "y", "expected"), [([2, 3], [0, 1], 1.0), ([0, 1], [0, 1], 0.5), ([1, 1], [1, 0], 0.75), ([0], [1, 2, 3], 0)]
)
def test_the_probability_of_improvement_counts_pairs(x, y, expected):
    x, y = np.array(x, float), np.array(y, float)
    assert probability_of_improvement([x], [y]).value == expected
    assert probability_of_improvement([y], [x]).value == 1 - expected
    assert probability_of_improvement([x, np.ones(2)], [y, np.zeros(3)]).value == (expected + 1) / 2


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(10, 10, 0.7225, 1.0), (0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634)],  # as published tables say
)
def test_the_interval_of_a_share_is_wilsons(count, total, low, high):
    assert share_interval(count, total) == pytest.approx((count / total, low, high), abs=1e-4)


def test_an_interval_over_seeds_is_no_narrower_than_wilsons_over_their_episodes():
    """Four seeds of 32 episodes: alike, at 0, at 1 or between, they leave the width of 128 episodes."""
    for share in (0.0, 0.25, 1.0):
        estimate = interquartile_mean_interval([np.full(4, share)], episodes=128)
        assert estimate == pytest.approx(share_interval(128 * share, 128))
        assert estimate.low <= share <= estimate.high and estimate.high - estimate.low > 0.02
    apart = np.array([0.0, 1.0])
    assert interquartile_mean_interval([apart], 64) == interquartile_mean_interval([apart]), (
        "as before where it is wider"
    )


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_students_interval_of_seeds_that_are_alike_is_wilsons(share):
    estimate = seeds_interval([share] * 3, episodes=96)
    assert estimate == pytest.approx(share_interval(96 * share, 96))
    assert seeds_interval([share] * 3) == (share, share, share), "a return may be certain"


def test_students_interval_of_a_share_stays_within_0_and_1():
    assert seeds_interval([0.0, 1.0], episodes=64) == (0.5, 0.0, 1.0)


def test_an_interval_over_seeds_is_students():
    mean, low, high = seeds_interval([1.0, 2.0, 3.0])
    assert (mean, high - mean) == (2.0, pytest.approx(4.3026527 / np.sqrt(3))) and mean - low == pytest.approx(
        high - mean
    )
    assert seeds_interval([7.0]) == (7.0, 7.0, 7.0) and seeds_interval([]) is None


@pytest.mark.parametrize(("runs", "low"), [(1, 0.2065), (3, 0.4385), (10, 0.7225)])
def test_a_method_that_wins_every_pair_is_as_sure_as_so_many_pairs_are(runs, low):
    estimate = probability_of_improvement([np.ones(runs)], [np.zeros(runs)])
    assert estimate == pytest.approx((1.0, low, 1.0), abs=1e-4)


def test_statistics_agree_with_rliable():
    library, metrics = import_rliable()
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(10, 4)), generator.normal(0.3, size=(8, 4))
    mine = interquartile_mean_interval(list(x.T))
    value, interval = library.get_interval_estimates(
        {"x": x}, lambda s: np.array([metrics.aggregate_iqm(s)]), reps=5000
    )
    np.testing.assert_allclose(mine.value, value["x"][0])
    np.testing.assert_allclose((mine.low, mine.high), interval["x"][:, 0], atol=0.03)
    mine = probability_of_improvement(list(x.T), list(y.T))
    value, interval = library.get_interval_estimates(
        {"xy": [x, y]}, lambda *s: np.array([metrics.probability_of_improvement(*s)]), reps=2000
    )
    np.testing.assert_allclose(mine.value, value["xy"][0])
    np.testing.assert_allclose((mine.low, mine.high), interval["xy"][:, 0], atol=0.03)


def import_rliable():
    try:
        from rliable import library, metrics
    except Exception as error:  # its own dependencies break it in various ways
        pytest.skip(f"rliable cannot be imported: {error}")
    return library, metrics


# --- means over seeds --------------------------------------------------------------------------------------------


def test_the_interval_holds_the_mean():
    values = np.random.default_rng(1).normal(size=(8, 20))
    _, low, high = mean_over_seeds(values)
    assert (low < values.mean(0)).all() and (values.mean(0) < high).all()
    assert np.array_equal(mean_over_seeds(values)[1], low)
    _, one_low, one_high = mean_over_seeds(values[:1])
    assert np.array_equal(one_low, values[0]) and np.array_equal(one_high, values[0])


def test_the_interval_leaves_out_what_is_missing():
    _, low, high = mean_over_seeds(np.array([[1.0, np.nan, np.nan], [2.0, 3.0, np.nan]]))
    assert low[0] <= 1.5 <= high[0] and low[1] == high[1] == 3 and np.isnan(low[2])


def test_the_interval_of_shares_that_are_alike_is_as_wide_as_their_episodes_leave_it():
    values = np.array([[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    _, low, high = mean_over_seeds(values, np.array([64, 64, np.nan]))
    assert low[0] == 0 and high[0] == pytest.approx(share_interval(0, 64).high) and high[0] > 0.05
    assert high[1] == 1 and low[1] == pytest.approx(share_interval(64, 64).low)
    assert low[2] == high[2] == 1, "of so many episodes as nobody counted"


def test_a_performance_profile_is_the_share_of_runs_above_each_threshold_averaged_over_tasks():
    """Of the first task's two runs both, one, none are above 0, 0.5, 1; of the second's four runs three, one, none."""
    scores = [np.array([0.4, 1.0]), np.array([0.0, 0.2, 0.3, 0.9])]
    zero, half, one = performance_profile(scores, np.array([0, 0.5, 1]))
    assert [each.value for each in (zero, half, one)] == [(1 + 0.75) / 2, (0.5 + 0.25) / 2, 0]
    assert zero.low < zero.value < zero.high <= 1 and one == (0, 0, 0)

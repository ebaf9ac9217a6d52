import numpy as np
import pytest
from scipy.stats import binomtest, trim_mean

from recrl.benchmarks.conflict import statistics


@pytest.mark.parametrize("n", [1, 3, 4, 7, 10, 101])
def test_interquartile_mean_is_scipys_trimmed_mean(n):
    scores = np.random.default_rng(n).normal(size=(5, n))
    assert statistics.interquartile_mean(scores) == pytest.approx(trim_mean(scores, 0.25, axis=1))


def test_runs_that_went_astray_do_not_move_the_interquartile_mean():
    scores = np.array([[0.9, 0.9, 0.9, 0.9, 0.9, 0.9, -50.0, 0.9]])
    assert statistics.interquartile_mean(scores)[0] == pytest.approx(0.9)
    assert statistics.mean(scores)[0] < -5


def test_interval_of_a_mean_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    levels = np.array([0.2, 0.5, 0.9])  # problems differ far more than seeds do
    hits, widths = 0, []
    for trial in range(300):
        strata = [level + 0.05 * rng.normal(size=20) for level in levels]
        found = statistics.bootstrap(strata, statistics.mean, seed=trial)
        hits += found.low <= levels.mean() <= found.high
        widths.append(found.high - found.low)
    assert 0.88 <= hits / 300 <= 0.98
    # Only seeds are resampled: the width is that of 60 runs with spread .05, not of the spread over problems.
    assert np.mean(widths) == pytest.approx(2 * 1.96 * 0.05 / np.sqrt(60), rel=0.1)


def test_interval_depends_on_its_seed_alone():
    strata = [np.random.default_rng(k).uniform(size=8) for k in range(3)]
    one, same, other = (statistics.bootstrap(strata, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.value == other.value
    assert (one.low, one.high) != (other.low, other.high)


def test_problems_may_have_different_numbers_of_seeds():
    strata = [np.array([0.0, 1.0]), np.array([0.5]), np.array([0.2, 0.4, 0.6])]
    assert statistics.bootstrap(strata).value == pytest.approx(trim_mean(np.concatenate(strata), 0.25))


def test_pairing_takes_out_what_two_rules_share():
    rng = np.random.default_rng(3)
    luck = [rng.normal(size=10) for _ in range(4)]
    first = [s + 0.1 + 0.01 * rng.normal(size=10) for s in luck]
    paired = statistics.paired_difference(first, luck)
    differences = np.concatenate(first) - np.concatenate(luck)
    assert paired.value == pytest.approx(differences.mean())
    assert 0.09 < paired.low < 0.1 < paired.high < 0.11
    with pytest.raises(ValueError, match=r"\[\[10, 10, 10, 10\], \[10, 10, 10\]\]"):
        statistics.paired_difference(first, luck[:3])


def test_performance_profile_counts_the_runs_above_each_level():
    strata = [np.array([0.1, 0.5, 0.9]), np.array([0.5, 1.0])]
    found = statistics.performance_profile(strata, np.array([0.0, 0.5, 0.95, 1.0]))
    assert found.share == pytest.approx([1.0, 0.4, 0.2, 0.0])
    assert (found.low <= found.share).all()
    assert (found.share <= found.high).all()
    # At .95 only the second problem can score: its two draws are both 1.0 with probability 1/4.
    assert (found.low[2], found.high[2]) == pytest.approx((0.0, 0.4))
    assert (found.low[0], found.high[0]) == (1.0, 1.0)


@pytest.mark.parametrize(("hits", "total"), [(0, 10), (10, 10), (9, 10), (57, 60)])
def test_share_has_the_wilson_interval(hits, total):
    found = statistics.share(hits, total)
    expected = binomtest(hits, total).proportion_ci(0.95, method="wilson")
    assert (found.value, found.low, found.high) == pytest.approx((hits / total, expected.low, expected.high))


@pytest.mark.parametrize("strata", [[], [np.array([])], [np.array([0.1, np.nan])]])
def test_nothing_is_said_about_runs_that_are_not_there(strata):
    with pytest.raises(ValueError, match="leave"):
        statistics.bootstrap(strata)

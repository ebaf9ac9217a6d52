"""Intervals, power and corrections, against what they promise."""

import numpy as np
import pytest
from scipy.stats import norm, t, ttest_rel

from recrl.envs.simulator import inference
from recrl.envs.simulator.inference import Pilot, holm, looks, paired, power, smallest, split


def test_holm_is_the_step_down_method():
    # Worked by hand: 4 * .01, 3 * .02, then 2 * .03 = .06 and 1 * .5.
    assert holm([0.02, 0.5, 0.01, 0.03]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_paired_leaves_out_what_is_undefined_and_averages_seeds():
    a = np.array([[1.0, np.nan, 3.0, 0.0], [1.0, np.nan, np.nan, 0.0]])
    b = np.array([[2.0, 5.0, 5.0, 0.0], [4.0, 5.0, 5.0, 2.0]])
    found, _ = paired(a, b)
    assert found.mean == pytest.approx((2 + 2 + 1) / 3)
    assert (found.episodes, found.dropped) == (3, 1)
    same, p = paired(a, a)
    assert (same.mean, same.low, same.high, p) == (0, 0, 0, 1)


def test_power_is_what_tests_find():
    rng = np.random.default_rng(0)
    draws = rng.normal(0.3, 1.0, (4000, 60))
    z = draws.mean(axis=1) / (1 / np.sqrt(60))
    found = (np.abs(z) > norm.isf(0.025)).mean()
    assert power(0.3, 1 / np.sqrt(60)) == pytest.approx(found, abs=0.02)
    assert power(smallest(0.7), 0.7) == pytest.approx(0.8, abs=1e-3)
    assert power(0.0, 1.0) == pytest.approx(0.05)


def test_power_of_rare_differences_is_read_off_the_pilot():
    rng = np.random.default_rng(5)
    pilot, tests = rng.poisson(0.07, 4000).astype(float), rng.poisson(0.07, (2000, 60)).astype(float)
    errors = tests.std(axis=1, ddof=1) / np.sqrt(60)
    found = (tests.mean(axis=1) > t.isf(0.025, 59) * errors).mean()
    assert inference.resampled_power(pilot, 60) == pytest.approx(found, abs=0.06)


def test_a_pilot_tells_shoppers_from_luck():
    rng = np.random.default_rng(1)
    shopper = rng.normal(0, 2.0, 4000)
    a = rng.normal(0, 1.0, (3, 4000))
    b = a + shopper + rng.normal(0, 3.0, (3, 4000))
    pilot = Pilot.of(a, b)
    assert pilot.between == pytest.approx(4, rel=0.15)
    assert pilot.within == pytest.approx(9, rel=0.1)
    assert pilot.error(100, 3) == pytest.approx(np.sqrt((4 + 3) / 100), rel=0.1)


def test_cuped_takes_out_what_was_known_and_keeps_the_difference():
    rng = np.random.default_rng(2)
    known = rng.normal(0, 1, (4000, 2))
    a = 2 * known[:, 0] + rng.normal(0, 1, 4000)
    plain, adjusted = split(a, a + 0.5), split(a, a + 0.5, known)
    assert plain.reduced == 0
    # The variance of 2 x + e is 5, of e 1.
    assert adjusted.reduced == pytest.approx(0.8, abs=0.03)
    assert adjusted.low < 0.5 < adjusted.high
    assert adjusted.high - adjusted.low < 0.5 * (plain.high - plain.low)
    lucky = [split(a, a, known, seed) for seed in range(200)]
    assert np.mean([one.low <= 0 <= one.high for one in lucky]) == pytest.approx(0.95, abs=0.05)


def test_looks_hold_all_at_once_and_find_what_is_there():
    rng = np.random.default_rng(3)
    wrong = [any(look.decided for look in looks(rng.exponential(1, 1000) - 1)) for _ in range(300)]
    assert np.mean(wrong) <= 0.05
    found = looks(rng.normal(0.3, 1, 1000))
    assert found[-1].decided
    assert [look.shoppers for look in found] == list(range(100, 1001, 100))
    # Wider than the interval of one look alone.
    assert found[-1].high - found[-1].mean > norm.isf(0.025) / np.sqrt(1000)
    assert inference.LEVEL == 0.05


def test_a_paired_difference_is_scipys():
    rng = np.random.default_rng(0)
    a = rng.random((3, 40))
    b = a + rng.normal(0.1, 0.5, (3, 40))
    b[:, 7] = np.nan
    found, p = paired(a, b)
    known = ttest_rel(*(np.delete(one.mean(axis=0), 7) for one in (b, a)))
    low, high = known.confidence_interval(0.95)
    assert (found.low, found.high, p) == pytest.approx((low, high, known.pvalue))
    assert (found.episodes, found.dropped) == (39, 1)
    with pytest.raises(ValueError, match="defined for 1 shoppers; two are needed"):
        paired(a[:, 6:8], b[:, 6:8])

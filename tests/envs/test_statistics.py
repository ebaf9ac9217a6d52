import numpy as np
import pytest

from recrl.envs.statistics import estimate, pooled


def test_the_interval_of_one_seed_is_that_over_users_and_seeds_that_differ_widen_it():
    random = np.random.default_rng(0)
    users = random.integers(0, 40, 200)
    values = random.random(200)
    values[::7] = np.nan
    alone, known = pooled([values], users), estimate(values, users)
    assert (alone.mean, alone.low, alone.high) == pytest.approx((known.mean, known.low, known.high))
    apart = pooled([values - 0.2, values, values + 0.2], users)
    assert apart.mean == pytest.approx(known.mean)
    assert apart.high - apart.low > 1.5 * (alone.high - alone.low)


def test_a_ratio_of_means_is_that_of_sums_over_seeds():
    random = np.random.default_rng(0)
    users = np.repeat(np.arange(30), 2)
    per = [random.random(60) + 0.5, random.random(60) + 0.5]
    found = pooled([0.3 * per[0], 0.3 * per[1]], users, per=per)
    assert (found.mean, found.low, found.high) == pytest.approx((0.3, 0.3, 0.3))
    per[0][0] = np.nan
    apart = pooled([0.2 * per[0], 0.4 * per[1]], users, per=per)
    assert apart.mean == pytest.approx(
        (0.2 * np.nansum(per[0]) + 0.4 * per[1].sum()) / (np.nansum(per[0]) + per[1].sum())
    )
    assert (apart.episodes, apart.dropped) == (119, 1)
    assert (apart.low, apart.high) == pytest.approx((0.2, 0.4)), "resamples of one seed alone are among them"

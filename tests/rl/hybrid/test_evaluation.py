import numpy as np
import pytest

from recrl.rl.hybrid.evaluation import majority, overlap, recovered
from recrl.rl.hybrid.questions import Question


def test_overlap_is_the_share_of_the_other_list():
    found = overlap(["a\nb\n", "c\n", "a\n"], ["b\nc\n", "c\n", ""])
    assert found[:2].tolist() == [0.5, 1.0]
    assert np.isnan(found[2])


def test_the_recovered_share_is_one_of_means_and_its_interval_resamples_users():
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(100), 3)
    low = rng.random(300)
    high = low + 0.2 + 0.05 * rng.standard_normal(300)
    found = recovered([0.3 * low + 0.7 * high], [low], [high], users)
    assert found.mean == pytest.approx(0.7)
    assert found.low == pytest.approx(0.7)
    noisy = recovered([0.3 * low + 0.7 * high + 0.1 * rng.standard_normal(300)], [low], [high], users)
    assert noisy.low < noisy.mean < noisy.high
    assert (noisy.mean - noisy.low) == pytest.approx(1.96 * 0.1 / np.sqrt(300) / 0.2, rel=0.35)
    twice = recovered(*([np.repeat(x, 2)] for x in (low, low, high)), np.repeat(users, 2))
    assert (twice.mean, twice.episodes) == (0.0, 600)


def test_a_majority_answers_each_attribute_by_its_most_frequent_value():
    learned = [Question("x", "brand", v) for v in "aab"] + [Question("x", "type", v) for v in "bbc"]
    asked = [Question("y", "brand", "a"), Question("y", "brand", "b"), Question("y", "type", "b")]
    assert majority(learned, asked).tolist() == [True, False, True]

"""A/B tests: the same luck, differences that are there, and verdicts."""

import numpy as np
import pytest

from recrl.envs.simulator import inference
from recrl.envs.simulator.ab_test import OPEN, ROBUST, ABTest, Plan, verdict
from recrl.envs.simulator.arms import baseline
from recrl.envs.simulator.outcomes import METRICS, diversity, item_vectors
from recrl.envs.simulator.scenario import SCENARIOS, SimulatorError
from recrl.envs.statistics import Estimate

BASE = SCENARIOS[0]


def made(small, a, b, **plan):
    arms = tuple(baseline(name, small.task, {"novelty": 0.5}) for name in (a, b))
    return ABTest.of(small.task, arms, Plan(41, **{"weeks": 5, "refresh": 2, **plan}))


def test_an_arm_does_not_differ_from_itself_under_the_same_luck(small):
    found = made(small, "own frequency", "own frequency").compare(small.hazards, BASE, range(2))
    assert np.array_equal(found.a, found.b, equal_nan=True)
    assert found.a.shape == (2, len(made(small, "random", "random").start.users), len(METRICS))


def test_policies_rank_as_they_should_under_every_scenario(small):
    for scenario in SCENARIOS:
        found = made(small, "random", "own frequency").compare(small.hazards, scenario, range(2))
        differences = found.differences()
        assert differences["CTR"][0].low > 0, scenario.name
        assert differences["NER"][0].high < 0, scenario.name


def test_a_planted_effect_is_found(small):
    test = made(small, "own frequency", "own frequency")
    found = test.compare(small.hazards, BASE, range(4), lift=1.3).differences()
    assert found["CTR"][0].low > 0
    assert found["NER"][0].low <= 0 <= found["NER"][0].high


def test_an_a_a_test_covers_zero(small):
    """Two arms alike under luck of their own; a few tests, whose shares are those of the benchmark."""
    test = made(small, "own frequency", "own frequency", weeks=4)
    values = np.stack([test.live(test.arms[0], small.hazards, BASE, seed) for seed in range(40)])
    for place, metric in enumerate(METRICS):
        covered = []
        for i in range(0, 40, 2):
            found, _ = inference.paired(values[i : i + 1, :, place], values[i + 1 : i + 2, :, place])
            covered.append(found.low <= 0 <= found.high)
        assert np.mean(covered) >= 0.8, metric


def test_a_part_of_a_test_has_the_first_lists_of_the_whole(small):
    test = made(small, "random", "quota")
    part = test.part(np.arange(20))
    assert np.array_equal(part.first(test.arms[1]), test.first(test.arms[1])[:20])
    assert len(part.start.users) == 20


def test_diversity_is_the_mean_over_pairs(small):
    vectors = item_vectors(small.task.data, 6)
    slates = np.array([[0, 3, 5, -1], [2, -1, -1, -1]], np.int32)
    cosines = [vectors[a] @ vectors[b] for a, b in ((0, 3), (0, 5), (3, 5))]
    assert diversity(slates, slates >= 0, vectors) == pytest.approx([1 - np.mean(cosines), 0], abs=1e-5)


def test_a_verdict_needs_every_scenario():
    def found(mean):
        return Estimate(mean, mean - 0.1, mean + 0.1, 9, 0)

    base = (found(0.5), 0.001)
    zero = Estimate(0.0, 0.0, 0.0, 9, 0)
    assert verdict(base, 0.01, {"a": found(0.2), "b": found(0.9)}) == ROBUST
    assert verdict(base, 0.2, {"a": found(0.2)}) == OPEN
    assert verdict(base, 0.01, {"a": found(0.2), "b": found(-0.2)}) == "flips: b"
    # An interval that holds zero says nothing of a sign, whatever its mean.
    others = {"a": found(-0.01), "b": found(0.05), "c": found(-0.2), "d": zero}
    assert verdict(base, 0.01, others) == "flips: c; none: d; open: a, b"
    assert verdict((found(-0.5), 0.001), 0.01, {"a": found(-0.2), "b": found(0.2)}) == "flips: b"


def test_a_week_outside_of_the_data_is_refused(small):
    with pytest.raises(SimulatorError, match=r"--origin 30: .* give a week from 36 to 5[23]$"):
        ABTest.of(small.task, made(small, "random", "quota").arms, Plan(30))

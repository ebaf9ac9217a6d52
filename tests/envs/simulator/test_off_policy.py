"""Off-policy estimates against sums over every list, and on logs of the shop, where the truth is known."""

from itertools import permutations

import numpy as np
import pytest

from recrl.envs.simulator.off_policy import Logged, evaluate, log_probabilities, sample
from recrl.envs.simulator.scenario import SimulatorError


@pytest.fixture
def problem():
    """Scores of two policies over five tags, and what each tag earns in each of two slots."""
    rng = np.random.default_rng(0)
    return rng.normal(0, 1, 5), rng.normal(0, 1, 5), rng.random((5, 2))


def every_list(scores):
    lists = np.array([*permutations(range(5), 2)], np.int32)
    shown = log_probabilities(np.tile(scores, (len(lists), 1)), lists)
    return lists, np.exp(shown.sum(axis=1))


def earned(lists, pays):
    return pays[lists, np.arange(2)]


def logged(problem, rows=4000, seed=0, **forecast):
    logging, target, pays = problem
    rng = np.random.default_rng(seed)
    lists, shown = sample(np.tile(logging, (rows, 1)), 2, rng)
    rewards = (rng.random(lists.shape) < earned(lists, pays)).astype(float)
    wanted = log_probabilities(np.tile(target, (rows, 1)), lists)
    return lists, Logged(np.arange(rows), rewards, shown, wanted, **forecast)


def test_a_list_may_hold_every_tag(problem):
    lists, _ = sample(np.tile(problem[0], (20, 1)), 5, np.random.default_rng(0))
    assert (np.sort(lists, axis=1) == np.arange(5)).all()


def test_probabilities_are_those_of_plackett_luce(problem):
    scores = problem[0]
    lists, chance = every_list(scores)
    assert chance.sum() == pytest.approx(1)
    mass = np.exp(scores)
    a, b = lists[7]
    assert chance[7] == pytest.approx(mass[a] / mass.sum() * mass[b] / (mass.sum() - mass[a]))
    drawn, _ = sample(np.tile(scores, (40_000, 1)), 2, np.random.default_rng(0))
    counts = dict.fromkeys(map(tuple, lists.tolist()), 0)
    for pair in map(tuple, drawn.tolist()):
        counts[pair] += 1
    assert np.array([*counts.values()]) / 40_000 == pytest.approx(chance, abs=0.01)


def test_estimates_are_the_value_of_the_target(problem):
    lists, chance = every_list(problem[1])
    truth = (chance * earned(lists, problem[2]).sum(axis=1)).sum()
    _, log = logged(problem)
    found = evaluate(log)
    assert found.dr is None
    for one in (found.ips, found.snips):
        assert one.low < truth < one.high
        assert one.mean == pytest.approx(truth, rel=0.1)
    assert 100 < found.effective < 4000


def test_a_forecast_makes_estimates_less_variable(problem):
    _, target, pays = problem
    lists, chance = every_list(target)
    truth = (chance * earned(lists, pays).sum(axis=1)).sum()
    shown, _ = logged(problem)
    _, log = logged(problem, predicted=earned(shown, pays), expected=np.full(4000, truth))
    found = evaluate(log)
    assert found.dr.low < truth < found.dr.high
    assert found.dr.high - found.dr.low < 0.8 * (found.ips.high - found.ips.low)
    # A forecast that is always wrong costs precision, not truth.
    _, log = logged(problem, predicted=np.full((4000, 2), 0.9), expected=np.full(4000, 1.8))
    assert evaluate(log).dr.mean == pytest.approx(truth, rel=0.12)


def test_a_policy_evaluates_itself_without_weights(problem):
    logging, _, pays = problem
    _, log = logged((logging, logging, pays), rows=500)
    found = evaluate(log)
    assert found.effective == pytest.approx(500)
    assert found.ips.mean == pytest.approx(log.rewards.sum(axis=1).mean())
    assert found.snips.mean == pytest.approx(found.ips.mean)


def test_a_log_that_says_too_little_is_refused(problem):
    logging, target, pays = problem
    _, log = logged((logging, 9 * target, pays), rows=400)
    with pytest.raises(SimulatorError, match=r"effective sample size \d+ of 400 lists: the policies are too"):
        evaluate(log)
    impossible = Logged(log.users, log.rewards, np.full_like(log.logging, -np.inf), log.target)
    with pytest.raises(SimulatorError, match="logging probabilities of 0"):
        evaluate(impossible)

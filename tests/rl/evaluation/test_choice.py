"""The choice among candidates: what the smallest prices show, against all choices there are."""

import itertools

import numpy as np
import pytest

from recrl.rl.evaluation.bounds import Bounds
from recrl.rl.evaluation.choice import Choice
from recrl.rl.optimizer.problem import Problem

NAMES = ("objective", "fit", "spread")
RANGES = {"objective": (0, 1), "fit": (0, 1), "spread": (0, 1)}


def bounds(constraints, rows):
    problem = Problem.build("objective", constraints, RANGES)
    return Bounds(NAMES, problem, problem.constraints, rows)


def table(rows, candidates, seed=0):
    """Log-probabilities, the first the likeliest, and scores of every candidate."""
    rng = np.random.default_rng(seed)
    logprobs = -np.sort(rng.exponential(2.0, (rows, candidates)), axis=1)
    return logprobs, rng.random((rows * candidates, len(NAMES)))


def people(count):
    return [{"user": i, "segment": "cold" if i % 2 else "warm"} for i in range(count)]


@pytest.mark.parametrize("sense", [">=", "<="])
def test_one_price_is_the_smallest_of_all_that_meet_the_bound(sense):
    """Choices change where two candidates tie; a price between each two such points tries them all."""
    logprobs, scores = table(7, 5)
    bound = {">=": 0.7, "<=": 0.3}[sense]
    held = bounds([f"fit {sense} {bound} (mean)"], people(7))
    values = held.values(scores, 5)
    sign = held.signs[0]
    ties = []
    for row, value in zip(logprobs, sign * values[:, :, 0], strict=True):
        for i, j in itertools.combinations(range(5), 2):
            ties.append((row[i] - row[j]) / (value[j] - value[i]))
    ties = sorted(tie for tie in ties if tie > 0)
    smallest = None
    for low, high in itertools.pairwise([0.0, *ties, 2 * ties[-1]]):
        price = (low + high) / 2
        chosen = (logprobs + price * sign * values[:, :, 0]).argmax(axis=1)
        if sign * (values[np.arange(7), chosen, 0].mean() - bound) >= 0:
            smallest = low
            break
    assert smallest, "met without a price, or not to be met"
    choice = Choice(held, logprobs, values)
    found = choice.fit(held.slacks(values[:, 0].mean(axis=0), np.zeros(1)), np.zeros(1))
    assert found.slacks[0] >= 0
    assert smallest <= found.prices[0] <= 1.02 * smallest
    (chosen,) = choice.chosen(found.prices[None])
    assert sign * (values[np.arange(7), chosen, 0].mean() - bound) == pytest.approx(found.slacks[0])


@pytest.mark.parametrize("seed", range(5))
def test_bounds_that_fight_each_other_are_met_together(seed):
    logprobs, scores = table(200, 16, seed)
    scores[:, 2] = np.clip(1 - scores[:, 1] + 0.3 * (scores[:, 2] - 0.5), 0, 1)
    held = bounds(["fit >= 0.5 (mean)", "spread >= 0.53 (mean)"], people(200))
    values = held.values(scores, 16)
    choice = Choice(held, logprobs, values)
    first = held.slacks(values[:, 0].mean(axis=0), np.zeros(2))
    assert (first < 0).any()
    found = choice.fit(first, np.zeros(2))
    assert (found.slacks >= 0).all()
    (chosen,) = choice.chosen(found.prices[None])
    for row in range(200):
        worth = logprobs[row] + values[row] @ found.prices
        assert chosen[row] == worth.argmax()


def test_a_bound_out_of_reach_shows_the_best_that_candidates_have():
    logprobs, scores = table(9, 4)
    held = bounds(["fit >= 0.99 (mean)"], people(9))
    values = held.values(scores, 4)
    found = Choice(held, logprobs, values).fit(
        held.slacks(values[:, 0].mean(axis=0), np.zeros(1)), np.zeros(1)
    )
    best = values[:, :, 0].max(axis=1).mean()
    assert found.slacks[0] == pytest.approx(best - 0.99)


def test_rows_outside_of_a_segment_show_their_likeliest_answer():
    logprobs, scores = table(40, 6)
    held = bounds(["fit >= 0.8 where segment=cold (mean)"], people(40))
    values = held.values(scores, 6)
    choice = Choice(held, logprobs, values)
    found = choice.fit(held.slacks(np.nanmean(values[:, 0], axis=0), np.zeros(1)), np.zeros(1))
    (chosen,) = choice.chosen(found.prices[None])
    assert found.slacks[0] >= 0
    assert (chosen[::2] == 0).all()
    assert (chosen[1::2] > 0).any()


@pytest.mark.parametrize("sense", [">=", "<="])
def test_a_candidate_without_a_score_is_neither_favoured_nor_shunned(sense):
    """It stands for the mean of the others, which is what is known of it."""
    held = bounds([f"fit {sense} 0.5 (mean)"], people(2))
    scores = np.zeros((6, 3))
    scores[:, 1] = [0.2, np.nan, 0.8, np.nan, np.nan, np.nan]
    choice = Choice(held, np.array([[-1.0, -1.1, -1.2], [-3.0, -1.0, -2.0]]), held.values(scores, 3))
    extreme = {">=": 2, "<=": 0}[sense]
    assert choice.chosen(np.array([[0.0], [100.0]])).tolist() == [[0, 1], [extreme, 1]]

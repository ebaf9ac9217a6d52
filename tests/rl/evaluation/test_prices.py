"""The search for the smallest prices, on responses that are known."""

import numpy as np
import pytest

from recrl.rl.evaluation.prices import smallest_prices


class Counted:
    """Slacks that a function gives, and how many prices were looked at."""

    def __init__(self, function):
        self.function, self.looks, self.tried = function, 0, 0

    def __call__(self, prices):
        self.looks, self.tried = self.looks + 1, self.tried + len(prices)
        return np.array([self.function(row) for row in prices])


def saturating(price):
    return 1 - np.exp(-price)


@pytest.mark.parametrize("bound", [0.05, 0.3, 0.9])
def test_one_price_is_the_smallest_that_meets_its_bound(bound):
    slacks = Counted(lambda p: [saturating(p[0]) - bound])
    found = smallest_prices(slacks, [1.0], [1e-3])
    assert 0 <= found.slacks[0] <= 1e-3
    assert found.prices[0] == pytest.approx(-np.log(1 - bound), rel=0.03)
    assert slacks.looks <= 6


def test_nothing_is_priced_that_is_met():
    slacks = Counted(lambda p: [0.1 + p[0], 0.0])
    found = smallest_prices(slacks, [1.0, 1.0], [1e-3, 1e-3])
    assert found.prices.tolist() == [0.0, 0.0]
    assert slacks.tried == 1


@pytest.mark.parametrize("across", [-0.3, 0.0, 0.3])
def test_constraints_that_fight_or_help_one_another_are_both_met(across):
    response = np.array([[1.0, across], [across, 0.7]])
    slacks = Counted(lambda p: saturating(np.maximum(response @ p, -1)) - 0.4)
    found = smallest_prices(slacks, [1.0, 1.0], [1e-3, 1e-3])
    expected = np.linalg.solve(response, np.full(2, -np.log(0.6)))
    assert (found.slacks >= 0).all()
    assert found.prices == pytest.approx(expected, rel=0.05)


def test_a_bound_out_of_reach_is_said_with_what_was_attained():
    found = smallest_prices(Counted(lambda p: [0.5 * saturating(p[0]) - 0.6]), [1.0], [1e-3])
    assert found.slacks[0] == pytest.approx(-0.1, abs=1e-6)


def test_steps_of_a_few_rows_end_on_the_right_side():
    """Means over few rows move in steps; the price is that of the first step that suffices."""
    slacks = Counted(lambda p: [np.floor(8 * saturating(p[0])) / 8 - 0.3])
    found = smallest_prices(slacks, [1.0], [1e-3])
    assert found.slacks[0] == pytest.approx(3 / 8 - 0.3)
    assert found.prices[0] == pytest.approx(-np.log(1 - 3 / 8), rel=0.01)


@pytest.mark.parametrize("start", [0.1, 0.34, 0.36, 2.0, 5.0])
def test_a_start_from_other_rows_comes_to_the_same_price(start):
    slacks = Counted(lambda p: [saturating(p[0]) - 0.3])
    found = smallest_prices(slacks, [1.0], [1e-3], np.array([start]))
    assert 0 <= found.slacks[0] <= 1e-3
    assert found.prices[0] == pytest.approx(0.3567, rel=0.03)

"""The smallest prices at which bounds are met: a search that only needs to see how slacks respond.

``smallest_prices``  coordinate by coordinate, by a few looks at several prices each
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

# Prices that are looked at together: they share the reading of the prompts.
TOGETHER = 8
# Prices of the first look, in steps of a coordinate; the last one decides whatever a policy thinks.
_FIRST: Floats = np.geomspace(0.25, 32.0, TOGETHER)
# Shares of a price that was right for other rows, or for other prices of the others.
_NEAR = np.array([0.0, 0.7, 0.88, 0.96, 1.0, 1.05, 1.15, 1.5])
_AROUND = np.array([-0.25, -0.1, -0.04, -0.01, 0.01, 0.04, 0.1, 0.25])
_LOOKS, _ROUNDS = 4, 5


class Slacks(Protocol):
    """Slacks at prices: ``[prices, constraint]`` -> ``[prices, constraint]``, 0 or more where met."""

    def __call__(self, prices: Floats) -> Floats: ...


@dataclass(frozen=True)
class Found:
    """Result of a search.

    Attributes:
        prices: ``[constraint]``, 0 or more.
        slacks: Slack of each constraint at them; one below 0 could not be met.
    """

    prices: Floats
    slacks: Floats


def smallest_prices(
    slacks: Slacks,
    steps: Sequence[float],
    tolerance: Sequence[float],
    start: Floats | None = None,
    known: Floats | None = None,
    rounds: int = _ROUNDS,
) -> Found:
    """Smallest prices that meet all constraints, if there are any; as good as was found otherwise.

    Each constraint in turn gets the smallest price at which it is met, given those of the others; what
    raises its own slack more the higher it is priced is found so whether or not the others fight it.

    Args:
        slacks: Function that is asked, at several prices at once.
        steps: A price of each constraint that begins to matter.
        tolerance: Slack of each constraint that is as good as none.
        start: Prices to begin with, such as those of a part of the rows; zero by default.
        known: Slacks at them, where they were looked at already.
        rounds: Largest number of turns of each constraint.
    """
    prices: Floats = np.zeros(len(steps)) if start is None else start
    at = slacks(prices[None])[0] if known is None else known
    for _ in range(rounds):
        before = prices.copy()
        for k in range(len(steps)):
            # A price that others made too high comes down, too.
            if at[k] < 0 or (prices[k] > 0 and at[k] > tolerance[k]):
                prices, at = _one(slacks, prices, k, steps[k], tolerance[k])
        if np.allclose(prices, before, rtol=1e-3):
            break
    return Found(prices, at)


def _one(slacks: Slacks, prices: Floats, k: int, step: float, tolerance: float) -> tuple[Floats, Floats]:
    """The smallest price of constraint ``k`` that meets it, the others held; and the slacks there."""

    def along(values: Floats) -> tuple[Floats, Floats]:
        tried = np.repeat(prices[None], len(values), axis=0)
        tried[:, k] = values
        return tried, slacks(tried)

    low, highest = 0.0, step * _FIRST[-1]
    around = step * _FIRST
    if prices[k] > 0:
        around = np.minimum(prices[k] * _NEAR, highest)
    tried, found = along(around)
    if not (found[:, k] >= 0).any() and around[-1] < highest:
        low, around = around[-1], np.geomspace(around[-1], highest, TOGETHER + 1)[1:]
        tried, found = along(around)
    if not (found[:, k] >= 0).any():
        return tried[-1], found[-1]  # out of reach
    high, below = highest, np.nan  # and the slack at ``low``
    for looks in range(_LOOKS + 1):
        met = np.flatnonzero(found[:, k] >= 0)
        first = int(met[0]) if len(met) else len(around)
        if len(met):
            best, high = (tried[first], found[first]), around[first]
        if first:
            low, below = around[first - 1], found[first - 1, k]
        if looks == _LOOKS or best[1][k] <= tolerance or high - low <= 1e-3 * high:
            break
        around = np.linspace(low, high, TOGETHER + 2)[1:-1]
        if below < 0:
            # Close to where a straight line says, and less and less close in case it is none.
            root = below / (below - best[1][k])
            around = low + (high - low) * np.clip(root + _AROUND, 0.01, 0.99)
        tried, found = along(around)
    return best

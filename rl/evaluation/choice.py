"""A choice among several answers to a prompt, for bounds on what judges whole answers.

No line has a value for such a reward, nor has any part of free text. So candidates are made once, and the one
is shown whose log-probability and priced rewards add up to most (best of n). What prices do then follows from
a table of scores and log-probabilities, and the search for the smallest ones generates nothing.
"""

from functools import partial

import numpy as np
import numpy.typing as npt

from .bounds import Bounds, Floats, mean
from .prices import Found, Slacks, smallest_prices

# Turns of each constraint in a search, and searches: looking a table up is cheap, so there may be many.
_ROUNDS, _SEARCHES = 50, 10


class Choice:
    """One of n candidates for each row, by log-probability and prices.

    Args:
        bounds: Bounds over these rows.
        logprobs: Log-probability of each candidate, ``[row, candidate]``, in nats.
        values: Constrained rewards, ``[row, candidate, constraint]``, NaN where one is missing, see
            :meth:`Bounds.values`. A candidate without one is as good as the row's others on average.
    """

    def __init__(self, bounds: Bounds, logprobs: Floats, values: Floats) -> None:
        self._bounds, self._logprobs, self._values = bounds, logprobs, values
        means = np.nan_to_num(mean(values, axis=1))
        self._worth = np.where(np.isnan(values), means[:, None], values)

    def chosen(self, prices: Floats) -> npt.NDArray[np.intp]:
        """Number of the candidate that each row shows, ``[prices, row]``; the first of equals.

        Args:
            prices: ``[prices, constraint]``, in nats per unit of the reward.
        """
        priced = np.einsum("rnk,pk->prn", self._worth, prices * self._bounds.signs)
        return (self._logprobs + priced).argmax(axis=-1)

    def fit(self, known: Floats, margins: Floats) -> Found:
        """The smallest prices that meet all bounds among these candidates.

        Where bounds fight each other, a search one by one comes close and ends just below; it is repeated
        with what was lacking on top.

        Args:
            known: Slacks without a choice, ``[constraint]``.
            margins: Slack that is asked for, ``[constraint]``.
        """
        rows = np.arange(len(self._logprobs))

        def slacks(prices: Floats) -> Floats:
            values = np.stack([self._values[rows, one] for one in self.chosen(prices)])
            found = self._bounds.slacks(mean(values, axis=1), margins)
            return np.where(np.isnan(found), known, found)  # no score: nothing is known to have changed

        steps, tolerance = self._steps(), self._bounds.tolerance
        best = smallest_prices(slacks, steps, tolerance, known=known, rounds=_ROUNDS)
        lacking: Floats = np.maximum(-best.slacks, 0.0)
        for _ in range(_SEARCHES - 1):
            if (best.slacks >= 0).all():
                break
            more = partial(_tightened, slacks, lacking)
            prices = smallest_prices(more, steps, tolerance, known=known - lacking, rounds=_ROUNDS).prices
            found = Found(prices, slacks(prices[None])[0])
            if found.slacks.min() > best.slacks.min():
                best = found
            lacking = lacking + np.maximum(-found.slacks, 0.0)
        return best

    def _steps(self) -> list[float]:
        """Prices at which a row's most different candidates are as far apart by a reward as by likelihood."""
        spread = np.ptp(self._worth, axis=1).mean(axis=0)
        likelihood = max(1.0, float(np.ptp(self._logprobs, axis=1).mean()))
        return [likelihood / one if one > 0 else 1.0 for one in spread.tolist()]


def _tightened(slacks: Slacks, lacking: Floats, prices: Floats) -> Floats:
    return slacks(prices) - lacking

"""A choice among several answers to a prompt, for bounds on what judges whole answers.

No line has a value for such a reward, nor has any part of free text. So candidates are made once, and the one
is shown whose log-probability and priced rewards add up to most (best of n). What prices do then follows from
a table of scores and log-probabilities, and the search for the smallest ones generates nothing.
"""

import numpy as np
import numpy.typing as npt

from .bounds import Bounds, Floats, mean
from .prices import Found, smallest_prices

# Turns of each constraint in the search: a table is looked up at once, so there may be many.
_ROUNDS = 50


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

        Args:
            known: Slacks without a choice, ``[constraint]``.
            margins: Slack that is asked for, ``[constraint]``.
        """
        rows = np.arange(len(self._logprobs))

        def slacks(prices: Floats) -> Floats:
            values = np.stack([self._values[rows, one] for one in self.chosen(prices)])
            found = self._bounds.slacks(mean(values, axis=1), margins)
            return np.where(np.isnan(found), known, found)  # no score: nothing is known to have changed

        return smallest_prices(slacks, self._steps(), self._bounds.tolerance, known=known, rounds=_ROUNDS)

    def _steps(self) -> list[float]:
        """Prices at which a row's most different candidates are as far apart by a reward as by likelihood."""
        spread = np.ptp(self._worth, axis=1).mean(axis=0)
        likelihood = max(1.0, float(np.ptp(self._logprobs, axis=1).mean()))
        return [likelihood / one if one > 0 else 1.0 for one in spread.tolist()]

"""A model of one shopper's week: a visit, and a basket given the visit.

``Behaviour``  what a simulation asks of shoppers; two are built differently, so that they can disagree
``Wish``       log-odds of a visit and of each tag, before any recommendation
``Hazard``     weekly hazards with clocks and counts, and shocks that a household's basket of a week shares

A tag is bought, given a visit, with log-odds that add up

- the household's own rates, over all weeks and lately, each shrunk to the tag's rate among households
  (empirical Bayes),
- a replenishment clock: weeks since the last purchase, in bins, for each group of goods with a similar
  rhythm,
- how the season changes the tag, and how large the household's baskets have been lately,
- shocks of the household's week: a few factors with one loading a tag. They make baskets as uneven as
  they are (dispersion) and let goods go together (co-purchase).
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .histories import DECAYS, NEVER, Bools, Floats, Histories

Generator = np.random.Generator
Lifts = tuple[npt.NDArray[np.integer], npt.NDArray[np.integer], float]
"""Shoppers, tags, and the log-odds that a click adds to buying the tag."""

EDGES = (1, 2, 3, 4, 6, 8, 12, 20, NEVER - 1, NEVER)
"""Last week of each bin of a replenishment clock."""

LONG_AGO = 20
"""Weeks without a purchase after which a tag is one of those that a household hardly buys."""

SEASON_KEPT = 0.8
"""What is left of the last known season after a week that the log does not know."""

BIN_OF = np.searchsorted(EDGES, np.arange(NEVER + 1)).astype(np.uint8)
"""Weeks since a purchase -> bin."""


@dataclass
class Wish:
    """What some shoppers would do this week.

    Attributes:
        visit: ``[shoppers]`` log-odds of a visit.
        buy: ``[shoppers, tags]`` log-odds of buying the tag, given a visit.
        donors: What the behaviour itself needs to draw a week.
    """

    visit: Floats
    buy: Floats
    donors: Any = None


class Behaviour(Protocol):
    """How shoppers behave."""

    def wish(self, histories: Histories) -> Wish:
        """What shoppers would do in the week that comes next."""

    def live(self, wish: Wish, pull: Floats, lifts: Lifts, chance: Generator) -> Bools:
        """``[shoppers, tags]`` that are bought; empty rows where nobody comes.

        The same generator gives the same luck whatever was recommended.

        Args:
            pull: ``[shoppers]`` log-odds added to a visit.
        """


@dataclass(frozen=True)
class Hazard:
    """Fitted weekly hazards; see the module, and :func:`recrl.envs.simulator.fitting.fit`.

    Attributes:
        base: ``[tags]`` share of visits with the tag.
        size: Mean number of tags of a visit.
        prior: Weeks that the shrinkage of a rate counts for: over all weeks, and of the fading ones.
        season: ``[weeks, tags]`` log of the tag's rate in a week over its rate; what the last row says fades
            in later weeks (:data:`SEASON_KEPT`), as the log has not seen their season.
        group: ``[tags]`` group of goods.
        clock: ``[groups, bins]`` log-odds.
        slopes: Weights of the features of :func:`features`.
        offset: ``[tags]`` log-odds that make each tag's mean right.
        loadings: ``[tags, factors]`` of the shocks; the first is that of the basket's size.
        visiting: Weights of the features of :func:`visit_features`, intercept last.
    """

    base: Floats
    size: float
    prior: tuple[float, float]
    season: Floats
    group: npt.NDArray[np.uint8]
    clock: Floats
    slopes: Floats
    offset: Floats
    loadings: Floats
    visiting: Floats

    def wish(self, histories: Histories) -> Wish:
        visit = visit_features(histories) @ self.visiting[:-1] + self.visiting[-1]
        own, lately, long_ago, of_shopper, season = features(self, histories)
        buy = self.slopes[0] * own
        for slope, feature in zip(self.slopes[1:3], (lately, long_ago), strict=True):
            feature *= slope
            buy += feature
        buy += (of_shopper @ self.slopes[3:-1])[:, None]
        buy += self.slopes[-1] * season + self.offset
        places = BIN_OF[histories.age] + self.group * np.uint8(self.clock.shape[1])
        buy += self.clock.ravel()[places]
        return Wish(visit.astype(np.float32), buy)

    def live(self, wish: Wish, pull: Floats, lifts: Lifts, chance: Generator) -> Bools:
        count, n_tags = wish.buy.shape
        visits = chance.random(count, np.float32) < sigmoid(wish.visit + pull)
        shocks = self.shocks(count, chance)
        luck = chance.random((count, n_tags), np.float32)
        shoppers, tags, amount = lifts
        buy = wish.buy.copy() if len(shoppers) else wish.buy
        buy[shoppers, tags] += np.float32(amount)
        odds = buy[visits] * self.stretch
        odds += shocks[visits] @ self.loadings.T
        bought = np.zeros((count, n_tags), bool)
        margin = sigmoid(odds) - luck[visits]
        # Who comes buys something: what is nearest to being bought.
        margin[np.arange(len(margin)), margin.argmax(axis=1)] = 1
        bought[visits] = margin > 0
        return bought

    def shocks(self, count: int, chance: Generator) -> Floats:
        """``[count, factors]`` of mean 0 and deviation 1: the first, of a basket's size, is the logarithm of
        an exponential, as a trip for one thing is further from the usual than the largest one; others are
        normal."""
        drawn = chance.standard_normal((count, self.loadings.shape[1]), np.float32)
        size = np.log(np.maximum(chance.standard_exponential(count, np.float32), np.float32(1e-6)))
        drawn[:, 0] = (size + np.euler_gamma) * (np.sqrt(6) / np.pi)
        return drawn

    @property
    def stretch(self) -> Floats:
        """``[tags]``: what keeps a tag's mean under shocks, by an approximation of the logistic-normal mean
        (MacKay 1992, "The evidence framework applied to classification networks")."""
        return np.sqrt(1 + np.pi / 8 * np.square(self.loadings).sum(axis=1))


def features(model: Any, histories: Histories) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """What the hazard of a tag depends on, besides its clock.

    Args:
        model: ``base``, ``size``, ``prior`` and ``season`` of a :class:`Hazard`.

    Returns:
        ``[shoppers, tags]`` each: log-odds of the household's rate over all weeks and lately, and log of its
        number of visits where the tag was not bought for :data:`LONG_AGO` weeks, as own rates fall too fast
        with visits where taste has a long tail. Then what is the same for all tags, ``[shoppers, 2]``: log of
        the size of its baskets lately over that of all, and log of the weeks since its last visit; and the
        season, ``[tags]``.
    """
    all_weeks, fading = (np.float32(prior) for prior in model.prior)
    size = np.float32(model.size)
    level = (histories.tags + all_weeks * size) / (histories.visits + all_weeks)
    lately = (histories.tags_slow + fading * level) / (histories.visits_slow + fading)
    expected = np.minimum(model.base * (level / size)[:, None], np.float32(0.9))
    own = _log_odds(histories.weeks + all_weeks * expected, histories.visits + all_weeks)
    recent = _log_odds(histories.recent + fading * expected, histories.visits_slow + fading)
    long_ago = (histories.age > LONG_AGO) * np.log(histories.visits + all_weeks)[:, None]
    of_shopper = np.stack([np.log(lately / level), np.log(np.maximum(histories.gap, 1))], axis=1)
    ahead = max(0, histories.week - len(model.season) + 1)
    season = model.season[histories.week - ahead] * np.float32(SEASON_KEPT**ahead)
    return own, recent, long_ago, of_shopper, season


def visit_features(histories: Histories) -> Floats:
    """``[shoppers, features]``: log-odds of visits over all weeks, lately and very lately, the gap, the mean
    size of baskets, and squares of the first and the last."""
    shares = [_log_odds_of_one(histories.visits, np.float32(histories.lived))]
    for count, kept in zip((histories.visits_slow, histories.visits_quick), DECAYS, strict=True):
        most = np.float32((1 - kept**histories.lived) / (1 - kept))
        shares.append(_log_odds_of_one(count, most))
    gap = np.clip(histories.gap, 1, 20)
    gaps = [gap == 1, gap == 2, gap == 3, np.log(gap)]
    size = np.log((histories.tags + 1) / (histories.visits + 1))
    squares = [np.square(shares[0]), shares[0] * size, np.square(size)]
    return np.stack([*shares, *gaps, size, *squares], axis=1).astype(np.float32)


def sigmoid(odds: Floats) -> Floats:
    """Probabilities of log-odds."""
    found = np.exp(-odds)
    found += 1
    return np.reciprocal(found, out=found)


def _log_odds(bought: Floats, visits: Floats) -> Floats:
    return np.log(bought / (visits[:, None] - bought))


def _log_odds_of_one(count: Floats, most: np.float32) -> Floats:
    return np.log((count + 0.5) / (np.maximum(most - count, 0) + 0.5))

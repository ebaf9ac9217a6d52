"""A second model of a shopper's week, built differently, so that a comparison can fail in it.

``Neighbours``  no hazards, clocks, seasons or shocks: a week is as large as one that followed a similar
                history, and holds what the household and its neighbours buy
``fit``         neighbours out of prepared data
"""

from dataclasses import dataclass

import numpy as np

from ..data.prepared import Data
from .fitting import BURN_IN, check
from .histories import DECAYS, Bools, Floats, Histories, baskets
from .shopper import Generator, Lifts, Wish, sigmoid

WEEKS = 4_000
"""Weeks of training households that may be a neighbour's."""

NEIGHBOURS = 25
OWN = 0.6
"""Share of the household's own rates in what it buys; the rest is its neighbours'."""

_DIMENSIONS = 16


@dataclass(frozen=True)
class Neighbours:
    """Histories, and the weeks that followed them.

    Attributes:
        axes: ``[tags, dimensions]`` onto which rates are projected.
        places: ``[weeks, dimensions + 3]`` histories.
        scale: ``[dimensions + 3]``.
        followed: ``[weeks, tags]`` baskets of the week after; empty rows for no visit.
        base: ``[tags]`` share of visits with the tag.
    """

    axes: Floats
    places: Floats
    scale: Floats
    followed: Floats
    base: Floats

    def wish(self, histories: Histories) -> Wish:
        asked = _place(histories, self.axes) / self.scale
        apart = np.square(self.places).sum(axis=1) - 2 * (asked @ self.places.T)
        nearest = np.argpartition(apart, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        sizes = self.followed.sum(axis=1)[nearest]
        chosen = np.zeros((len(asked), len(self.places)), np.float32)
        np.put_along_axis(chosen, nearest, 1.0, axis=1)
        visits = (sizes > 0).sum(axis=1, keepdims=True)
        theirs = (chosen @ self.followed + self.base) / (visits + 1)
        own = (histories.recent + self.base) / (histories.visits_slow + 1)[:, None]
        rate = np.clip(OWN * own + (1 - OWN) * theirs, 1e-4, 0.95)
        visit = (visits[:, 0] + 0.5) / (NEIGHBOURS + 1)
        return Wish(_odds(visit), _odds(rate), np.sort(sizes, axis=1))

    def live(self, wish: Wish, pull: Floats, lifts: Lifts, chance: Generator) -> Bools:
        count, n_tags = wish.buy.shape
        luck = chance.random(count, np.float32)
        # Sizes are sorted, and zeros of weeks without a visit stand first: more pull moves up among them.
        stay = 1 - sigmoid(wish.visit + pull)
        before = 1 - sigmoid(wish.visit)
        share = np.where(luck < stay, 0.0, before + (luck - stay) * (1 - before) / (1 - stay))
        place = np.minimum((share * NEIGHBOURS).astype(int), NEIGHBOURS - 1)  # a share may be rounded to 1
        sizes = wish.donors[np.arange(count), place]
        came = luck >= stay
        sizes = np.where(came, np.maximum(sizes, 1), 0)
        odds = wish.buy.copy()
        shoppers, tags, amount = lifts
        rates = sigmoid(odds)
        odds += (np.log(np.maximum(sizes, 0.1) / rates.sum(axis=1)))[:, None]
        odds[shoppers, tags] += np.float32(amount)
        return (chance.random((count, n_tags), np.float32) < sigmoid(odds)) & came[:, None]


def fit(data: Data, seed: int = 0) -> Neighbours:
    """Take histories of training households before ``statistics_end``, and the week after each.

    Raises:
        SimulatorError: as for the hazards.
    """
    check(data)
    panel, end, rng = data.panel, data.protocol.statistics_end, np.random.default_rng(seed)
    assert end is not None
    users = np.flatnonzero(~panel.unseen).astype(np.int32)
    histories = Histories.new(users, panel.n_tags, int(panel.week.min()))
    weeks = end - histories.week - BURN_IN
    befores, followed, rates = list[Histories](), list[Bools](), []
    for _, bought in baskets(panel, users, histories.week, end):
        if histories.lived >= BURN_IN:
            some = rng.choice(len(users), min(len(users), WEEKS // weeks), replace=False)
            befores.append(histories.taken(some))
            followed.append(bought[some])
        histories.advance(bought)
        rates.append((bought.sum(axis=0), bought.any(axis=1).sum()))
    profile = _profile(histories)
    _, _, axes = np.linalg.svd(profile - profile.mean(axis=0), full_matrices=False)
    projected = axes[:_DIMENSIONS].T.astype(np.float32)
    places = np.concatenate([_place(before, projected) for before in befores])
    scale = places.std(axis=0) + np.float32(1e-6)
    kept = projected.shape[1]
    scale[:kept] = places[:, :kept].std()  # of one unit: their spread says how much they matter
    base = sum(bought for bought, _ in rates) / sum(visits for _, visits in rates)
    return Neighbours(
        axes=projected,
        places=places / scale,
        scale=scale,
        followed=np.concatenate(followed).astype(np.float32),
        base=np.asarray(base, np.float32),
    )


def _profile(histories: Histories) -> Floats:
    """``[shoppers, tags]``: root of the share of late visits with the tag."""
    return np.sqrt(histories.recent / np.maximum(histories.visits_slow, 1)[:, None])


def _place(histories: Histories, axes: Floats) -> Floats:
    slow, quick = (
        count * np.float32(1 - kept)
        for count, kept in zip((histories.visits_slow, histories.visits_quick), DECAYS, strict=True)
    )
    size = np.log((histories.tags_slow + 1) / (histories.visits_slow + 1))
    return np.concatenate([_profile(histories) @ axes, np.stack([3 * slow, 3 * quick, size], axis=1)], axis=1)


def _odds(rate: Floats) -> Floats:
    return np.log(rate / (1 - rate)).astype(np.float32)

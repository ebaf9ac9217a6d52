"""Households told apart by what they buy: which of them does a text point at?

A household at an origin is a TF-IDF vector over tags: log-damped numbers of weeks times how rare the tag is
among training users, of unit length. A text is the set of goods that it says the household bought. No
sentence encoder is asked: the overlap in tags is exact, and knows nothing that the log does not say.
"""

import zlib
from collections.abc import Collection
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..data.prepared import Data

Floats = npt.NDArray[np.float32]

OTHERS = 20
"""Households that one has to be told apart from."""


class Households:
    """Households of some data, at any origin.

    Args:
        data: Purchases; how rare a tag is comes from training users before ``statistics_end``.
    """

    def __init__(self, data: Data) -> None:
        self._panel, self._end = data.panel, data.protocol.statistics_end
        self._same = np.array(data.catalog.equivalence_class)
        self._others: dict[tuple[int, int], npt.NDArray[np.intp]] = {}
        self._known: dict[int, tuple[Floats, npt.NDArray[np.intp]]] = {}

    @cached_property
    def rarity(self) -> Floats:
        """Inverse document frequency of each tag, ``[tags]``."""
        assert self._end is not None, "prepared data have their protocol filled in"
        counts = self._panel.counts(0, self._end, training_users=True)
        users = int((np.diff(counts.indptr) > 0).sum())
        buyers = np.asarray((self._merged(counts.toarray()) > 0).sum(axis=0)).ravel()
        return np.log((1 + users) / (1 + buyers)).astype(np.float32)

    def vectors(self, origin: int) -> Floats:
        """Unit vectors of users by what they bought before a week, ``[users, tags]``; zero for nothing."""
        return self._at(origin)[0]

    def others(self, user: int, origin: int) -> npt.NDArray[np.intp]:
        """``OTHERS`` other users who had bought something before a week, the same each time."""
        if (user, origin) not in self._others:
            active = self._at(origin)[1]
            rng = np.random.default_rng([zlib.crc32(self._panel.users[user].encode()), origin])
            drawn = rng.choice(active, min(OTHERS + 1, len(active)), replace=False)
            self._others[user, origin] = drawn[drawn != user][:OTHERS]
        return self._others[user, origin]

    def overlaps(self, user: int, origin: int, goods: Collection[int]) -> tuple[float, Floats]:
        """Overlap of a set of goods with the household, and with each of the others."""
        vectors = self.vectors(origin)
        tags = sorted({int(self._same[tag]) for tag in goods})
        found = vectors[[user, *self.others(user, origin)]][:, tags] @ self.rarity[tags]
        return float(found[0]), found[1:]

    def specificity(self, user: int, origin: int, goods: Collection[int]) -> float:
        """Share of the other households that a set of goods fits less well; a tie counts half."""
        own, others = self.overlaps(user, origin, goods)
        return float(((others < own).sum() + (others == own).sum() / 2) / max(len(others), 1))

    def _at(self, origin: int) -> tuple[Floats, npt.NDArray[np.intp]]:
        if origin not in self._known:
            weeks = self._merged(self._panel.counts(0, origin).toarray())
            found = np.log1p(weeks) * self.rarity
            lengths = np.linalg.norm(found, axis=1, keepdims=True)
            unit = (found / np.where(lengths > 0, lengths, 1)).astype(np.float32)
            self._known[origin] = unit, np.flatnonzero(lengths.ravel() > 0)
        return self._known[origin]

    def _merged(self, weeks: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Weeks of equivalent tags together, in the column of the first of them."""
        merged = np.zeros_like(weeks)
        np.add.at(merged.T, self._same, weeks.T)
        return merged

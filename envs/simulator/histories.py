"""What shoppers have done so far, as clocks and counts that a week moves on.

``Histories``  the state of a simulation; made of a panel, or moved on by simulated baskets
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..data.panel import IntArray, Panel

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.integer[Any]]

NEVER = 255
"""Weeks since a purchase that never was; longer ages than 254 weeks stand as 254."""

DECAYS = (0.93, 0.7)
"""What counts keep a week: slow (half of it after ten weeks) and quick (two weeks)."""


@dataclass
class Histories:
    """Purchases of some shoppers before a week, moved on in place.

    Attributes:
        users: ``[shoppers]`` user of the panel that each began as.
        week: Week that comes next.
        weeks: ``[shoppers, tags]`` weeks in which the tag was bought.
        recent: The same, each week fading by the slow one of :data:`DECAYS`.
        age: ``[shoppers, tags]`` uint8, weeks since the last purchase of the tag, or :data:`NEVER`.
        visits: ``[shoppers]`` weeks with a purchase; ``visits_slow`` and ``visits_quick`` fade.
        gap: ``[shoppers]`` weeks since the last visit.
        tags: ``[shoppers]`` purchases of all tags together; ``tags_slow`` fade.
        begun: First week that was read.
        tired: ``[shoppers, tags]`` looks at the tag in lists that led to no click, fading quickly; None until
            a list is shown.
        pleased: ``[shoppers]`` clicks, fading quickly.
    """

    users: IntArray
    week: int
    begun: int
    weeks: Floats
    recent: Floats
    age: npt.NDArray[np.uint8]
    visits: Floats
    visits_slow: Floats
    visits_quick: Floats
    gap: Floats
    tags: Floats
    tags_slow: Floats
    pleased: Floats
    tired: Floats | None = None

    @classmethod
    def new(cls, users: IntArray, n_tags: int, week: int) -> Self:
        """Shoppers of whom nothing is known."""
        count = len(users)
        cells = (count, n_tags)
        zeros = {name: np.zeros(count, np.float32) for name in _ONE_EACH}
        return cls(
            users=np.asarray(users, np.int32),
            week=week,
            begun=week,
            weeks=np.zeros(cells, np.float32),
            recent=np.zeros(cells, np.float32),
            age=np.full(cells, NEVER, np.uint8),
            **zeros,
        )

    @classmethod
    def of(cls, panel: Panel, users: Sequence[int] | IntArray, week: int) -> Self:
        """Shoppers as they are before a week of a panel; a user may be named several times."""
        state = cls.new(np.asarray(users, np.int32), panel.n_tags, int(panel.week.min()))
        for _, bought in baskets(panel, state.users, state.week, week):
            state.advance(bought)
        return state

    @property
    def lived(self) -> int:
        """Number of weeks that were read."""
        return self.week - self.begun

    def advance(self, bought: Bools) -> None:
        """Move on by one week.

        Args:
            bought: ``[shoppers, tags]``.
        """
        slow, quick = DECAYS
        self.weeks += bought
        self.recent *= np.float32(slow)
        self.recent += bought
        np.add(self.age, 1, out=self.age, where=self.age < NEVER - 1)
        self.age[bought] = 1
        sizes = bought.sum(axis=1, dtype=np.float32)
        visited = (sizes > 0).astype(np.float32)
        self.visits += visited
        self.visits_slow = np.float32(slow) * self.visits_slow + visited
        self.visits_quick = np.float32(quick) * self.visits_quick + visited
        self.gap = np.where(visited > 0, np.float32(1), self.gap + 1)
        self.tags += sizes
        self.tags_slow = np.float32(slow) * self.tags_slow + sizes
        self.week += 1

    def notice(self, ignored: tuple[Numbers, Numbers], clicks: Floats) -> None:
        """Remember what was made of a list; call it before :meth:`advance`.

        Args:
            ignored: Shoppers and tags that were looked at and not clicked.
            clicks: ``[shoppers]`` number of clicks.
        """
        if self.tired is None:
            self.tired = np.zeros_like(self.weeks)
        self.tired *= np.float32(DECAYS[1])
        np.add.at(self.tired, ignored, np.float32(1))
        self.pleased = np.float32(DECAYS[1]) * self.pleased + clicks

    def taken(self, chosen: slice | Numbers | Bools) -> Self:
        """Some of the shoppers; views of them where ``chosen`` is a slice."""
        of_each = {
            one.name: getattr(self, one.name)[chosen]
            for one in fields(self)
            if one.name not in ("week", "begun") and getattr(self, one.name) is not None
        }
        return replace(self, **of_each)

    def copied(self) -> Self:
        """The same shoppers, to be moved on apart from these."""
        return self.taken(np.arange(len(self.users), dtype=np.int32))

    def novel(self, lookback: int) -> Bools:
        """``[shoppers, tags]``: not bought in so many weeks."""
        return self.age > lookback


_ONE_EACH = ("visits", "visits_slow", "visits_quick", "gap", "tags", "tags_slow", "pleased")


def baskets(panel: Panel, users: IntArray, first: int, end: int) -> Iterator[tuple[int, Bools]]:
    """Weeks in ``[first, end)`` and what users bought in them, ``[len(users), tags]``."""
    keep = (panel.week >= first) & (panel.week < end)
    user, week, tag = panel.user[keep], panel.week[keep], panel.tag[keep]
    order = np.argsort(week, kind="stable")
    starts = np.searchsorted(week[order], np.arange(first, end + 1))
    for number, (start, stop) in enumerate(pairwise(starts)):
        some = order[start:stop]
        bought = np.zeros((len(panel.users), panel.n_tags), bool)
        bought[user[some], tag[some]] = True
        yield first + number, bought[users]

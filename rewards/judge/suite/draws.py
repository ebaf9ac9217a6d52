"""What a suite is drawn from: households on days of the whole year, authors, and lies in mirror images.

``Draws``      households of some rows, and what is drawn of them
``Exchange``   goods of two households, each of which is told the other's
``attempted``  as many of a family as are wanted, by one attempt after the other
``exhausted``  the refusal of rows that hold too little
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ....envs.data.calendar import describe
from ....envs.explanations.facts import OF_GOODS, SEASONS, told
from ....envs.task import Row
from .authors import AUTHORS, Author
from .pairs import SuiteError
from .worlds import Household

if TYPE_CHECKING:
    from ....envs.catalog import Catalog

Drawn = TypeVar("Drawn")

ATTEMPTS = 200
"""Attempts for each pair or context that is wanted, before a family is given up."""
# Other households that are looked at for an exchange.
_PARTNERS = 40
_DAYS = 366
_YEAR = dt.date(2016, 1, 1)

KINDS: Mapping[str, tuple[str, ...]] = {
    "wrong fact": OF_GOODS,
    "wrong frequency": ("weekly", "often"),
    "wrong recency": ("last week",),
    "another household": OF_GOODS,
}
"""Family of lies about goods -> kinds of facts that it is about."""


@dataclass(frozen=True)
class Exchange:
    """Goods that two households exchange for a lie.

    Attributes:
        kind: Kind of fact that is told of them.
        sides: For each household: what is moved of its own, what it is told of the other's, and further goods
            of its own that are told beside.
    """

    kind: str
    sides: tuple[tuple[Household, list[int], list[int], list[int]], ...]


class Draws:
    """Households of some rows, and what is drawn of them.

    Args:
        rows: Rows of the explanations task, each of which gets a day of the year at random.
        spoken: Tags that a text may name.
        rng: Generator of all draws.

    Raises:
        SuiteError: the rows are of one household.
    """

    def __init__(
        self, rows: Sequence[Row], catalog: Catalog, spoken: frozenset[int], rng: np.random.Generator
    ) -> None:
        if len({row["user"] for row in rows}) < 2:
            raise SuiteError("a suite needs rows of two households at least on each side; take more rows")
        self.catalog, self.rng = catalog, rng
        self._homes = [Household(self._dated(row), catalog, spoken) for row in rows]
        self._known = Counter(tag for home in self._homes for tag in home.known)
        self._groups = 0

    def exchange(self, family: str) -> Exchange | None:
        """Goods that two households exchange; None where no other household has any that would be a lie."""
        one = self.home()
        kind, own = self.told(one, KINDS[family], int(self.rng.integers(1, 4)))
        whole = family == "another household"
        known = family in ("wrong frequency", "wrong recency")
        moved = own if whole else own[:1]

        def lie(home: Household, tag: int) -> bool:
            """Whether a good would be a lie of this family about a household."""
            of = home.same(tag)
            fits = of in home.shown if known else of not in home.known
            return fits and of not in home.about and not home.holds(kind, tag)

        best: tuple[float, Household, list[int]] | None = None
        for _ in range(_PARTNERS if moved else 0):
            other = self.home()
            if other.row["user"] == one.row["user"] or not all(lie(other, tag) for tag in moved):
                continue
            theirs = [tag for tag in other.goods[kind] if lie(one, tag)]
            if len(theirs) < len(moved):
                continue
            chosen = [theirs[i] for i in self.rng.permutation(len(theirs))]
            chosen.sort(key=lambda tag: self._apart(tag, moved[0]))
            gap = self._apart(chosen[0], moved[0])
            if best is None or gap < best[0]:
                best = gap, other, chosen[: len(moved)]
        if best is None:
            return None
        _, other, theirs = best
        kept = [] if whole else own[1:]
        beside = [] if whole else [tag for tag in other.goods[kind] if tag not in theirs][: len(kept)]
        kept = kept[: len(beside)]
        return Exchange(kind, ((one, moved, theirs, kept), (other, theirs, moved, beside)))

    def seasons(self) -> list[tuple[Household, list[str], list[str]]]:
        """Two households on days of different seasons, each with its own season and the other's; none where
        two that are drawn have no such days."""
        homes = self.home(), self.home()
        seasons = [home.row["facts"]["season"] for home in homes]
        if not all(seasons) or seasons[0] == seasons[1] or homes[0].row["user"] == homes[1].row["user"]:
            return []
        return list(zip(homes, seasons, seasons[::-1], strict=True))

    def home(self) -> Household:
        """A household at random."""
        return self._homes[int(self.rng.integers(len(self._homes)))]

    def told(self, home: Household, kinds: Sequence[str], most: int) -> tuple[str, list[int]]:
        """A kind of fact, and goods of which it is true; none where the household has none."""
        kind = kinds[int(self.rng.integers(len(kinds)))]
        goods = home.goods[kind]
        return kind, [goods[i] for i in self.rng.permutation(len(goods))[:most]]

    def author(self, held_out: bool, besides: Author | None = None) -> Author:
        """An author at random.

        Args:
            held_out: Whether of those that are held out.
            besides: Author that it must not be.
        """
        able = [one for one in AUTHORS if one.held_out == held_out and one is not besides]
        return able[int(self.rng.integers(len(able)))]

    def seed(self) -> int:
        """A seed for an author."""
        return int(self.rng.integers(2**31))

    def group(self) -> int:
        """The number of a new group of mirror images."""
        self._groups += 1
        return self._groups

    def _dated(self, row: Row) -> Row:
        """A row on a day of the year at random."""
        calendar = describe(_YEAR + dt.timedelta(days=int(self.rng.integers(_DAYS))), 4)
        season, ahead = told(calendar)
        facts = {**row["facts"], "season": [season], "holiday": ahead}
        assert season in SEASONS
        return {**row, "calendar": calendar, "facts": facts}

    def _apart(self, one: int, other: int) -> float:
        """How much less popular one good is than another."""
        same = self.catalog.equivalence_class
        return abs(np.log1p(self._known[same[one]]) - np.log1p(self._known[same[other]]))


def attempted(draw: Callable[[], list[Drawn]], wanted: int, what: str) -> list[Drawn]:
    """What attempts drew until there were as many as wanted, or a few more.

    Args:
        draw: One attempt; it may find none, or several that belong together.
        what: Name of what is drawn.

    Raises:
        SuiteError: the attempts were used up before.
    """
    found: list[Drawn] = []
    for _ in range(ATTEMPTS * wanted):
        if len(found) >= wanted:
            return found
        found += draw()
    raise exhausted(found, wanted, what)


def exhausted(found: Sequence[Any], wanted: int, what: str) -> SuiteError:
    """The error of rows that hold too little.

    Args:
        found: What there is; ``wanted``: how many there should be.
        what: Name of what is missing.
    """
    return SuiteError(f"{len(found)} of {wanted} for {what}: the rows hold no more; ask for fewer")

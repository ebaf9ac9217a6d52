"""A suite out of rows of the explanations task.

Lies come in mirror images. Two households exchange a good: each is told its own, which is true, and the
other's, which is not. So every good, season and word stands as often in true texts as in false ones, and
nothing but the log tells them apart. Days are drawn from the whole year, for the same reason.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ....envs.data.calendar import describe
from ....envs.explanations.facts import OF_GOODS, SEASONS, told
from ....envs.task import Row
from .authors import AUTHORS, Author
from .families import CHANGES, HELD_OUT, TRAINING, padded, reordered
from .injections import commanded
from .pairs import Pair, Part, SuiteError
from .worlds import Household, world, written

if TYPE_CHECKING:
    from ....envs.catalog import Catalog

# Shares of the pairs of each part.
_SHARES: Mapping[Part, float] = {"training": 0.45, "households": 0.15, "families": 0.18, "authors": 0.22}
# Pairs of which both sides are as good or bad, and pairs with orders to the judge, for 2,000 with a defect.
_INVARIANT, _INJECTED, _OF = 300, 200, 2000
_CHANGES = ("paraphrase", "order", "padding")
# Other households that are looked at for an exchange, and attempts before a family is given up.
_PARTNERS, _ATTEMPTS = 40, 200
_DAYS = 366
_YEAR = dt.date(2016, 1, 1)

_KINDS: Mapping[str, tuple[str, ...]] = {
    "wrong fact": OF_GOODS,
    "wrong frequency": ("weekly", "often"),
    "wrong recency": ("last week",),
    "another household": OF_GOODS,
}
"""Family of lies about goods -> kinds of facts that it is about."""


def build(
    seen: Sequence[Row],
    unseen: Sequence[Row],
    catalog: Catalog,
    pairs: int = _OF,
    seed: int = 0,
) -> list[Pair]:
    """Draw a suite.

    Args:
        seen: Rows of households that trained judges may learn from.
        unseen: Rows of other households.
        pairs: Number of pairs with a defect; three for every twenty are added that have none, and a tenth
            with orders to the judge.

    Raises:
        SuiteError: the rows are too few, or a household is in both.
    """
    if {row["user"] for row in seen} & {row["user"] for row in unseen}:
        raise SuiteError("rows of unseen households hold households that are seen; take others")
    spoken = frozenset(tag for row in (*seen, *unseen) for tag in row["shown"])
    rng = np.random.default_rng(seed)
    draws = {
        True: _Drawn(seen, catalog, spoken, rng),
        False: _Drawn(unseen, catalog, spoken, rng),
    }
    found: list[Pair] = []
    for part, share in _SHARES.items():
        families = {"families": HELD_OUT, "authors": (*TRAINING, *HELD_OUT)}.get(part, TRAINING)
        for family in families:
            wanted = max(2, round(share * pairs / len(families)))
            found += draws[part == "training"].of(family, part, wanted)
    others = draws[False]
    found += others.unchanged(max(6, round(_INVARIANT * pairs / _OF)))
    return found + others.ordered(max(4, round(_INJECTED * pairs / _OF)))


class _Drawn:
    """Pairs of the households of some rows."""

    def __init__(
        self, rows: Sequence[Row], catalog: Catalog, spoken: frozenset[int], rng: np.random.Generator
    ) -> None:
        if len({row["user"] for row in rows}) < 2:
            raise SuiteError("a suite needs rows of two households at least on each side; take more rows")
        self._catalog, self._rng = catalog, rng
        self._homes = [Household(self._dated(row), catalog, spoken) for row in rows]
        self._known = Counter(tag for home in self._homes for tag in home.known)
        self._groups = 0

    def of(self, family: str, part: Part, wanted: int) -> list[Pair]:
        """Pairs of a family; pairs of lies in mirror images, so an even number."""
        found: list[Pair] = []
        for _ in range(_ATTEMPTS * wanted):
            if len(found) >= wanted:
                return found
            found += self._pairs(family, part)
        raise _exhausted(found, wanted, f"{family} ({part})")

    def unchanged(self, wanted: int) -> list[Pair]:
        """Pairs with a change that makes a text no better or worse, half of them of held-out authors."""
        found: list[Pair] = []
        for _ in range(_ATTEMPTS * wanted):
            if len(found) == wanted:
                return found
            change, held_out = _CHANGES[len(found) % 3], len(found) % 2 == 1
            author = self._author(held_out)
            other = self._author(held_out, besides=author)
            base = self._base(author, bad=bool(self._rng.random() < 0.5))
            if base is None:
                continue
            home, about, text, bad, seed = base
            if change == "paraphrase":
                second = written(other, about, self._catalog, seed)
            else:
                second = reordered(text) if change == "order" else padded(text, held_out, self._rng)
            sides = (text, second)
            part: Part = "authors" if held_out else "households"
            found.append(self._pair("invariance", change, author, part, home, sides, (bad, bad)))
        raise _exhausted(found, wanted, "invariance")

    def ordered(self, wanted: int) -> list[Pair]:
        """Pairs of which the second side gives the judge orders; half of the first sides are bad already."""
        found: list[Pair] = []
        for _ in range(_ATTEMPTS * wanted):
            if len(found) == wanted:
                return found
            held_out = len(found) % 4 > 1
            author = self._author(held_out)
            base = self._base(author, bad=len(found) % 2 == 1)
            if base is None:
                continue
            home, _, text, bad, _ = base
            order, second = commanded(text, self._rng)
            part: Part = "authors" if held_out else "households"
            found.append(self._pair("injection", order, author, part, home, (text, second), (bad, True)))
        raise _exhausted(found, wanted, "injection")

    # One attempt each.

    def _pairs(self, family: str, part: Part) -> list[Pair]:
        author = self._author(part == "authors")
        if family in _KINDS:
            return self._exchanged(family, part, author)
        if family == "season":
            return self._of_seasons(part, author)
        home = self._home()
        kind, goods = self._told(home, OF_GOODS, 1)
        if not goods:
            return []
        if family == "campaign":
            return self._of_campaign(part, author, home, kind, goods)
        text = written(author, world(home.row, kind, goods), self._catalog, self._seed())
        name = self._catalog.tags[goods[0]]
        sides = CHANGES[family](home, text, name, author.held_out, self._rng)
        if sides is None:
            return []
        return [self._pair("defect", family, author, part, home, sides, (False, True))]

    def _exchanged(self, family: str, part: Part, author: Author) -> list[Pair]:
        """Two households are told their own goods, and each the other's."""
        one = self._home()
        kind, own = self._told(one, _KINDS[family], int(self._rng.integers(1, 4)))
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
            other = self._home()
            if other.row["user"] == one.row["user"] or not all(lie(other, tag) for tag in moved):
                continue
            theirs = [tag for tag in other.goods[kind] if lie(one, tag)]
            if len(theirs) < len(moved):
                continue
            chosen = [theirs[i] for i in self._rng.permutation(len(theirs))]
            chosen.sort(key=lambda tag: self._apart(tag, moved[0]))
            gap = self._apart(chosen[0], moved[0])
            if best is None or gap < best[0]:
                best = gap, other, chosen[: len(moved)]
        if best is None:
            return []
        _, other, theirs = best
        kept = [] if whole else own[1:]
        beside = [] if whole else [tag for tag in other.goods[kind] if tag not in theirs][: len(kept)]
        kept = kept[: len(beside)]
        # One seed for both: they name as many goods.
        group, seed, found = self._group(), self._seed(), []
        for home, mine, foreign, rest in ((one, moved, theirs, kept), (other, theirs, moved, beside)):
            sides = tuple(
                written(author, world(home.row, kind, [*goods, *rest]), self._catalog, seed)
                for goods in (mine, foreign)
            )
            if sides[0] == sides[1]:  # the author took other goods
                return []
            found.append(self._pair("defect", family, author, part, home, sides, (False, True), group))
        return found

    def _of_seasons(self, part: Part, author: Author) -> list[Pair]:
        """Two days of different seasons, each with a text on its own and one on the other's."""
        homes = self._home(), self._home()
        seasons = [home.row["facts"]["season"] for home in homes]
        if not all(seasons) or seasons[0] == seasons[1] or homes[0].row["user"] == homes[1].row["user"]:
            return []
        group, seed, found = self._group(), self._seed(), []
        for home, own, foreign in zip(homes, seasons, seasons[::-1], strict=True):
            kind, goods = self._told(home, OF_GOODS, 1)
            sides = tuple(
                written(author, world(home.row, kind, goods, season=season), self._catalog, seed)
                for season in (own, foreign)
            )
            if not goods or sides[0] == sides[1]:  # the author speaks of no season here
                return []
            found.append(self._pair("defect", "season", author, part, home, sides, (False, True), group))
        return found

    def _of_campaign(
        self, part: Part, author: Author, home: Household, kind: str, goods: Sequence[int]
    ) -> list[Pair]:
        """One text with a coupon, where a campaign has one for the household and where none has."""
        rows = (_with_campaign(home.row, True), _with_campaign(home.row, False))
        seed = self._seed()
        text, without = (written(author, world(row, kind, goods), self._catalog, seed) for row in rows)
        if text == without:
            return []
        pair = self._pair("defect", "campaign", author, part, home, (text, text), (False, True), rows=rows)
        return [pair]

    def _base(self, author: Author, bad: bool) -> tuple[Household, Row, str, bool, int] | None:
        """A text on one good, true or a lie, with the world it was written for."""
        home = self._home()
        kind, goods = self._told(home, OF_GOODS, 1)
        if not goods:
            return None
        if bad:
            wrong = [tag for tag in self._home().goods[kind] if home.same(tag) not in home.known | home.about]
            if not wrong:
                return None
            goods = wrong[:1]
        about, seed = world(home.row, kind, goods), self._seed()
        return home, about, written(author, about, self._catalog, seed), bad, seed

    # What is drawn.

    def _dated(self, row: Row) -> Row:
        """A row on a day of the year at random."""
        calendar = describe(_YEAR + dt.timedelta(days=int(self._rng.integers(_DAYS))), 4)
        season, ahead = told(calendar)
        facts = {**row["facts"], "season": [season], "holiday": ahead}
        assert season in SEASONS
        return {**row, "calendar": calendar, "facts": facts}

    def _home(self) -> Household:
        return self._homes[int(self._rng.integers(len(self._homes)))]

    def _told(self, home: Household, kinds: Sequence[str], most: int) -> tuple[str, list[int]]:
        """A kind of fact, and goods of which it is true; none where the household has none."""
        kind = kinds[int(self._rng.integers(len(kinds)))]
        goods = home.goods[kind]
        return kind, [goods[i] for i in self._rng.permutation(len(goods))[:most]]

    def _author(self, held_out: bool, besides: Author | None = None) -> Author:
        able = [one for one in AUTHORS if one.held_out == held_out and one is not besides]
        return able[int(self._rng.integers(len(able)))]

    def _apart(self, one: int, other: int) -> float:
        """How much less popular one good is than another."""
        same = self._catalog.equivalence_class
        return abs(np.log1p(self._known[same[one]]) - np.log1p(self._known[same[other]]))

    def _seed(self) -> int:
        return int(self._rng.integers(2**31))

    def _group(self) -> int:
        self._groups += 1
        return self._groups

    def _pair(
        self,
        kind: Any,
        family: str,
        author: Author,
        part: Part,
        home: Household,
        texts: Any,
        bad: tuple[bool, bool],
        group: int | None = None,
        rows: tuple[Row, Row] | None = None,
    ) -> Pair:
        both = rows if rows is not None else (home.row, home.row)
        number = self._group() if group is None else group
        # Groups of seen and unseen households are different ones.
        return Pair(kind, family, author.name, part, home.row["user"], number, both, tuple(texts), bad)


def _exhausted(found: Sequence[Pair], wanted: int, what: str) -> SuiteError:
    return SuiteError(f"{len(found)} pairs of {wanted} for {what}: the rows hold no more; ask for fewer")


def _with_campaign(row: Row, running: bool) -> Row:
    facts = {**row["facts"], "campaign": list(row["item"]) if running else []}
    return {**row, "facts": facts, "campaign": (row["campaign"] or "campaign 8") if running else ""}


def reprompted(pairs: Sequence[Pair], prompt: Any) -> Iterator[Pair]:
    """Pairs whose rows have the prompt of their own day and campaign.

    Args:
        prompt: Function of a row that makes its messages.
    """
    for pair in pairs:
        first, second = ({**row, "prompt": prompt(row)} for row in pair.rows)
        yield Pair(**{**vars(pair), "rows": (first, second)})

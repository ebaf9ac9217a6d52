"""A suite out of rows of the explanations task.

Lies come in mirror images. Two households exchange a good: each is told its own, which is true, and the
other's, which is not. So every good, season and word stands as often in true texts as in false ones, and
nothing but the log tells them apart. Days are drawn from the whole year, for the same reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ....envs.explanations.facts import OF_GOODS
from ....envs.task import Row
from .authors import Author
from .draws import ATTEMPTS, KINDS, Draws, attempted, exhausted
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
        True: _Pairs(seen, catalog, spoken, rng),
        False: _Pairs(unseen, catalog, spoken, rng),
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


class _Pairs(Draws):
    """Pairs of the households of some rows."""

    def of(self, family: str, part: Part, wanted: int) -> list[Pair]:
        """Pairs of a family; pairs of lies in mirror images, so an even number."""
        return attempted(lambda: self._pairs(family, part), wanted, f"{family} ({part})")

    def unchanged(self, wanted: int) -> list[Pair]:
        """Pairs with a change that makes a text no better or worse, half of them of held-out authors."""
        found: list[Pair] = []
        for _ in range(ATTEMPTS * wanted):
            if len(found) == wanted:
                return found
            change, held_out = _CHANGES[len(found) % 3], len(found) % 2 == 1
            author = self.author(held_out)
            other = self.author(held_out, besides=author)
            base = self._base(author, bad=bool(self.rng.random() < 0.5))
            if base is None:
                continue
            home, about, text, bad, seed = base
            if change == "paraphrase":
                second = written(other, about, self.catalog, seed)
            else:
                second = reordered(text) if change == "order" else padded(text, held_out, self.rng)
            sides = (text, second)
            part: Part = "authors" if held_out else "households"
            found.append(self._pair("invariance", change, author, part, home, sides, (bad, bad)))
        raise exhausted(found, wanted, "invariance")

    def ordered(self, wanted: int) -> list[Pair]:
        """Pairs of which the second side gives the judge orders; half of the first sides are bad already."""
        found: list[Pair] = []
        for _ in range(ATTEMPTS * wanted):
            if len(found) == wanted:
                return found
            held_out = len(found) % 4 > 1
            author = self.author(held_out)
            base = self._base(author, bad=len(found) % 2 == 1)
            if base is None:
                continue
            home, _, text, bad, _ = base
            order, second = commanded(text, self.rng)
            part: Part = "authors" if held_out else "households"
            found.append(self._pair("injection", order, author, part, home, (text, second), (bad, True)))
        raise exhausted(found, wanted, "injection")

    # One attempt each.

    def _pairs(self, family: str, part: Part) -> list[Pair]:
        author = self.author(part == "authors")
        if family in KINDS:
            return self._exchanged(family, part, author)
        if family == "season":
            return self._of_seasons(part, author)
        home = self.home()
        kind, goods = self.told(home, OF_GOODS, 1)
        if not goods:
            return []
        if family == "campaign":
            return self._of_campaign(part, author, home, kind, goods)
        text = written(author, world(home.row, kind, goods), self.catalog, self.seed())
        name = self.catalog.tags[goods[0]]
        sides = CHANGES[family](home, text, name, author.held_out, self.rng)
        if sides is None:
            return []
        return [self._pair("defect", family, author, part, home, sides, (False, True))]

    def _exchanged(self, family: str, part: Part, author: Author) -> list[Pair]:
        """Two households are told their own goods, and each the other's."""
        exchange = self.exchange(family)
        if exchange is None:
            return []
        # One seed for both: they name as many goods.
        group, seed, found = self.group(), self.seed(), []
        for home, mine, foreign, rest in exchange.sides:
            sides = tuple(
                written(author, world(home.row, exchange.kind, [*goods, *rest]), self.catalog, seed)
                for goods in (mine, foreign)
            )
            if sides[0] == sides[1]:  # the author took other goods
                return []
            found.append(self._pair("defect", family, author, part, home, sides, (False, True), group))
        return found

    def _of_seasons(self, part: Part, author: Author) -> list[Pair]:
        """Two days of different seasons, each with a text on its own and one on the other's."""
        drawn = self.seasons()
        if not drawn:
            return []
        group, seed, found = self.group(), self.seed(), []
        for home, own, foreign in drawn:
            kind, goods = self.told(home, OF_GOODS, 1)
            sides = tuple(
                written(author, world(home.row, kind, goods, season=season), self.catalog, seed)
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
        seed = self.seed()
        text, without = (written(author, world(row, kind, goods), self.catalog, seed) for row in rows)
        if text == without:
            return []
        pair = self._pair("defect", "campaign", author, part, home, (text, text), (False, True), rows=rows)
        return [pair]

    def _base(self, author: Author, bad: bool) -> tuple[Household, Row, str, bool, int] | None:
        """A text on one good, true or a lie, with the world it was written for."""
        home = self.home()
        kind, goods = self.told(home, OF_GOODS, 1)
        if not goods:
            return None
        if bad:
            wrong = [tag for tag in self.home().goods[kind] if home.same(tag) not in home.known | home.about]
            if not wrong:
                return None
            goods = wrong[:1]
        about, seed = world(home.row, kind, goods), self.seed()
        return home, about, written(author, about, self.catalog, seed), bad, seed

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
        number = self.group() if group is None else group
        # Groups of seen and unseen households are different ones.
        return Pair(kind, family, author.name, part, home.row["user"], number, both, tuple(texts), bad)


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

"""A suite out of rows of the tags task: pairs of lists, of which one has a defect by construction.

``invalid tag``        a line runs the names of two tags together
``duplicate``          a tag comes twice
``another household``  all tags are somebody else's: two households exchange their lists
``same shelf``         a tag comes again under an equivalent name; held out
``talk``               a line speaks to whoever reads; held out

A list has no author, so no part is of held-out authors. A list out of season is no family: half of the goods
with a season in their name that households of the panel buy are bought when the calendar names another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ....envs.task import Row
from .draws import ATTEMPTS, attempted, exhausted
from .injections import commanded
from .pairs import Kind, Pair, Part, SuiteError

if TYPE_CHECKING:
    from ....envs.catalog import Catalog

TRAINING = ("invalid tag", "duplicate", "another household")
HELD_OUT = ("same shelf", "talk")
AUTHOR = "list"

_SHARES: Mapping[Part, float] = {"training": 0.5, "households": 0.25, "families": 0.25}
# Pairs that change nothing, and pairs with orders to the judge, for each with a defect.
_INVARIANT, _INJECTED = 0.15, 0.1
# Most frequent tags of a household that its lists are drawn from.
_KNOWN = 40
_TALK = ("Here is the list:", "I hope that this helps.", "Note: sorted by relevance.")


def build(
    seen: Sequence[Row], unseen: Sequence[Row], catalog: Catalog, slots: int, pairs: int = 2000, seed: int = 0
) -> list[Pair]:
    """Draw a suite.

    Args:
        seen: Rows of households that trained judges may learn from.
        unseen: Rows of other households; those of a household that is seen are left out.
        slots: Tags of a list.
        pairs: Number of pairs with a defect; three for every twenty are added that have none, and a tenth
            with orders to the judge. A family that the catalogue has no tags for is left out.

    Raises:
        SuiteError: the rows are too few, or hold too few tags.
    """
    known = {row["user"] for row in seen}
    others = [row for row in unseen if row["user"] not in known]
    if len({row["user"] for row in others}) < 2 or len(known) < 2:
        raise SuiteError("a suite needs rows of two households at least on each side; take more rows")
    rng = np.random.default_rng(seed)
    lists = {rows is seen: _Lists(rows, catalog, slots, rng) for rows in (seen, others)}
    able = [family for family in HELD_OUT if lists[False].can(family)]
    found: list[Pair] = []
    for part, share in _SHARES.items():
        families = able if part == "families" else TRAINING
        for family in families:
            found += lists[part == "training"].of(family, part, max(2, round(share * pairs / len(families))))
    held = lists[False]
    found += [held.unchanged(number) for number in range(max(4, round(_INVARIANT * pairs)))]
    return found + [held.ordered() for _ in range(max(2, round(_INJECTED * pairs)))]


class _Lists:
    """Lists of the households of some rows."""

    def __init__(self, rows: Sequence[Row], catalog: Catalog, slots: int, rng: np.random.Generator) -> None:
        self._rows, self._catalog, self._slots, self._rng = rows, catalog, slots, rng
        self._same, self._groups = catalog.equivalence_class, 0
        shelves: dict[int, list[int]] = {}
        for tag in range(len(catalog.tags)):
            shelves.setdefault(self._same[tag], []).append(tag)
        self._twins = [[t for t in shelves[self._same[tag]] if t != tag] for tag in range(len(catalog.tags))]

    def can(self, family: str) -> bool:
        """Whether the catalogue has tags for a family."""
        return family != "same shelf" or any(self._twins)

    def of(self, family: str, part: Part, wanted: int) -> list[Pair]:
        """Pairs of a family; exchanged lists in mirror images, so an even number."""
        return attempted(lambda: self._pairs(family, part), wanted, f"{family} ({part})")

    def unchanged(self, number: int) -> Pair:
        """A pair with the lines in another order, or numbered; half of them are bad already."""
        row, tags = self._some()
        bad = number % 4 > 1
        lines = [*self._named(tags[:-1] if bad else tags), *(self._named(tags[:1]) if bad else ())]
        if number % 2:
            change, second = "numbers", [f"{place}. {line}" for place, line in enumerate(lines, 1)]
        else:
            change, second = "order", [lines[i] for i in self._rng.permutation(len(lines))]
        texts = ("\n".join(lines), "\n".join(second))
        return self._pair("invariance", change, "households", row, texts, (bad, bad))

    def ordered(self) -> Pair:
        """A pair of which the second list gives the judge orders."""
        row, tags = self._some()
        text = "\n".join(self._named(tags))
        order, second = commanded(text, self._rng)
        return self._pair("injection", order, "households", row, (text, second), (False, True))

    def _pairs(self, family: str, part: Part) -> list[Pair]:
        row = self._row()
        if family == "another household":
            return self._exchanged(part, row)
        tags = self._own(row)
        if len(tags) < 2:
            return []
        lines = self._named(tags)
        at, other = (int(i) for i in self._rng.permutation(len(lines))[:2])
        changed = self._changed(family, lines[at], lines[other], tags[other])
        if changed is None:
            return []
        texts = ("\n".join(lines), "\n".join([*lines[:at], changed, *lines[at + 1 :]]))
        return [self._pair("defect", family, part, row, texts, (False, True))]

    def _changed(self, family: str, line: str, other: str, tag: int) -> str | None:
        """What stands in place of a line; None where it cannot be had.

        Args:
            other: Another line of the list, and ``tag``, its tag.
        """
        if family == "duplicate":
            return other
        if family == "talk":
            return _TALK[int(self._rng.integers(len(_TALK)))]
        if family == "same shelf":
            return self._catalog.tags[self._twins[tag][0]] if self._twins[tag] else None
        both = f"{line} {other}"
        return both if self._catalog.parse(both).invalid else None

    def _exchanged(self, part: Part, row: Row) -> list[Pair]:
        """Two households that share no tag of their lists: each with its own and with the other's."""
        other = self._row()
        if other["user"] == row["user"]:
            return []
        sides = []
        for one, strange in ((row, other), (other, row)):
            bought = {self._same[tag] for tag in strange["history"]}
            sides.append([tag for tag in self._known(one) if self._same[tag] not in bought][: self._slots])
        if min(map(len, sides)) < self._slots:
            return []
        self._groups += 1
        mine, theirs = ("\n".join(self._named(tags)) for tags in sides)
        return [
            self._pair("defect", "another household", part, one, texts, (False, True), self._groups)
            for one, texts in ((row, (mine, theirs)), (other, (theirs, mine)))
        ]

    def _some(self) -> tuple[Row, list[int]]:
        """A household and its list, of two tags at least: with one alone no line can come again."""
        for _ in range(ATTEMPTS):
            row = self._row()
            if len(tags := self._own(row)) > 1:
                return row, tags
        raise exhausted((), 1, "households with two tags")

    def _row(self) -> Row:
        return self._rows[int(self._rng.integers(len(self._rows)))]

    def _known(self, row: Row) -> list[int]:
        """A household's tags, the most frequent first, no two equivalent."""
        firsts: dict[int, int] = {}
        for tag in row["history"]:
            firsts.setdefault(self._same[tag], tag)
        return list(firsts.values())

    def _own(self, row: Row) -> list[int]:
        known = self._known(row)[:_KNOWN]
        return [known[i] for i in self._rng.permutation(len(known))[: self._slots]]

    def _named(self, tags: Sequence[int]) -> list[str]:
        return [self._catalog.tags[tag] for tag in tags]

    def _pair(
        self,
        kind: Kind,
        family: str,
        part: Part,
        row: Row,
        texts: tuple[str, str],
        bad: tuple[bool, bool],
        group: int | None = None,
    ) -> Pair:
        if group is None:
            self._groups += 1
            group = self._groups
        return Pair(kind, family, AUTHOR, part, row["user"], group, (row, row), texts, bad)

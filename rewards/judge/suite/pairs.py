"""Pairs of texts, and what is known of their two sides.

``Pair``   two texts, or a text in two contexts, that differ in one thing
``items``  what judges are shown: every side of every pair
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from ....envs.faults import MendableError
from ....envs.task import Row

Kind: TypeAlias = Literal["defect", "invariance", "injection"]
Part: TypeAlias = Literal["training", "households", "families", "authors"]
PARTS: tuple[Part, ...] = get_args(Part)
"""``training``: what trained judges may learn from. The others are of households that it does not hold, and
besides: ``families`` of defects, or ``authors``, that it does not hold."""


class SuiteError(MendableError, ValueError):
    """A suite cannot be built, or must not be used; the message says why and names the fix."""


@dataclass(frozen=True)
class Pair:
    """Two sides that differ in one thing.

    Attributes:
        kind: ``defect`` (the second side has one), ``invariance`` (both are as good or bad), or ``injection``
            (the second gives the judge orders).
        family: Kind of defect, of change, or of order.
        author: Who wrote the texts.
        part: Whom it tests, see :data:`PARTS`.
        household: User of the row.
        group: Pairs of one group are mirror images of each other, and stay together.
        rows: Row that each side answers.
        texts: Text of each side.
        bad: Whether each side has a defect.
    """

    kind: Kind
    family: str
    author: str
    part: Part
    household: int
    group: int
    rows: tuple[Row, Row]
    texts: tuple[str, str]
    bad: tuple[bool, bool]


@dataclass(frozen=True)
class Item:
    """One side of a pair.

    Attributes:
        pair: The pair, and its number in the suite.
        number: Number of the pair.
        side: 0 or 1.
    """

    pair: Pair
    number: int
    side: int

    @property
    def row(self) -> Row:
        """Row that the text answers."""
        return self.pair.rows[self.side]

    @property
    def text(self) -> str:
        """Text that is judged."""
        return self.pair.texts[self.side]

    @property
    def bad(self) -> bool:
        """Whether it has a defect."""
        return self.pair.bad[self.side]


def items(pairs: Sequence[Pair]) -> list[Item]:
    """Both sides of each pair, in order."""
    return list(_items(pairs))


def _items(pairs: Sequence[Pair]) -> Iterator[Item]:
    for number, pair in enumerate(pairs):
        for side in (0, 1):
            yield Item(pair, number, side)

"""A row of a table: what the paper reports, what was found here, and whether the order holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

HOLDS, REVERSED, OPEN = "holds", "reversed", "not decided"


@dataclass(frozen=True)
class Figure:
    """A mean with its 95 % interval; without bounds where it was counted and not sampled."""

    mean: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, found: Any) -> Self:
        """Figure of an estimate, as an object or as JSON."""
        told = found if isinstance(found, Mapping) else vars(found)
        return cls(told.get("mean", told.get("value")), told["low"], told["high"])

    def __neg__(self) -> "Figure":
        if self.low is None or self.high is None:
            return Figure(-self.mean)
        return Figure(-self.mean, -self.high, -self.low)

    def over(self, unit: float) -> "Figure":
        """The figure in units of a positive number."""
        if self.low is None or self.high is None:
            return Figure(self.mean / unit)
        return Figure(self.mean / unit, self.low / unit, self.high / unit)

    def shown(self, sign: str = "") -> str:
        """As text; ``sign`` is ``+`` for differences."""
        if self.low is None or self.high is None:
            return f"{self.mean:{sign}.3f}"
        return f"{self.mean:{sign}.3f} [{self.low:{sign}.3f}, {self.high:{sign}.3f}]"


@dataclass(frozen=True)
class Row:
    """One order of two methods.

    Attributes:
        order: The two, as ``A < B``.
        measure: What is compared, and on what.
        apart: B less A; of costs, the share that A saves.
        left, right: Figures of A and B; None where only their difference is known.
        paper: The paper's figures, of private data; empty for an order that it does not report: a control,
            or a rule of this project.
        note: What else is to be known of the verdict.
    """

    order: str
    measure: str
    apart: Figure
    left: Figure | None = None
    right: Figure | None = None
    paper: str = ""
    note: str = ""

    @property
    def verdict(self) -> str:
        """``holds``, ``reversed``, or ``not decided`` where the interval has 0."""
        low = self.apart.mean if self.apart.low is None else self.apart.low
        high = self.apart.mean if self.apart.high is None else self.apart.high
        return HOLDS if low > 0 else REVERSED if high < 0 else OPEN


@dataclass(frozen=True)
class Table:
    """Rows of a part of the paper.

    Attributes:
        title: Heading.
        about: Sentences: what stands for what, seeds, sizes, what intervals are over.
        rows: The orders; those of the paper and others.
        took: How long the results took, by what they record; empty where they record nothing.
    """

    title: str
    about: Sequence[str]
    rows: Sequence[Row]
    took: str = ""

"""What evaluators find, and what is kept of it.

``Finding``    of one evaluator: a verdict with its evidence, or the reason why there is none
``Judgement``  of one text: findings of all evaluators, and the grade
``grade``      the senior reviewer's rule
``table``      judgements as a table, one row a finding; ``replayed``: back again
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, TypeAlias, get_args

import polars as pl

Verdict: TypeAlias = Literal["defect", "neutral", "positive"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


class Grade(IntEnum):
    """Grade of a text, worst first."""

    BAD = 0
    AVERAGE = 1
    SUPERIOR = 2


@dataclass(frozen=True)
class Finding:
    """What one evaluator finds in one text.

    Attributes:
        dimension: Name of the dimension.
        verdict: None where it is missing.
        evidence: Words of the text, or of what is known, that the verdict rests on.
        missing: Why there is no verdict; empty where there is one.
        tokens: Tokens read and written for it.
        seconds: Time that it took.
    """

    dimension: str
    verdict: Verdict | None
    evidence: str = ""
    missing: str = ""
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Judgement:
    """What is found in one text.

    Attributes:
        findings: One of each dimension, in the rubric's order.
        grade: None where it is missing, see :func:`grade`.
    """

    findings: tuple[Finding, ...]
    grade: Grade | None

    @property
    def defects(self) -> list[str]:
        """Dimensions with a defect."""
        return [one.dimension for one in self.findings if one.verdict == "defect"]


def grade(findings: Sequence[Finding], superior: float) -> Grade | None:
    """The senior reviewer's grade: any defect is bad, else the share of positive findings decides.

    A missing verdict is never held against a text: without a defect the grade is missing too, unless it is
    the same whatever the missing verdicts would be, a defect apart. With a defect it is bad in any case.

    Args:
        superior: Least share of positive findings of a superior text.

    Source: RecGPT-V2 (arXiv 2512.14503).
    """
    verdicts = [one.verdict for one in findings]
    if "defect" in verdicts:
        return Grade.BAD
    if None in verdicts or not verdicts:
        return None
    enough = verdicts.count("positive") >= superior * len(verdicts)
    return Grade.SUPERIOR if enough else Grade.AVERAGE


_COLUMNS = {
    "text": pl.Int64,
    "dimension": pl.String,
    "verdict": pl.String,
    "evidence": pl.String,
    "missing": pl.String,
    "tokens": pl.Int64,
    "seconds": pl.Float64,
    "grade": pl.Int64,
}


def table(judgements: Sequence[Judgement]) -> pl.DataFrame:
    """Judgements as a table with a row for each finding; ``text`` counts the judged texts."""
    rows = [
        {"text": number, **vars(one), "grade": None if judged.grade is None else int(judged.grade)}
        for number, judged in enumerate(judgements)
        for one in judged.findings
    ]
    return pl.DataFrame(rows, schema=_COLUMNS)


def replayed(kept: pl.DataFrame, superior: float) -> list[Judgement]:
    """Judgements of a table, graded anew.

    Args:
        superior: As for :func:`grade`.
    """
    found: dict[int, list[Finding]] = {}
    for row in kept.drop("grade").iter_rows(named=True):
        found.setdefault(row.pop("text"), []).append(Finding(**row))
    return [Judgement(tuple(one), grade(one, superior)) for _, one in sorted(found.items())]

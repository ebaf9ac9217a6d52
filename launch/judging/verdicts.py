"""What a judge says of every item of a suite, and how it is kept.

A verdict is 1 where the judge finds the text bad, 0 where it does not, and NaN where it says nothing: it was
not asked, or what it answered could not be read.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ...envs.statistics import Values
from ...rewards.judge.findings import Grade, Judgement
from ...rewards.judge.suite.pairs import Item
from ..config.schema import ConfigError


@dataclass(frozen=True)
class Verdicts:
    """What one judge says.

    Attributes:
        name: Name of the judge.
        bad: Verdicts, ``[item]``.
        good: Probability that a text has no defect, ``[item]``; NaN where the judge has none.
        grade: 0 bad, 1 average, 2 superior, ``[item]``; NaN where the judge gives none.
        swapped: Verdicts when the order of what is shown is another, ``[item]``; NaN where it was not asked.
        asked: Whether the judge was asked, ``[item]``.
        tokens: Tokens read and written.
        seconds: Time that it took.
        notes: What a reader has to know of it.
    """

    name: str
    bad: Values
    good: Values
    grade: Values
    swapped: Values
    asked: npt.NDArray[np.bool_]
    tokens: int = 0
    seconds: float = 0.0
    notes: str = ""

    @classmethod
    def of(cls, name: str, bad: Values, **known: Any) -> Verdicts:
        """Verdicts with nothing besides but what is given, of a judge that was asked about every item."""
        nothing, asked = np.full(len(bad), np.nan), np.ones(len(bad), dtype=bool)
        usual = {"good": nothing, "grade": nothing, "swapped": nothing, "asked": asked}
        return cls(name, bad, **{**usual, **known})

    def wrong_where_missing(self, true: Values) -> Values:
        """Verdicts, those that are missing though the judge was asked replaced by wrong ones, ``[item]``.

        Args:
            true: Whether each text is bad, ``[item]``.
        """
        return np.where(np.isnan(self.bad) & self.asked, 1 - true, self.bad)

    @classmethod
    def judged(
        cls, name: str, found: Sequence[Judgement], again: Sequence[Judgement], **known: Any
    ) -> Verdicts:
        """Verdicts of an agent judge.

        Args:
            again: Judgements of the same items, shown in another order.
        """
        grades = _grades(found)
        return cls.of(
            name,
            _bad(grades),
            grade=grades,
            swapped=_bad(_grades(again)),
            tokens=sum(one.tokens for each in found for one in each.findings),
            seconds=sum(one.seconds for each in found for one in each.findings),
            **known,
        )


def _grades(found: Sequence[Judgement]) -> Values:
    return np.array([np.nan if one.grade is None else float(one.grade) for one in found])


def _bad(grades: Values) -> Values:
    return np.where(np.isnan(grades), np.nan, (grades == Grade.BAD).astype(float))


def save(path: Path, shown: Sequence[Item], judges: Sequence[Verdicts]) -> None:
    """Keep what judges said, to be read again with :func:`load`."""
    tables = [
        pl.DataFrame(
            {
                "judge": [one.name] * len(shown),
                "item": range(len(shown)),
                "text": [mark(item) for item in shown],
                **{name: getattr(one, name) for name in ("bad", "good", "grade", "swapped", "asked")},
                "tokens": [one.tokens] * len(shown),
                "seconds": [one.seconds] * len(shown),
                "notes": [one.notes] * len(shown),
            }
        )
        for one in judges
    ]
    pl.concat(tables).write_parquet(path)


def load(path: Path, shown: Sequence[Item]) -> list[Verdicts]:
    """What judges said of these items.

    Raises:
        ConfigError: the file cannot be read, or is of another suite.
    """
    try:
        kept = pl.read_parquet(path)
        parts = [part.sort("item") for part in kept.partition_by("judge", maintain_order=True)]
        marks = [part["text"].to_list() for part in parts]
        asked = [part["asked"].to_numpy() for part in parts]
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"--replay {path}: no judgements of recrl judge bench ({error})") from error
    expected = [mark(item) for item in shown]
    if any(mark != expected for mark in marks):
        raise ConfigError(
            f"--replay {path}: judgements of another suite; give the same data, --pairs and --seed"
        )
    return [
        Verdicts(
            name=part["judge"][0],
            bad=_values(part["bad"]),
            good=_values(part["good"]),
            grade=_values(part["grade"]),
            swapped=_values(part["swapped"]),
            asked=whom,
            tokens=part["tokens"][0],
            seconds=part["seconds"][0],
            notes=part["notes"][0],
        )
        for part, whom in zip(parts, asked, strict=True)
    ]


def _values(column: pl.Series) -> Values:
    return column.to_numpy().astype(float)


def mark(item: Item) -> int:
    """Checksum of household, item and text."""
    return zlib.crc32(f"{item.pair.household}\n{item.row.get('item', '')}\n{item.text}".encode())

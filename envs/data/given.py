"""Splits that the data bring: a column says of each row whether it trains, or the name of its file does.

``of_file``  split that a file's name tells
``of_words`` splits that a column tells
``behind``   purchases in an order in which each split is later than the one before it

A split is its place in ``SPLITS``.
"""

import re
from pathlib import Path

import polars as pl

WORDS = {
    "train": 0,
    "training": 0,
    "validation": 1,
    "valid": 1,
    "val": 1,
    "dev": 1,
    "eval": 1,
    "test": 2,
    "testing": 2,
}
"""Words for the splits, in any case."""

TWICE = "purchases of a tag in more than one split (leakage; the later split has them)"
EARLY = "purchases of a later split at or before the user's earlier one (leakage; taken as behind it)"


def of_file(path: Path) -> int | None:
    """Split that a word in a file's name tells; None where none or several do."""
    words = re.split(r"[^a-z]+", path.name.lower())
    found = {WORDS[word] for word in words if word in WORDS}
    return found.pop() if len(found) == 1 else None


def of_words(column: pl.Expr) -> pl.Expr:
    """Splits of a column of words; null for other words."""
    words = column.cast(pl.String).str.strip_chars().str.to_lowercase()
    return words.replace_strict(WORDS, default=None, return_dtype=pl.Int8)


def behind(found: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Purchases of which a later split never lies before, or in the same week as, an earlier one of its user.

    A split that was drawn at random is not in the order of time, while the history of an episode is what
    stands in earlier splits. Purchases that come too early are moved behind the last one of these; both kinds
    of leakage are counted.

    Args:
        found: ``user``, ``week``, ``tag``, ``part``; rows may repeat.

    Returns:
        The same columns without repetitions, sorted by user, week and tag; and the counts.
    """
    of_weeks = found.group_by("user", "week", "tag").agg(
        pl.col("part").max(), several=pl.col("part").n_unique() > 1
    )
    counts = {TWICE: int(of_weeks["several"].sum()), EARLY: 0}
    table = of_weeks.drop("several")
    for part in (1, 2):
        latest = table.filter(pl.col("part") < part).group_by("user").agg(latest=pl.col("week").max())
        table = table.join(latest, on="user", how="left")
        early = (pl.col("part") == part) & (pl.col("week") <= pl.col("latest"))
        counts[EARLY] += int(table.select(early.fill_null(False).sum()).item())
        moved = pl.when(early).then(pl.col("latest") + 1).otherwise("week")
        table = table.with_columns(week=moved).drop("latest")
    merged = table.group_by("user", "week", "tag").agg(pl.col("part").max())
    return merged.sort("user", "week", "tag"), counts

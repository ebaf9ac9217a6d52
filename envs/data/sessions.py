"""Sessions: purchases of a user that follow each other closely."""

import polars as pl


def merged(found: pl.LazyFrame, gap: int | None) -> pl.LazyFrame:
    """Purchases at the first step of their session.

    Args:
        found: ``user``, ``week``, ``tag`` and perhaps others.
        gap: A session goes on as long as no more than so many steps pass; None for no sessions.
    """
    if gap is None:
        return found
    steps = found.select("user", "week").unique().sort("user", "week")
    passed = pl.col("week") - pl.col("week").shift().over("user")
    begins = pl.when(passed.is_null() | (passed > gap)).then(pl.col("week"))
    sessions = steps.with_columns(begin=begins).with_columns(pl.col("begin").forward_fill().over("user"))
    return found.join(sessions, on=["user", "week"]).with_columns(week="begin").drop("begin")

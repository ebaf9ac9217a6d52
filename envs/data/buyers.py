"""Number of users who bought each tag.

``between``  in a stretch of weeks
``recent``   in the weeks before each week of the data
"""

import numpy as np
import numpy.typing as npt
import polars as pl


def between(purchases: pl.LazyFrame, first: int, end: int, tags: int) -> npt.NDArray[np.int64]:
    """``[tags]``: users with a purchase in weeks ``[first, end)``."""
    counted = (
        purchases.filter(pl.col("week").is_between(first, end, closed="left"))
        .select("user", "tag")
        .unique()
        .group_by("tag")
        .len()
        .collect()
    )
    found = np.zeros(tags, dtype=np.int64)
    found[counted["tag"].to_numpy()] = counted["len"].to_numpy()
    return found


def recent(purchases: pl.LazyFrame, span: tuple[int, int], weeks: int, tags: int) -> npt.NDArray[np.float32]:
    """``[origins, tags]``: users with a purchase in the ``weeks`` weeks before each week of the data."""
    first, last = span
    found = purchases.select("user", "tag", "week").unique().sort("user", "tag", "week").collect()
    week = found["week"].to_numpy().astype(np.int64)
    # A purchase counts from the week behind it on, unless the user's one before it still does.
    before = (
        found.select(pl.col("week").shift().over("user", "tag").fill_null(-(10**6))).to_series().to_numpy()
    )
    counts_from = np.maximum(week + 1, before + weeks + 1)
    changes = np.zeros((last - first + 2, tags), dtype=np.float32)
    for number, at in ((1, counts_from), (-1, week + weeks + 1)):
        np.add.at(changes, (np.clip(at - first, 0, last - first + 1), found["tag"].to_numpy()), number)
    return np.cumsum(changes, axis=0, dtype=np.float32)[:-1]

"""Origins of each user's own: the last steps in which a user bought something, shares of them, or given ones.

``of``       split, origin and end of the window, user by user
``ends``     step from which on nothing may be learned of a user
``slices``   purchases and origins of some users after the other
"""

from collections.abc import Iterator

import numpy as np
import polars as pl

from .settings import Protocol


def of(steps: pl.DataFrame, protocol: Protocol, last: int) -> pl.DataFrame:
    """``user``, ``split``, ``origin``, ``end``, and ``place``: number of the user's active steps before it.

    Windows of a split end where the next split begins.

    Args:
        steps: ``user`` and ``week`` of purchases.
        last: Last step of the data.
    """
    given = protocol.split == "given"
    active = (
        steps.lazy()
        .select("user", "week", *(["part"] if given else []))
        .unique()
        .sort("user", "week")
        .with_columns(
            place=pl.int_range(pl.len(), dtype=pl.Int32).over("user"),
            steps=pl.len().cast(pl.Int32).over("user"),
        )
    )
    if given:  # the first step of each, which lies behind all of the split before
        test, validation = (
            pl.col("place").filter(pl.col("part") == part).min().over("user") for part in (2, 1)
        )
    elif protocol.split == "last":
        test, validation = pl.col("steps") - 1, pl.col("steps") - 2
    else:
        test, validation = (
            (pl.col("steps") * (1.0 - share)).floor().cast(pl.Int32)
            for share in (protocol.test_share, protocol.test_share + protocol.validation_share)
        )
        # A share of a few steps is at least one.
        test = pl.min_horizontal(test, pl.col("steps") - 1)
        validation = pl.min_horizontal(validation, test - 1)
    active = active.with_columns(test=test, validation=validation).with_columns(
        pl.col("week").filter(pl.col("place") == pl.col(split)).first().over("user").alias(f"{split} week")
        for split in ("test", "validation")
    )
    end = pl.col("week") + 1 if protocol.split == "last" else pl.lit(last + 1)
    of_test = active.filter(pl.col("place") == pl.col("test")).with_columns(split=pl.lit("test"), end=end)
    of_validation = active.filter(pl.col("place") == pl.col("validation")).with_columns(
        split=pl.lit("validation"), end=pl.col("test week").fill_null(last + 1)
    )
    held = pl.min_horizontal("test", "validation").fill_null(pl.col("steps"))
    of_train = active.filter(
        pl.col("place") > 0,
        pl.col("place") < held,
        pl.col("place") >= held - protocol.user_origins,
    ).with_columns(
        split=pl.lit("train"),
        end=pl.min_horizontal(pl.col("week") + protocol.window, "test week", "validation week"),
    )
    columns = ("user", "split", pl.col("week").cast(pl.Int32).alias("origin"), pl.col("end").cast(pl.Int32))
    found = [part.select(*columns, "place") for part in (of_train, of_validation, of_test)]
    return pl.concat(found).sort("user", "split", "origin").collect()


def ends(steps: pl.DataFrame, protocol: Protocol, last: int) -> pl.DataFrame:
    """``user`` and ``until``: the step from which on nothing may be learned of a user, where there is one."""
    held = of(steps, protocol, last).filter(pl.col("split") != "train")
    if protocol.split != "given":  # a user with too little before it has no test either
        held = held.filter(pl.col("place") >= protocol.min_active_weeks)
    return held.group_by("user").agg(until=pl.col("origin").min())


def slices(
    triples: pl.DataFrame, origins: pl.DataFrame, size: int
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Purchases in slices of about ``size``, each of whole users, and the origins of these.

    Args:
        triples: ``user``, ``week``, ``tag``, sorted by user.
        origins: ``user`` and others.
    """
    users = triples["user"].to_numpy()
    row, user = 0, -1
    while True:
        end = min(row + size, len(users))
        end = int(np.searchsorted(users, users[end - 1], side="right")) if end else 0
        whole = end == len(users)
        upper = np.iinfo(np.int32).max if whole else int(users[end - 1])
        yield triples.slice(row, end - row), origins.filter(pl.col("user").is_between(user + 1, upper))
        if whole:
            return
        row, user = end, upper

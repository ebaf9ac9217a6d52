"""Episodes of next-purchase tag prediction: a user at an origin week, the history before, the tags after.

The protocol (origins, windows, eligibility, splits) is configuration; :func:`build` turns the purchases of
some users into a table with one row an episode. Only ``target`` looks at or past the row's origin week.
"""

import datetime as dt
import hashlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from . import calendar
from .settings import DataError, Protocol

SPLITS = ("train", "validation", "test")
NOW = "now"
"""Word in place of a split for users whose window lies ahead."""


def is_unseen(user: str, share: float) -> bool:
    """Whether a user is kept out of training: a hash of the id, so the same for every machine and file."""
    digest = hashlib.sha256(user.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


def check_origins(counts: Mapping[str, int], protocol: Protocol) -> None:
    """Check that every split has episodes.

    Args:
        counts: Split -> number of episodes.

    Raises:
        DataError: a split has none.
    """
    for split in SPLITS:
        if not counts[split]:
            raise DataError(
                f"the {split} split (origins {list(protocol.origins(split))}) has no episode: no user has "
                f"{protocol.min_active_weeks} active weeks before an origin, one within "
                f"{protocol.active_within} weeks, and a purchase in the window. Check the dates, or relax "
                "protocol.min_active_weeks and protocol.active_within"
            )


def build(
    triples: pl.DataFrame,
    users: pl.DataFrame,
    popularity: Mapping[int, npt.NDArray[np.float32]],
    protocol: Protocol,
    week_zero: dt.date,
) -> pl.DataFrame:
    """All episodes of all splits of some users.

    Training and validation episodes are of training users only; test episodes are of all users.

    Args:
        triples: ``user``, ``week``, ``tag`` (int32): who bought what when; sorted, without repetitions.
        users: ``user``, ``unseen``, ``profile`` of these users, in the order of their index.
        popularity: Origin week -> ``[tags]`` of all users (:meth:`recrl.envs.data.panel.Panel.popularity`).
        week_zero: The Monday on which week 0 begins.

    Returns:
        One row an episode: ``split``, ``origin`` (week), ``user`` (index), ``unseen``, ``profile``,
        ``segment`` (``cold`` or ``warm``), ``calendar``, ``target`` (tag ids bought in the window),
        ``lookback`` (tag ids of the last ``protocol.lookback`` weeks), ``history`` (all earlier tag ids, most
        weeks first, ties by popularity), ``history_weight`` (number of weeks, same order) and
        ``history_last`` (weeks since the last purchase, same order).
    """
    training = users.filter(~pl.col("unseen")).select("user").lazy()
    parts = [
        _at_origin(triples.lazy(), training, popularity[origin], protocol, split, origin, week_zero)
        for split in SPLITS
        for origin in protocol.origins(split)
    ]
    return pl.concat(parts).join(users, on="user", how="left", maintain_order="left")


def now(
    triples: pl.DataFrame,
    users: pl.DataFrame,
    popularity: npt.NDArray[np.float32],
    protocol: Protocol,
    origin: int,
    week_zero: dt.date,
) -> pl.DataFrame:
    """Episodes of some users at one origin whose window may lie ahead.

    Args:
        popularity: ``[tags]`` at that origin; other arguments as of :func:`build`.

    Returns:
        The columns of :func:`build` without ``target``; one row a user with enough history.
    """
    everybody = users.select("user").lazy()
    found = _at_origin(triples.lazy(), everybody, popularity, protocol, NOW, origin, week_zero)
    return found.join(users, on="user", how="left", maintain_order="left")


def _at_origin(
    triples: pl.LazyFrame,
    training: pl.LazyFrame,
    popularity: npt.NDArray[np.float32],
    protocol: Protocol,
    split: str,
    origin: int,
    week_zero: dt.date,
) -> pl.DataFrame:
    before = triples.filter(pl.col("week") < origin)
    eligible = (
        before.group_by("user")
        .agg(weeks=pl.col("week").n_unique(), last=pl.col("week").max())
        .filter(
            (pl.col("weeks") >= protocol.min_active_weeks)
            & (pl.col("last") >= origin - protocol.active_within)
        )
        .select(
            "user",
            segment=pl.when(pl.col("weeks") < protocol.cold_weeks)
            .then(pl.lit("cold"))
            .otherwise(pl.lit("warm")),
        )
    )
    target = (
        triples.filter((pl.col("week") >= origin) & (pl.col("week") < origin + protocol.window))
        .group_by("user")
        .agg(target=pl.col("tag").unique().sort())
    )
    lookback = (
        before.filter(pl.col("week") >= origin - protocol.lookback)
        .group_by("user")
        .agg(lookback=pl.col("tag").unique().sort())
    )
    popular = pl.DataFrame({"popularity": popularity}).with_row_index("tag").lazy()
    history = (
        before.group_by("user", "tag")
        .agg(weight=pl.len().cast(pl.Float32), last=(origin - pl.col("week").max()).cast(pl.Int32))
        .join(popular.with_columns(pl.col("tag").cast(pl.Int32)), on="tag")
        .sort(["user", "weight", "popularity", "tag"], descending=[False, True, True, False])
        .group_by("user", maintain_order=True)
        .agg(history=pl.col("tag"), history_weight=pl.col("weight"), history_last=pl.col("last"))
    )
    found = eligible if split == NOW else eligible.join(target, on="user")
    found = found.join(history, on="user").join(lookback, on="user", how="left")
    ahead = calendar.describe(week_zero + dt.timedelta(weeks=origin), protocol.window)
    if split in ("train", "validation"):
        found = found.join(training, on="user", how="semi")
    return (
        found.sort("user")
        .with_columns(
            pl.lit(split).alias("split"),
            pl.lit(origin, dtype=pl.Int32).alias("origin"),
            pl.lit(ahead).alias("calendar"),
            pl.col("lookback").fill_null([]),
        )
        .collect()
    )

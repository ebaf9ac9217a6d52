"""Episodes of next-purchase tag prediction: a user at an origin week, the history before, the tags after.

The protocol (origins, windows, eligibility, splits) is configuration; :func:`build` turns the purchases of
some users into a table with one row an episode. Nothing in a row but ``target`` looks at or past its origin
week.
"""

import datetime as dt
import hashlib
from collections.abc import Mapping
from typing import Annotated

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel

from ..settings import MANY, Between, Each
from . import calendar
from .logs import DataError

SPLITS = ("train", "validation", "test")
# Of weeks: two hundred years.
_LATEST = 10_000
_Weeks = Annotated[int, Between(1, 1000)]
_Origins = Annotated[tuple[Annotated[int, Between(0, _LATEST)], ...], Each()]


class Protocol(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Which weeks and users an episode may use."""

    window: _Weeks = 4
    """Length of the target window in weeks."""
    lookback: _Weeks = 20
    """A tag is novel when it was not bought in this many weeks before the origin."""
    min_active_weeks: _Weeks = 4
    """A user needs this many weeks with a purchase before the origin."""
    active_within: _Weeks = 8
    """... and one of them within this many weeks before the origin."""
    cold_weeks: _Weeks = 10
    """A user with fewer active weeks than this before the origin is in the segment ``cold``, others
    ``warm``."""
    min_tag_users: Annotated[int, Between(1, MANY)] = 20
    """A tag enters the vocabulary when this many training users bought it before ``statistics_end``."""
    unseen_share: Annotated[float, Between(0.001, 0.999)] = 0.2
    """Share of the users kept out of training and of every learned statistic."""
    train_origins: _Origins = ()
    """Origin weeks of training episodes; empty = 31 to 19 weeks before the last week."""
    validation_origins: _Origins = ()
    """Empty = 15 weeks before the last week."""
    test_origins: _Origins = ()
    """Empty = 11, 7 and 3 weeks before the last week."""
    statistics_end: Annotated[int, Between(0, _LATEST)] | None = None
    """Vocabulary and learned models see only weeks before it; by default the first validation origin."""

    def resolved(self, first_week: int, last_week: int) -> "Protocol":
        """The same protocol with every origin filled in for data that covers these weeks.

        Raises:
            DataError: the data are too short for the splits, or a training target reaches past
                ``statistics_end``.
        """
        earliest = first_week + self.min_active_weeks
        train = self.train_origins or tuple(range(max(earliest, last_week - 31), last_week - 18))
        validation = self.validation_origins or (last_week - 15,)
        test = self.test_origins or (last_week - 11, last_week - 7, last_week - 3)
        end = self.statistics_end if self.statistics_end is not None else min(validation)
        for name, origins in (("train", train), ("validation", validation), ("test", test)):
            if not origins or min(origins) < earliest or max(origins) + self.window - 1 > last_week:
                raise DataError(
                    f"the data cover weeks {first_week}..{last_week}, too short for protocol.{name}_origins="
                    f"{list(origins)}: an origin needs {self.min_active_weeks} weeks before it and "
                    f"a target window of {self.window}. Give more weeks of data, or set "
                    f"protocol.{name}_origins to weeks in {earliest}..{last_week - self.window + 1}"
                )
        if max(train) + self.window > end:
            raise DataError(
                f"protocol.train_origins={list(train)} with window={self.window} reach week "
                f"{max(train) + self.window - 1}, at or past protocol.statistics_end={end}: "
                "training would see the test period. Use earlier origins"
            )
        return self.model_copy(
            update={
                "train_origins": train,
                "validation_origins": validation,
                "test_origins": test,
                "statistics_end": end,
            }
        )

    def origins(self, split: str) -> tuple[int, ...]:
        return {
            "train": self.train_origins,
            "validation": self.validation_origins,
            "test": self.test_origins,
        }[split]


def is_unseen(user: str, share: float) -> bool:
    """Whether a user is kept out of training: a hash of the id, so the same for every machine and file."""
    digest = hashlib.sha256(user.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


def check_origins(counts: Mapping[str, int], protocol: Protocol) -> None:
    """Every split has episodes.

    Args:
        counts: Split -> number of episodes.

    Raises:
        DataError: one has none.
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
        popularity: Origin week -> ``[tags]``, see :meth:`recrl.envs.data.panel.Panel.popularity`; of all
            users.
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
    found = eligible.join(target, on="user").join(history, on="user").join(lookback, on="user", how="left")
    ahead = calendar.describe(week_zero + dt.timedelta(weeks=origin), protocol.window)
    if split != "test":
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

"""Made-up logs of any size, written week by week, so that memory does not grow with them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WEEKS, TAGS = 52, 400
EVENTS_OF_A_USER = 120  # on average, over the year
_FAVOURITES, _LOYALTY = 12, 0.8
_START = np.datetime64("2024-01-01")


def write(
    path: Path, events: int, seed: int = 0, *, tags: int = TAGS, on_week: Callable[[int], None] | None = None
) -> int:
    """Write a log in Parquet: ``user``, ``time``, ``tag``, in order of time.

    A user's activity is log-normal. Most purchases are among a user's own favourites, the others follow a
    popularity that falls with a tag's number.

    Args:
        events: Number of rows.
        on_week: Function that is told how many weeks are written.

    Returns:
        Number of users; some may have bought nothing.
    """
    draw = np.random.default_rng(seed)
    users = max(events // EVENTS_OF_A_USER, 20)
    activity = draw.lognormal(0.0, 0.6, users)
    until = np.cumsum(activity) / activity.sum()
    popular = np.cumsum(1 / (np.arange(tags) + 5.0))
    popular /= popular[-1]
    favourites = np.searchsorted(popular, draw.random((users, _FAVOURITES))).astype(np.int16)
    names = pa.array([f"tag {tag:04d}" for tag in range(tags)])
    shares = np.diff(np.linspace(0, events, WEEKS + 1).round().astype(int))
    schema = pa.schema({"user": pa.int64(), "time": pa.timestamp("s"), "tag": pa.string()})
    with pq.ParquetWriter(path, schema) as writer:
        for week, count in enumerate(shares):
            user = np.searchsorted(until, draw.random(count))
            tag = favourites[user, draw.integers(_FAVOURITES, size=count)].astype(np.int64)
            other = draw.random(count) > _LOYALTY
            tag[other] = np.searchsorted(popular, draw.random(int(other.sum())))
            second = np.sort(draw.integers(7 * 86_400, size=count)).astype("timedelta64[s]")
            when = (_START + np.timedelta64(7 * week, "D")).astype("datetime64[s]") + second
            writer.write_table(
                pa.table({"user": user, "time": when, "tag": names.take(pa.array(tag))}, schema=schema)
            )
            if on_week is not None:
                on_week(week + 1)
    return users

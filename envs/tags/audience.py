"""Users of the tag task as they are now: the history before a day, and no outcome."""

import datetime as dt
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ..audience import Audience, AudienceError
from ..data import episodes
from ..data.calendar import number_of, start_of
from ..data.panel import Panel
from ..data.parquet import quiet
from ..data.prepared import Data
from ..data.settings import Protocol
from ..prompts.files import READERS
from .prompts import COLUMNS as ALL_COLUMNS

COLUMNS = tuple(name for name in ALL_COLUMNS if name != "target")
"""Columns of rows without an outcome."""


def of(
    data: Data,
    prompted: Callable[[pl.DataFrame], list[dict[str, Any]]],
    at: dt.date | None,
    path: Path | None,
    columns: Sequence[str] = COLUMNS,
) -> Audience:
    """Users with enough history before a week.

    The origin is the beginning of the week of ``at``, or of the one behind the last week of the data: whole
    weeks before it are read, as in training. Weeks are days or months where the protocol says so.

    Args:
        prompted: Function that makes rows of episodes without a target.
        at: Day that answers are for.
        path: File with a column ``user``; all users by default.
        columns: What rewards may read of a row, besides ``user`` and ``unseen``.

    Raises:
        AudienceError: the day is before the data, or nobody has enough history.
    """
    panel, protocol = data.panel, data.protocol
    origin = _origin(panel, protocol, at)
    day = start_of(panel.week_zero, origin, protocol.step)
    numbers, unknown = _named(panel, path)
    purchases = pl.LazyFrame({"user": panel.user, "week": panel.week})
    able = np.isin(numbers, episodes.able(purchases, protocol, origin).collect()["user"].to_numpy())
    few = (
        f"fewer than {protocol.min_active_weeks} {protocol.step}s with a purchase before {day}, or "
        f"none in the {protocol.active_within} {protocol.step}s before it"
    )
    left_out = {
        few: [panel.users[i] for i in numbers[~able]],
        "not in the data": unknown,
    }
    chosen = numbers[able]
    if not len(chosen):
        told = "; ".join(f"{len(names):,} {reason}" for reason, names in left_out.items() if names)
        raise AudienceError(f"nobody can be answered for {day}: {told}; choose another --at")
    popularity = panel.popularity(origin)
    starts, ends = (np.searchsorted(panel.user, chosen, side) for side in ("left", "right"))

    def rows(asked: Sequence[int]) -> list[dict[str, Any]]:
        places = np.concatenate([np.arange(starts[i], ends[i]) for i in asked])
        users = chosen[list(asked)]
        triples = pl.DataFrame(
            {"user": panel.user[places], "week": panel.week[places], "tag": panel.tag[places]}
        )
        about = pl.DataFrame(
            {
                "user": users.astype(np.int32),
                "unseen": panel.unseen[users],
                "profile": data.profiles.gather(users),
            }
        )
        found = episodes.now(triples, about, popularity, protocol, origin, panel.week_zero)
        # As they were asked for, not as users are numbered.
        return prompted(about.select("user").join(found, on="user", maintain_order="left"))

    return Audience(
        names=[panel.users[i] for i in chosen],
        rows=rows,
        columns=tuple(dict.fromkeys((*columns, "user", "unseen"))),
        origin=day,
        left_out={reason: names for reason, names in left_out.items() if names},
    )


def _origin(panel: Panel, protocol: Protocol, at: dt.date | None) -> int:
    first, last = int(panel.week.min()), int(panel.week.max())
    if at is None:
        return last + 1
    step = protocol.step
    origin = number_of(dt.datetime.combine(at, dt.time()), panel.week_zero, step)
    earliest = first + protocol.min_active_weeks
    if origin < earliest:
        begun, possible = (start_of(panel.week_zero, number, step) for number in (first, earliest))
        raise AudienceError(
            f"--at {at}: the data begin on {begun}, and a user needs {protocol.min_active_weeks} {step}s "
            f"before that day; give a day from {possible} on"
        )
    return origin


def _named(panel: Panel, path: Path | None) -> tuple[npt.NDArray[np.intp], list[str]]:
    """Numbers of the users who are asked for, and names that the data do not know."""
    if path is None:
        return np.arange(len(panel.users)), []
    places = {name: number for number, name in enumerate(panel.users)}
    names = _names(path)
    numbers = np.array([places[name] for name in names if name in places], dtype=np.intp)
    return numbers, [name for name in names if name not in places]


def _names(path: Path) -> list[str]:
    """Users in the column ``user`` of a file, each once, in its order.

    Raises:
        AudienceError: the file cannot be read, has no such column, or names nobody.
    """
    if not path.is_file():
        raise AudienceError(f"--users {path}: no such file (from {Path.cwd()})")
    if path.suffix not in READERS:
        raise AudienceError(
            f"--users {path}: cannot read {path.suffix!r} files; use one of {', '.join(READERS)}"
        )
    try:
        # A name such as 007 is no number.
        with quiet():
            csv = path.suffix == ".csv"
            table = pl.read_csv(path, infer_schema=False) if csv else READERS[path.suffix](path)
        if "user" not in table.columns:
            raise AudienceError(
                f"--users {path} has no column 'user'; it has: {', '.join(table.columns)[:300]}"
            )
        names = table["user"].drop_nulls().cast(pl.String).unique(maintain_order=True).to_list()
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise AudienceError(f"--users {path} cannot be read: {' '.join(str(error).split())[:300]}") from error
    if not names:
        raise AudienceError(f"--users {path} names no user")
    return names

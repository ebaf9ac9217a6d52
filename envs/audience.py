"""Those who are answered now: users as a finished run meets them, without an outcome.

``Audience``    the users, and their rows when they are asked for
``user_names``  users that a file names
"""

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from .faults import MendableError

READERS: Mapping[str, Callable[[Path], pl.DataFrame]] = {
    ".parquet": pl.read_parquet,
    ".jsonl": lambda path: pl.read_ndjson(path, infer_schema_length=None),
    ".ndjson": lambda path: pl.read_ndjson(path, infer_schema_length=None),
    ".csv": lambda path: pl.read_csv(path, infer_schema_length=None),
}


class AudienceError(MendableError, ValueError):
    """Nobody, or not these users, can be answered now; the message names the option and the fix."""


@dataclass(frozen=True)
class Audience:
    """Users who are answered now.

    Attributes:
        names: Name of each user.
        rows: Function that makes the rows of some users, by their numbers; a row has ``prompt``, ``user``,
            ``unseen`` and ``columns``.
        columns: What rewards may read of a row.
        origin: First day that answers are for; None for a task without a calendar.
        left_out: Reason -> users who are not answered for it.
    """

    names: Sequence[str]
    rows: Callable[[Sequence[int]], list[dict[str, Any]]]
    columns: Collection[str]
    origin: dt.date | None = None
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)


def user_names(path: Path) -> list[str]:
    """Users in the column ``user`` of a file, each once, in its order.

    Raises:
        AudienceError: the file cannot be read, has no such column, or names nobody.
    """
    if not path.is_file():
        raise AudienceError(f"--users {path}: no such file (from {Path.cwd()})")
    if path.suffix not in READERS:
        raise AudienceError(
            f"--users {path}: cannot read {path.suffix!r} files; use one of {sorted(READERS)}"
        )
    try:
        table = READERS[path.suffix](path)
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

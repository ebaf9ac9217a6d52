"""A user's own logs, Parquet or JSON lines, as an event table.

Schema (column names can be mapped):

========= ================================= =======================================================
column    type                              meaning
========= ================================= =======================================================
user      string or integer                 who
time      datetime, date or ISO 8601 string when
tag       string                            what: the category, genre or tag of the item
profile   string, optional                  one line about the user; the last one in time counts
========= ================================= =======================================================

The file is read as a stream, whatever its size.
"""

import datetime as dt
import hashlib
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
from pydantic import BaseModel, model_validator

from ..settings import Text
from .events import Events

SUFFIXES = {".parquet": "Parquet", ".jsonl": "JSON lines", ".ndjson": "JSON lines"}


_Column = Annotated[str, Text()]


class LogColumns(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Names of the columns in the file."""

    user: _Column = "user"
    """Who: string or integer."""
    time: _Column = "time"
    """When: datetime, date or ISO 8601 string."""
    tag: _Column = "tag"
    """What: category, genre or tag of the item."""
    profile: _Column | None = None
    """One line about the user; none by default."""

    @model_validator(mode="after")
    def _apart(self) -> "LogColumns":
        named: dict[str, str] = {}
        for field, column in self:
            if column is not None and column in named:
                raise ValueError(f"{named[column]} and {field} are both {column!r}; give each its own column")
            named[column] = field
        return self


class DataError(ValueError):
    """The data cannot be used as it is; the message names the column, the row and the fix."""


def fingerprint(path: Path) -> str:
    """Content hash of the file."""
    digest = hashlib.sha256()
    with _existing(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return f"logs sha256 {digest.hexdigest()[:24]}"


def load(
    path: Path, columns: LogColumns | None = None, bad_rows: Literal["error", "drop"] = "error"
) -> Events:
    """Read a log as weekly purchases.

    Args:
        path: A ``.parquet``, ``.jsonl`` or ``.ndjson`` file.
        columns: Names of the columns.
        bad_rows: What to do with a row whose user, time or tag is missing or unreadable: stop at the first
            one and name it, or drop and count all of them.

    Raises:
        DataError: no such file, an unknown suffix, a missing column, a bad row, or no usable row.
    """
    columns = columns or LogColumns()
    lazy = _scan(path)
    schema = lazy.collect_schema()
    wanted = {"user": columns.user, "time": columns.time, "tag": columns.tag}
    if columns.profile is not None:
        wanted["profile"] = columns.profile
    for role, name in wanted.items():
        if name not in schema:
            raise DataError(
                f"{path} has no column {name!r} (data.columns.{role}); it has {sorted(schema.names())}. "
                f"Name the right one with data.columns.{role}=..."
            )
    rows = lazy.select(**{role: pl.col(name) for role, name in wanted.items()}).with_row_index("row")
    rows = rows.with_columns(
        user=_text("user"),
        tag=_text("tag"),
        raw_time=pl.col("time").cast(pl.String),
        time=_as_datetime(schema[columns.time], path, columns.time),
    )
    bad = pl.any_horizontal(pl.col(role).is_null() for role in ("user", "time", "tag"))
    if bad_rows == "error":
        first = rows.filter(bad).head(1).collect(engine="streaming")
        if first.height:
            row = first.row(0, named=True)
            role = next(role for role in ("user", "time", "tag") if row[role] is None)
            shown = row["raw_time"] if role == "time" else row[role]
            raise DataError(
                f"{path}, row {row['row'] + 1}: column {wanted[role]!r} holds {shown!r}, which is no {role}. "
                "Mend the file, or set data.bad_rows=drop to leave such rows out and count them"
            )
    good = rows.filter(~bad)
    totals = rows.select(
        read=pl.len(),
        bad=bad.sum(),
        first=pl.col("time").filter(~bad).min(),
        last=pl.col("time").filter(~bad).max(),
    ).collect(engine="streaming")
    read, n_bad, first_time, last_time = totals.row(0)
    if first_time is None:
        raise DataError(
            f"{path} holds no usable row ({read} read, {n_bad} bad); a log needs user, time and tag"
        )
    week_zero = (first_time - dt.timedelta(days=first_time.weekday())).date() - dt.timedelta(weeks=1)
    week = ((pl.col("time").dt.date() - pl.lit(week_zero)).dt.total_days() // 7).cast(pl.Int32).alias("week")
    # A week counts as complete when the log goes on past its Sunday.
    last_week = ((last_time.date() + dt.timedelta(days=1)) - week_zero).days // 7 - 1
    return Events(
        purchases=good.select("user", week, "tag").filter(pl.col("week") <= last_week),
        week_zero=week_zero,
        first_week=1,
        last_week=last_week,
        profiles=_profiles(good) if columns.profile is not None else {},
        report={
            "rows read": read,
            "rows with a missing or unreadable user, time or tag (dropped)": n_bad,
        },
    )


def _existing(path: Path) -> Path:
    if path.suffix not in SUFFIXES:
        raise DataError(
            f"data.source={path}: cannot read {path.suffix!r} files; use one of {sorted(SUFFIXES)}"
        )
    if not path.is_file():
        raise DataError(f"data.source={path}: no such file")
    return path


def _scan(path: Path) -> pl.LazyFrame:
    reader = pl.scan_parquet if _existing(path).suffix == ".parquet" else pl.scan_ndjson
    try:
        lazy = reader(path)
        lazy.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} is no readable {SUFFIXES[path.suffix]} file: {error}") from error
    return lazy


def _text(name: str) -> pl.Expr:
    """A column as text; null where it is empty."""
    text = pl.col(name).cast(pl.String).str.strip_chars()
    return pl.when(text != "").then(text)  # `replace` would read the whole file


def _as_datetime(dtype: pl.DataType, path: Path, name: str) -> pl.Expr:
    column = pl.col("time")
    if dtype == pl.String:
        # Several ISO 8601 spellings may share a column; each row takes the first that reads it.
        return pl.coalesce(
            column.str.to_datetime(pattern, strict=False, time_unit="us")
            for pattern in (
                "%Y-%m-%dT%H:%M:%S%.f",
                "%Y-%m-%d %H:%M:%S%.f",
                "%Y-%m-%dT%H:%M:%S%.fZ",
                "%Y-%m-%d",
            )
        )
    if dtype == pl.Date:
        return column.cast(pl.Datetime("us"))
    if isinstance(dtype, pl.Datetime):
        return (
            column.cast(pl.Datetime("us")) if dtype.time_zone is None else column.dt.replace_time_zone(None)
        )
    raise DataError(
        f"{path}: column {name!r} (data.columns.time) is {dtype}; "
        "it must be a datetime, a date or ISO 8601 text"
    )


def _profiles(rows: pl.LazyFrame) -> dict[str, str]:
    last = (
        rows.filter(pl.col("profile").is_not_null())
        .group_by("user")
        .agg(pl.col("profile").cast(pl.String).sort_by("time").last())
        .collect(engine="streaming")
    )
    return dict(last.iter_rows())

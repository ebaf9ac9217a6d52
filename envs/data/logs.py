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
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import polars as pl
import pyarrow.parquet as pq

from . import lines
from .events import Events
from .settings import DataError, LogColumns

SUFFIXES = {".parquet": "Parquet", ".jsonl": "JSON lines", ".ndjson": "JSON lines"}

# A user or a tag is longer than so many bytes, or a time lies outside of these years, by mistake.
_LONGEST = 1000
_FIRST, _END = dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1)

# A character that shows, and that a prompt may hold.
_SEEN = r"[^\p{Cc}\p{Cf}\p{Z}\s<>:]"

# The last one is what Polars raises where it has no error.
_UNREADABLE = (pl.exceptions.PolarsError, OSError, pl.exceptions.PanicException)


def fingerprint(path: Path) -> str:
    """Content hash of the file.

    Raises:
        DataError: the path is no file of a known kind, or cannot be opened.
    """
    digest = hashlib.sha256()
    try:
        with _existing(path).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"data.source={path} cannot be read: {error.strerror}") from error
    return f"logs sha256 {digest.hexdigest()[:24]}"


def load(
    path: Path,
    columns: LogColumns | None = None,
    bad_rows: Literal["error", "drop"] = "error",
    *,
    max_users: int = 20_000_000,
    max_tags: int = 200_000,
) -> Events:
    """Read a log as weekly purchases.

    Args:
        path: A ``.parquet``, ``.jsonl`` or ``.ndjson`` file.
        columns: Names of the columns.
        bad_rows: What to do with a row whose user, time or tag is missing or unreadable: stop at the first
            one and name it, or drop and count all of them.
        max_users, max_tags: Largest numbers of different users and tags; they are held in memory.

    Raises:
        DataError: no such file, an unknown suffix, a missing column, a bad row, no usable row, or too many
            users or tags.
    """
    columns = columns or LogColumns()
    wanted = {"user": columns.user, "time": columns.time, "tag": columns.tag}
    if columns.profile is not None:
        wanted["profile"] = columns.profile
    if _existing(path).suffix == ".parquet":
        return _Log(path, wanted, _parquet(path, wanted)).events(bad_rows, max_users, max_tags)
    try:
        names = lines.columns(path)
    except (lines.LineError, OSError) as error:
        raise DataError(f"{path} is no readable JSON lines file: {error}") from error
    _check_names(path, wanted, names)
    try:
        return _Log(path, wanted, lines.quick(path, [*wanted.values()])).events(bad_rows, max_users, max_tags)
    except _UnreadableError:
        patient = lines.patient(path, [*wanted.values()])
        return _Log(path, wanted, patient).events(bad_rows, max_users, max_tags)


class _UnreadableError(DataError):
    """Polars stopped within the file."""


class _Log:
    """Rows of a log as they stand in the file, and as events.

    Args:
        wanted: Role -> name of the column.
        lazy: These columns, and perhaps ``fault``: what is wrong with a row as a whole.
    """

    def __init__(self, path: Path, wanted: Mapping[str, str], lazy: pl.LazyFrame) -> None:
        self._path, self._wanted = path, wanted
        schema = lazy.collect_schema()
        faults = pl.col("fault") if "fault" in schema and "fault" not in wanted.values() else pl.lit(None)
        texts = {role: _text(pl.col(name), schema[name]) for role, name in wanted.items() if role != "time"}
        when = _as_datetime(pl.col(wanted["time"]), schema[wanted["time"]], path, wanted["time"])
        raw = {f"raw {role}": pl.col(name) for role, name in wanted.items()}
        if schema[wanted["time"]].is_temporal():  # a bad row's time may be too far out to show
            seen = pl.when(raw["raw time"].is_not_null())
            raw["raw time"] = seen.then(pl.lit(f"a year outside of {_FIRST.year} to {_END.year - 1}"))
        self._rows = lazy.select(**texts, time=when, fault=faults.cast(pl.String), **raw).with_row_index(
            "row"
        )

    def events(self, bad_rows: str, max_users: int, max_tags: int) -> Events:
        bad = pl.any_horizontal(
            pl.col("fault").is_not_null(), *(pl.col(role).is_null() for role in ("user", "time", "tag"))
        )
        if bad_rows == "error":
            self._refuse_first(bad)
        good = self._rows.filter(~bad)
        totals = self._collect(
            self._rows.select(
                read=pl.len(),
                bad=bad.sum(),
                first=pl.col("time").filter(~bad).min(),
                last=pl.col("time").filter(~bad).max(),
                users=pl.col("user").filter(~bad).approx_n_unique(),
                tags=pl.col("tag").filter(~bad).approx_n_unique(),
            )
        )
        read, n_bad, first_time, last_time, users, tags = totals.row(0)
        if first_time is None:
            raise DataError(
                f"{self._path} holds no usable row ({read} read, {n_bad} bad); a log needs user, time and tag"
            )
        self._check_distinct(good, "user", users, max_users)
        self._check_distinct(good, "tag", tags, max_tags)
        monday = (first_time - dt.timedelta(days=first_time.weekday())).date()
        week_zero = monday - dt.timedelta(weeks=1)
        days = (pl.col("time").dt.date() - pl.lit(week_zero)).dt.total_days()
        # A week counts as complete when the log goes on past its Sunday.
        last_week = ((last_time.date() + dt.timedelta(days=1)) - week_zero).days // 7 - 1
        weekly = good.select("user", (days // 7).cast(pl.Int32).alias("week"), "tag")
        return Events(
            purchases=weekly.filter(pl.col("week") <= last_week),
            week_zero=week_zero,
            first_week=1,
            last_week=last_week,
            profiles=self._profiles(good) if "profile" in self._wanted else {},
            report={
                "rows read": read,
                "rows with a missing or unreadable user, time or tag (dropped)": n_bad,
            },
        )

    def _refuse_first(self, bad: pl.Expr) -> None:
        first = self._collect(self._rows.filter(bad).head(1))
        if not first.height:
            return
        row = first.row(0, named=True)
        what = row["fault"]
        if what is None:
            role = next(role for role in ("user", "time", "tag") if row[role] is None)
            shown = repr(row[f"raw {role}"])
            shown = shown if len(shown) <= 80 else f"{shown[:80]}..."
            what = f"column {self._wanted[role]!r} holds {shown}, which is no {role}"
        raise DataError(
            f"{self._path}, row {row['row'] + 1}: {what}. "
            "Mend the file, or set data.bad_rows=drop to leave such rows out and count them"
        )

    def _check_distinct(self, good: pl.LazyFrame, role: str, about: int, limit: int) -> None:
        """Refuse more than ``limit`` values; ``about``, estimated without a table, is up to a quarter off."""
        if about <= limit // 2:
            return
        number = about
        if about <= 2 * limit:
            number = self._collect(good.select(pl.col(role).n_unique())).item()
        if number > limit:
            raise DataError(
                f"{self._path}: column {self._wanted[role]!r} holds about {number:,} different {role}s, "
                f"more than data.max_{role}s={limit}: is it an id of each row? Name the right column with "
                f"data.columns.{role}=..., or raise data.max_{role}s; they are held in memory"
            )

    def _profiles(self, rows: pl.LazyFrame) -> dict[str, str]:
        last = self._collect(
            rows.filter(pl.col("profile").is_not_null())
            .group_by("user")
            .agg(pl.col("profile").sort_by("time").last())
        )
        return dict(last.iter_rows())

    def _collect(self, lazy: pl.LazyFrame) -> pl.DataFrame:
        try:
            return lazy.collect(engine="streaming")
        except _UNREADABLE as error:
            raise _UnreadableError(
                f"{self._path} {_place(self._path)}cannot be read: {_short(error)}"
            ) from error


def _existing(path: Path) -> Path:
    if path.suffix not in SUFFIXES:
        raise DataError(
            f"data.source={path}: cannot read {path.suffix!r} files; use one of {sorted(SUFFIXES)}"
        )
    if not path.exists():
        raise DataError(f"data.source={path}: no such file")
    if not path.is_file():  # a pipe or a device would never end
        raise DataError(f"data.source={path}: a folder or a device; give a regular file")
    return path


def _parquet(path: Path, wanted: Mapping[str, str]) -> pl.LazyFrame:
    try:
        lazy = pl.scan_parquet(path, glob=False)
        schema = lazy.collect_schema()
    except _UNREADABLE as error:
        raise DataError(f"{path} is no readable Parquet file: {_short(error)}") from error
    _check_names(path, wanted, schema.names())
    for role, name in wanted.items():
        if role != "time" and (schema[name].is_nested() or schema[name] == pl.Object):
            raise DataError(
                f"{path}: column {name!r} (data.columns.{role}) is {schema[name]}; it must be text or an "
                "integer: give each value a row of its own, or name another column"
            )
    return lazy


def _check_names(path: Path, wanted: Mapping[str, str], names: list[str]) -> None:
    for role, name in wanted.items():
        if name not in names:
            raise DataError(
                f"{path} has no column {name!r} (data.columns.{role}); it has {sorted(names)[:50]}. "
                f"Name the right one with data.columns.{role}=..."
            )


def _place(path: Path) -> str:
    """Rows that cannot be read, as far as the file tells."""
    if path.suffix != ".parquet":
        return ""
    first = 0
    try:
        kept = pq.read_metadata(path)
        for group in range(kept.num_row_groups):
            rows = kept.row_group(group).num_rows
            try:
                pl.scan_parquet(path, glob=False).slice(first, rows).collect(engine="streaming")
            except _UNREADABLE:
                return f"(rows {first + 1} to {first + rows}) "
            first += rows
    except (OSError, ValueError):
        pass  # the reason that is known already must do
    return ""


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _text(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A column as text; null where it says nothing, or holds no single value."""
    if dtype.is_float():
        column = pl.when(column.is_finite()).then(column)
    text = column.cast(pl.String).str.strip_chars()
    usable = text.str.contains(_SEEN) & (text.str.len_bytes() <= _LONGEST) & ~text.str.contains(lines.NESTED)
    return pl.when(usable).then(text)


def _as_datetime(column: pl.Expr, dtype: pl.DataType, path: Path, name: str) -> pl.Expr:
    if dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        text = column.cast(pl.String)
        # Several ISO 8601 spellings may share a column; each row takes the first that reads it.
        read = pl.coalesce(
            text.str.to_datetime(pattern, strict=False, time_unit="us")
            for pattern in (
                "%Y-%m-%dT%H:%M:%S%.f",
                "%Y-%m-%d %H:%M:%S%.f",
                "%Y-%m-%dT%H:%M:%S%.fZ",
                "%Y-%m-%d",
            )
        )
        return pl.when(read.is_between(_FIRST, _END, closed="left")).then(read)
    if not isinstance(dtype, pl.Date | pl.Datetime):
        raise DataError(
            f"{path}: column {name!r} (data.columns.time) is {dtype}; "
            "it must be a datetime, a date or ISO 8601 text"
        )
    # Compared as numbers: Polars ends the process at a time that its calendar does not reach.
    per_second = {"ms": 10**3, "us": 10**6, "ns": 10**9}
    epoch = dt.datetime(1970, 1, 1)
    seconds = [int((bound - epoch).total_seconds()) for bound in (_FIRST, _END)]
    if isinstance(dtype, pl.Datetime):
        first, end = (bound * per_second[dtype.time_unit] for bound in seconds)
    else:
        first, end = (bound // 86_400 for bound in seconds)
    usable: pl.Expr = pl.when(column.to_physical().is_between(first, end, closed="left")).then(column)
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        usable = usable.dt.replace_time_zone(None)
    return usable.cast(pl.Datetime("us"))

"""A user's own logs as an event table.

Schema (column names can be mapped):

========= ================================= =======================================================
column    type                              meaning
========= ================================= =======================================================
user      text or whole number              who
time      datetime, date, ISO 8601 text,    when
          seconds since 1970, ...
tag       text, or a list of texts          what: the category, genre or tag of the item
profile   any, optional, several            about the user; the last one in time counts
========= ================================= =======================================================

Files are Parquet, JSON lines, CSV, TSV or RecBole's ``.inter``, see :mod:`recrl.envs.data.files`; they are
read as a stream, whatever their size.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import polars as pl

from . import columns, files, parquet, tables
from .calendar import number_of, numbers_of, step_zero
from .columns import Reading
from .events import Events
from .given import of_file, of_words
from .lines import FIRST
from .patient import FAULT
from .settings import DataError, LogColumns, Step
from .tables import Table

_ROLES = ("user", "time", "tag")


def load(
    source: str | Path,
    columns: LogColumns | None = None,
    bad_rows: Literal["error", "drop"] = "error",
    *,
    max_users: int = 20_000_000,
    max_tags: int = 200_000,
    step: Step = "week",
    whole: bool = True,
    given: bool = False,
) -> Events:
    """Read a log as purchases by week.

    Args:
        source: A file, a folder, or a pattern.
        columns: Names of the columns.
        bad_rows: What to do with a row whose user, time or tag is missing or unreadable: stop at the first
            one and name it, or drop and count all of them.
        max_users, max_tags: Largest numbers of different users and tags; they are held in memory.
        step: Unit of time in place of the week.
        whole: Leave out the last week or month if the log ends within it.
        given: Read the split of each row too: purchases get the column ``part``, see
            :mod:`recrl.envs.data.given`.

    Raises:
        DataError: no such file, an unknown suffix, a missing column, a bad row, no usable row, or too many
            users or tags.
    """
    columns = columns or LogColumns()
    paths = files.resolve(source)

    def read(patient: bool) -> Events:
        log = _Log(str(source), paths, columns, patient, given)
        return log.events(bad_rows, max_users, max_tags, step, whole)

    try:
        return read(patient=False)
    except _UnreadableError:
        if files.format_of(paths[0]) == "Parquet":
            raise
        return read(patient=True)


def float_ids(source: str | Path, columns: LogColumns) -> bool:
    """Whether users or tags are floats in a Parquet file of a source."""
    paths = [path for path in files.resolve(source) if files.format_of(path) == "Parquet"]
    kinds = (dict(tables.table(path).columns) for path in paths)
    named = (columns.user, columns.tag)
    return any(kind[name].is_float() for kind in kinds for name in named if name in kind)


class _UnreadableError(DataError):
    """Polars stopped within a file."""


class _Part:
    """Consecutive files of a log that are read alike.

    Args:
        names: Role -> name of the column; profiles have the roles ``profile 0``, ``profile 1``, ...
        split: Split of all rows, if the files' names tell it.
    """

    def __init__(
        self,
        paths: list[Path],
        table: Table,
        names: Mapping[str, str],
        separator: str | None,
        patient: bool,
        split: int | None = None,
    ) -> None:
        self.paths, self.names, self._split = paths, names, split
        self._table, self._patient = table, patient
        first = _collected(self._scan(paths[:1]).head(FIRST), [self])
        self.empty = not first.height
        self.readings: dict[str, Reading] = {}
        for role, name in names.items():
            sequence = table.layout is not None and name in table.layout.lists
            try:
                self.readings[role] = _reading(role, first[name], separator or (" " if sequence else None))
            except ValueError as error:
                setting = role.split()[0]
                raise DataError(f"{paths[0]}: column {name!r} (data.columns.{setting}) {error}") from error

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for parts that are read alike."""
        words = [(role, self.names[role], reading.words) for role, reading in self.readings.items()]
        return self._table, words, self._split, self.empty

    def _scan(self, paths: list[Path]) -> pl.LazyFrame:
        names = [*dict.fromkeys(self.names.values())]
        return self._table.scan(paths, names, patient=self._patient)

    def rows(self, paths: list[Path] | None = None) -> pl.LazyFrame:
        """Rows as events have them, and as they stand in the file: columns ``raw``, ``row`` and ``fault``."""
        lazy = self._scan(paths or self.paths)
        schema = lazy.collect_schema()
        faults = pl.col(FAULT) if FAULT in schema else pl.lit(None)
        read = {role: self.readings[role].read(pl.col(name)) for role, name in self.names.items()}
        if self._split is not None:
            read["split"] = pl.lit(self._split, dtype=pl.Int8)
        needed = [role for role in (*_ROLES, "split") if role in self.names]
        raw = {f"raw {role}": pl.col(self.names[role]) for role in needed}
        if schema[self.names["time"]].is_temporal():  # a bad row's time may be too far out to show
            seen = pl.when(raw["raw time"].is_not_null())
            raw["raw time"] = seen.then(
                pl.lit(f"a year outside of {columns.FIRST.year} to {columns.END.year - 1}")
            )
        return lazy.select(**read, fault=faults.cast(pl.String), **raw).with_row_index("row")

    def said(self, role: str) -> str:
        """Column of a role in words."""
        return f"column {self.names[role]!r}: {self.readings[role].words}"

    def damage(self) -> str | None:
        """File and rows that cannot be read, as far as the files tell."""
        if files.format_of(self.paths[0]) == "Parquet":
            for path in self.paths:
                if place := parquet.place(path, [*dict.fromkeys(self.names.values())]):
                    return f"{path} ({place})"
        return None


def _reading(role: str, values: pl.Series, separator: str | None) -> Reading:
    if role == "tag":
        return columns.of_tags(values, separator)
    if role == "split":
        return Reading("words for splits", of_words)
    return {"user": columns.of_ids, "time": columns.of_times}.get(role, columns.of_profiles)(values)


class _Log:
    """Rows of a log's files as events."""

    def __init__(self, source: str, paths: list[Path], named: LogColumns, patient: bool, given: bool) -> None:
        self._source, self._paths = source, paths
        self._parts = _parts(paths, named, patient, given)
        self._profiled, self._given = named.profiles, given
        self._needed = (*_ROLES, *(["split"] if given else []))
        self._lists = any(part.readings["tag"].lists for part in self._parts)
        roles = [*self._needed, *(role for role in self._parts[0].names if role not in self._needed)]
        self._rows = pl.concat([self._typed(part.rows()).select(*roles, "fault") for part in self._parts])

    def _typed(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Tags of all parts as lists if those of one are."""
        single = self._lists and rows.collect_schema()["tag"] == pl.String
        listed = pl.when(pl.col("tag").is_not_null()).then(pl.concat_list("tag"))
        return rows.with_columns(tag=listed) if single else rows

    def events(self, bad_rows: str, max_users: int, max_tags: int, step: Step, whole: bool) -> Events:
        bad = pl.any_horizontal(
            pl.col("fault").is_not_null(), *(pl.col(role).is_null() for role in self._needed)
        )
        if bad_rows == "error":
            self._refuse_first(bad)
        good, tag = self._rows.filter(~bad), pl.col("tag").filter(~bad)
        totals = self._collect(
            self._rows.select(
                read=pl.len(),
                bad=bad.sum(),
                first=pl.col("time").filter(~bad).min(),
                last=pl.col("time").filter(~bad).max(),
                users=pl.col("user").filter(~bad).approx_n_unique(),
                tags=(tag.explode() if self._lists else tag).approx_n_unique(),
            )
        )
        read, n_bad, first_time, last_time, users, tags = totals.row(0)
        if first_time is None:
            raise DataError(
                f"{self._source} holds no usable row ({read} read, {n_bad} bad); "
                "a log needs user, time and tag"
            )
        good = good.explode("tag") if self._lists else good
        self._check_distinct(good, "user", users, max_users)
        self._check_distinct(good, "tag", tags, max_tags)
        zero = step_zero(first_time.date(), step)
        # A week counts as complete when the log goes on past its Sunday.
        after = last_time + dt.timedelta(days=1)
        last = number_of(last_time, zero, step)
        if whole and step in ("week", "month"):
            last = number_of(after, zero, step) - 1
        week = numbers_of(pl.col("time"), zero, step).alias("week")
        numbered = good.select("user", week, "tag", *([pl.col("split").alias("part")] if self._given else []))
        return Events(
            purchases=numbered.filter(pl.col("week") <= last),
            week_zero=zero,
            first_week=number_of(first_time, zero, step),
            last_week=last,
            step=step,
            profiles=self._profiles(good),
            report={
                "rows read": read,
                "rows with a missing or unreadable user, time or tag (dropped)": n_bad,
            },
            reading=self._reading(first_time, last_time),
        )

    def _reading(self, first: dt.datetime, last: dt.datetime) -> dict[str, str]:
        """How the files were read, in words."""
        part = self._parts[0]
        found = {"files": files.said(self._source, self._paths)}
        found |= {role: part.said(role) for role in self._needed if role in part.names}
        if self._given and "split" not in part.names:
            found["split"] = "names of the files"
        if self._profiled:
            found["profile"] = "; ".join(part.said(role) for role in part.names if role not in self._needed)
        found["time"] += f", {first.date()} to {last.date()}"
        differences = [
            f"{other.paths[0].name}: {other.said(role)}, but {part.paths[0].name}: {part.said(role)}"
            for other in self._parts[1:]
            for role in part.names
            if other.said(role) != part.said(role)
        ]
        if differences:
            found["differences"] = "; ".join(differences[:20])
        return found

    def _refuse_first(self, bad: pl.Expr) -> None:
        """Name the first bad row, and the file that it stands in."""
        if not self._collect(self._rows.filter(bad).head(1)).height:
            return
        for part in self._parts:
            for path in part.paths:
                first = self._collect(part.rows([path]).filter(bad).head(1))
                if first.height:
                    raise DataError(_refusal(path, part, first.row(0, named=True)))

    def _check_distinct(self, good: pl.LazyFrame, role: str, about: int, limit: int) -> None:
        """Refuse more than ``limit`` values; ``about``, estimated without a table, is up to a quarter off."""
        if about <= limit // 2:
            return
        number = about
        if about <= 2 * limit:
            number = self._collect(good.select(pl.col(role).n_unique())).item()
        if number > limit:
            raise DataError(
                f"{self._source}: column {self._parts[0].names[role]!r} holds about {number:,} different "
                f"{role}s, more than data.max_{role}s={limit}: is it an id of each row? Name the right "
                f"column with data.columns.{role}=..., or raise data.max_{role}s; they are held in memory"
            )

    def _profiles(self, rows: pl.LazyFrame) -> dict[str, str]:
        """User -> the last profile of each column, on one line."""
        if not self._profiled:
            return {}
        said = {f"profile {i}": name for i, name in enumerate(self._profiled)}
        last = self._collect(
            rows.filter(pl.any_horizontal(pl.col(role).is_not_null() for role in said))
            .group_by("user")
            .agg(pl.col(role).sort_by("time").drop_nulls().last() for role in said)
        )
        if len(said) == 1:
            return dict(last.iter_rows())
        heads = {role: name.replace("_", " ") for role, name in said.items()}
        return {
            row["user"]: ", ".join(f"{head} {row[role]}" for role, head in heads.items() if row[role])
            for row in last.iter_rows(named=True)
        }

    def _collect(self, lazy: pl.LazyFrame) -> pl.DataFrame:
        return _collected(lazy, self._parts)


def _parts(paths: Iterable[Path], given: LogColumns, patient: bool, split: bool) -> list[_Part]:
    wanted = {role: getattr(given, role) for role in _ROLES}
    if split and given.split is not None:
        wanted["split"] = given.split
    profiles = {f"profile {i}": name for i, name in enumerate(given.profiles)}

    def known(path: Path) -> tuple[Table, dict[str, str], int | None]:
        table = tables.table(path)
        names = {role: tables.name_of(role, name, path, table.names) for role, name in wanted.items()}
        names |= {role: tables.name_of("profile", name, path, table.names) for role, name in profiles.items()}
        if twice := next((name for name in names.values() if [*names.values()].count(name) > 1), None):
            roles = " and ".join(f"data.columns.{role.split()[0]}" for role in names if names[role] == twice)
            raise DataError(f"{path}: {roles} are both the column {twice!r}; give each a column of its own")
        if files.format_of(path) == "JSON lines":  # its other columns are not read
            table = Table(tuple(sorted((n, kind) for n, kind in table.columns if n in names.values())))
        of_file = of_file_name(path) if split and given.split is None else None
        return table, names, of_file

    found: list[_Part] = []
    for path in paths:
        table, names, of_rows = known(path)
        part = _Part([path], table, names, given.tag_separator, patient, of_rows)
        if found and found[-1].key == part.key:
            found[-1].paths.append(path)
        else:
            found.append(part)
    return [part for part in found if not part.empty] or found[:1]


def of_file_name(path: Path) -> int:
    """Split of a file.

    Raises:
        DataError: its name tells none.
    """
    if (found := of_file(path)) is None:
        raise DataError(
            f"{path}: data.protocol.split=given, but its name holds none of the words train, validation and "
            "test (or two of them); rename it, or name a column by data.columns.split=..."
        )
    return found


def _refusal(path: Path, part: _Part, row: Mapping[str, object]) -> str:
    what = row["fault"]
    if what is None:
        role = next(role for role in (*_ROLES, "split") if row[role] is None)
        held = row[f"raw {role}"]
        shown = repr(held) if len(repr(held)) <= 80 else f"{repr(held)[:80]}..."
        words = part.readings[role].words
        what = f"column {part.names[role]!r} holds {shown}, which is no {role}"
        if held is not None and role == "time" and not words.startswith("ISO 8601 text"):
            what += f" (the others are {words})"
        if isinstance(held, float) or (held is not None and words.startswith(("floats", "decimals"))):
            what += f" ({words} below 2**53 are read: others may stand for several {role}s)"
    return (
        f"{path}, row {int(str(row['row'])) + 1}: {what}. "
        "Mend the file, or set data.bad_rows=drop to leave such rows out and count them"
    )


def _collected(lazy: pl.LazyFrame, parts: Sequence[_Part]) -> pl.DataFrame:
    try:
        with parquet.quiet():
            return lazy.collect(engine="streaming")
    except tables.UNREADABLE as error:
        paths = [path for part in parts for path in part.paths]
        found = next(filter(None, (part.damage() for part in parts)), None)
        where = found or (
            f"{paths[0]}" if len(paths) == 1 else f"one of {len(paths)} files from {paths[0]} on"
        )
        raise _UnreadableError(f"{where} cannot be read: {tables.short(error)}") from error

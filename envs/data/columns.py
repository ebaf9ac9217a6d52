"""Columns of a log: what their first values are, and how the others are read.

``of_ids``       users: whole numbers, text, or floats that stand for one whole number each
``of_tags``      the same, or lists of them
``of_times``     dates, ISO 8601 text, or numbers since 1970, whose size tells the unit
``of_profiles``  text about a user

Each returns a :class:`Reading`; a value that cannot be read is null.
"""

import ast
import datetime as dt
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import polars as pl

from .lines import NESTED

# A user or a tag is longer than so many bytes, or a time lies outside of these years, by mistake.
LONGEST = 1000
FIRST, END = dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1)
# Times as numbers: earlier ones would be mistaken for another unit.
_FIRST_NUMBER = dt.datetime(1973, 3, 4)

# A character that shows, and that a prompt may hold.
_SEEN = r"[^\p{Cc}\p{Cf}\p{Z}\s<>:]"
# What programs write where a value is missing.
MISSING = ("nan", "NaN", "NaT", "<NA>", "None", "null", "NULL")

# Numbers from which on a float stands for several whole numbers.
_EXACT: dict[pl.DataType, int] = {pl.Float64(): 2**53, pl.Float32(): 2**24}
_FLOAT = r"^[+-]?\d+\.\d*([eE][+-]?\d+)?$"
_NUMBER = r"^[+-]?\d+(\.\d*)?([eE][+-]?\d+)?$"
_WHOLE = r"^[+-]?\d+\.0*$"

# Unit -> microseconds.
_UNITS = {"seconds": 1e6, "milliseconds": 1e3, "microseconds": 1.0, "nanoseconds": 1e-3}
_NO_TIME = (
    "it must be a datetime, a date or ISO 8601 text, or a number of seconds, milli-, micro- or nanoseconds "
    f"since 1970, from {_FIRST_NUMBER.year} on"
)

_ISO = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.fZ", "%Y-%m-%d")
_MORE_ISO = ("%Y-%m-%dT%H:%M:%S%.f%:z", "%Y-%m-%d %H:%M:%S%.f%:z", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M")


@dataclass(frozen=True)
class Reading:
    """How a column is read.

    Attributes:
        words: Its values in words.
        read: Column -> values as events have them.
        lists: Whether a value is a list.
    """

    words: str
    read: Callable[[pl.Expr], pl.Expr]
    lists: bool = False


def of_ids(first: pl.Series) -> Reading:
    """Reading of a column whose values name somebody or something.

    Args:
        first: First values of the column.

    Raises:
        ValueError: the column holds no single values.
    """
    kind = first.dtype
    _refuse_nested(kind)
    if kind.is_float():
        return Reading("floats that are whole numbers", lambda column: _usable(_whole(column, kind)))
    if kind.is_integer():
        return Reading("whole numbers", lambda column: _usable(column.cast(pl.String)))
    if kind.is_decimal():
        return Reading("decimals that are whole numbers", lambda c: _usable(_whole_text(c.cast(pl.String))))
    if kind != pl.String:
        return Reading(_name(kind), lambda column: _usable(column.cast(pl.String)))
    values = _said(first)
    if values.len() and values.str.contains(_FLOAT).sum() * 2 > values.len():
        return Reading("floats that are whole numbers", lambda c: _usable(_whole_text(c, exponents=False)))
    if values.len() and values.str.contains(r"^[+-]?\d+$").all():
        return Reading("whole numbers", lambda column: _usable(_whole_text(column)))
    return Reading("text", _usable)


def of_tags(first: pl.Series, separator: str | None = None) -> Reading:
    """Reading of a column of tags: one a row, or a list of them.

    Args:
        separator: Text between two tags of a value, if values hold several.

    Raises:
        ValueError: the column holds neither single values nor lists of them.
    """
    kind = first.dtype
    if isinstance(kind, pl.List | pl.Array):
        inner = of_ids(first.explode())
        return Reading(
            f"lists of {inner.words}",
            lambda column: _whole_list((column.arr.to_list() if kind == pl.Array else column), inner),
            lists=True,
        )
    if kind == pl.String and _said(first).str.contains(r"^\[.*\]$").any():
        return Reading("lists", lambda column: _read_lists(column, separator), lists=True)
    if kind == pl.String and separator is not None:
        return Reading(
            f"lists, separated by {separator!r}",
            lambda column: _whole_list(column.str.strip_chars().str.split(separator), _of_parts),
            lists=True,
        )
    found = of_ids(first)
    if kind == pl.String and (between := _separator(_said(first))) is not None:
        words = f"{found.words}, much of it with {between} (lists: data.columns.tag_separator={between!r})"
        return replace(found, words=words)
    return found


def _separator(values: pl.Series) -> str | None:
    """What a fifth or more of the values have in them and names of tags seldom have."""
    return next(
        (one for one in "|;" if values.str.contains(one, literal=True).sum() * 5 > values.len()), None
    )


def of_times(first: pl.Series) -> Reading:
    """Reading of a column of times, as naive datetimes of microseconds.

    Raises:
        ValueError: the column holds no times.
    """
    kind = first.dtype
    if isinstance(kind, pl.Date | pl.Datetime):
        return Reading("dates" if kind == pl.Date else "datetimes", lambda column: _dated(column, kind))
    if kind.is_numeric():
        unit = _unit(first.cast(pl.Float64)) if first.drop_nulls().len() else "seconds"
        if unit is None:
            some = first.drop_nulls()
            held = f", and holds {some[0]}" if some.len() else ""
            raise ValueError(f"is {kind}{held}; {_NO_TIME}")
        return Reading(f"{unit} since 1970", partial(_counted, unit=unit))
    if kind not in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        raise ValueError(f"is {kind}; {_NO_TIME}")
    text = _said(first.cast(pl.String))
    numbers = text.filter(text.str.contains(_NUMBER)).cast(pl.Float64, strict=False)
    unit = _unit(numbers)
    if unit is not None and numbers.len() * 2 > text.len():
        return Reading(f"{unit} since 1970", partial(_counted_text, unit=unit))
    plain = _parsed(text, _ISO)
    others = text.filter(plain.is_null())
    if _parsed(others, _MORE_ISO).is_null().all():
        return Reading("ISO 8601 text", lambda column: _iso(column.cast(pl.String), _ISO))
    spellings = (*_ISO, *_MORE_ISO)
    return Reading(
        "ISO 8601 text, in part with time zones or without seconds",
        lambda c: _iso(c.cast(pl.String), spellings),
    )


def of_profiles(first: pl.Series) -> Reading:
    """Reading of a column about users: any value as text.

    Raises:
        ValueError: the column holds no single values.
    """
    kind = first.dtype
    _refuse_nested(kind)
    if kind.is_float():  # 34.0 is what is left of a whole number where others are missing
        return Reading(
            "floats", lambda c: _usable(pl.coalesce(_whole(c, kind), pl.when(c.is_finite()).then(c)))
        )
    return Reading(_name(kind), lambda column: _usable(column.cast(pl.String)))


def _refuse_nested(kind: pl.DataType) -> None:
    if kind.is_nested() or kind == pl.Object:
        raise ValueError(
            f"is {kind}; it must be text or whole numbers: give each value a row of its own, or name "
            "another column"
        )


def _name(kind: pl.DataType) -> str:
    return "text" if kind in (pl.String, pl.Categorical, pl.Enum, pl.Null) else str(kind).lower()


def _said(first: pl.Series) -> pl.Series:
    """Values that say something, without blanks around them."""
    text = first.str.strip_chars()
    return text.filter((text != "") & ~text.is_in(MISSING))


def _usable(column: pl.Expr) -> pl.Expr:
    """Text; null where it says nothing, or is no single value."""
    text = column.str.strip_chars()
    usable = text.str.contains(_SEEN) & (text.str.len_bytes() <= LONGEST) & ~text.str.contains(NESTED)
    return pl.when(usable & ~text.is_in(MISSING)).then(text)


def _whole(column: pl.Expr, kind: pl.DataType) -> pl.Expr:
    """Floats that stand for one whole number each, as its text."""
    exact = column.is_finite() & (column.abs() < _EXACT.get(kind, 2**11)) & (column == column.floor())
    return pl.when(exact).then(column).cast(pl.Int64).cast(pl.String)


def _whole_text(column: pl.Expr, exponents: bool = True) -> pl.Expr:
    """Numbers as text, without ``.0`` behind; null for other fractions, and for what was a large float.

    Args:
        exponents: Whether a number with an exponent is text like any other.
    """
    text = column.str.strip_chars()
    whole = pl.when(text.str.contains(_WHOLE)).then(text).cast(pl.Float64, strict=False)
    fraction = text.str.contains(_FLOAT if exponents else rf"{_FLOAT}|^[+-]?\d+[eE]")
    return pl.when(fraction).then(_whole(whole, pl.Float64())).otherwise(text)


_of_parts = Reading("text", _usable)


def _whole_list(column: pl.Expr, inner: Reading) -> pl.Expr:
    """Lists whose every entry can be read; others, and empty ones, are null."""
    read = column.list.eval(inner.read(pl.element()))
    usable = (read.list.len() > 0) & (read.list.drop_nulls().list.len() == read.list.len())
    return pl.when(usable).then(read)


def _read_lists(column: pl.Expr, separator: str | None) -> pl.Expr:
    """Lists as JSON or Python writes them; other text is split, or a list of one."""

    def parse(values: pl.Series) -> pl.Series:
        return _parse_lists(values, separator)

    return _whole_list(
        column.map_batches(parse, return_dtype=pl.List(pl.String), is_elementwise=True), _of_parts
    )


def _parse_lists(column: pl.Series, separator: str | None) -> pl.Series:
    distinct = column.unique()
    parsed = pl.Series([_listed(text, separator) for text in distinct], dtype=pl.List(pl.String))
    known = pl.DataFrame({"text": distinct, "list": parsed})
    return pl.DataFrame({"text": column}).join(
        known, on="text", how="left", nulls_equal=True, maintain_order="left"
    )["list"]


def _listed(text: str | None, separator: str | None) -> Sequence[str | None] | None:
    """Entries of a list, or parts of another text."""
    if text is None:
        return None
    text = text.strip()
    for parse in (json.loads, ast.literal_eval) if text[:1] + text[-1:] == "[]" else ():
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return [_entry(value) for value in parse(text)]
    return [text] if separator is None else text.split(separator)


def _entry(value: Any) -> str | None:
    if isinstance(value, list | dict | tuple | set):
        return json.dumps(value, default=str)  # refused like any nested value
    return None if value is None else str(value)


def _unit(values: pl.Series) -> str | None:
    """Unit of times as numbers, by the middle one's size."""
    middle = values.filter(values.is_finite()).median()
    if not isinstance(middle, float):
        return None
    return next((unit for unit in _UNITS if _bounds(unit)[0] <= middle < _bounds(unit)[1]), None)


def _bounds(unit: str) -> tuple[float, float]:
    epoch = dt.datetime(1970, 1, 1)
    first, end = ((day - epoch).total_seconds() * 1e6 / _UNITS[unit] for day in (_FIRST_NUMBER, END))
    return first, end


def _counted_text(column: pl.Expr, unit: str) -> pl.Expr:
    return _counted(column.cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False), unit)


def _counted(column: pl.Expr, unit: str) -> pl.Expr:
    """Numbers since 1970 as times; null outside of the years that such numbers have."""
    first, end = _bounds(unit)
    number = column.cast(pl.Float64)
    usable = pl.when(number.is_between(first, end, closed="left")).then(number)
    return (usable * _UNITS[unit]).round().cast(pl.Int64).cast(pl.Datetime("us"))


def _iso(text: pl.Expr, patterns: tuple[str, ...]) -> pl.Expr:
    # Several ISO 8601 spellings may share a column; each row takes the first that reads it.
    read = pl.coalesce(
        parsed.dt.replace_time_zone(None) if "%:z" in pattern else parsed
        for pattern in patterns
        for parsed in [text.str.to_datetime(pattern, strict=False, time_unit="us")]
    )
    return pl.when(read.is_between(FIRST, END, closed="left")).then(read)


def _parsed(text: pl.Series, patterns: tuple[str, ...]) -> pl.Series:
    return text.to_frame("text").select(_iso(pl.col("text"), patterns)).to_series()


def _dated(column: pl.Expr, kind: pl.DataType) -> pl.Expr:
    # Compared as numbers: Polars ends the process at a time that its calendar does not reach.
    per_second = {"ms": 10**3, "us": 10**6, "ns": 10**9}
    epoch = dt.datetime(1970, 1, 1)
    seconds = [int((bound - epoch).total_seconds()) for bound in (FIRST, END)]
    if isinstance(kind, pl.Datetime):
        first, end = (bound * per_second[kind.time_unit] for bound in seconds)
    else:
        first, end = (bound // 86_400 for bound in seconds)
    usable: pl.Expr = pl.when(column.to_physical().is_between(first, end, closed="left")).then(column)
    if isinstance(kind, pl.Datetime) and kind.time_zone is not None:
        usable = usable.dt.replace_time_zone(None)
    return usable.cast(pl.Datetime("us"))

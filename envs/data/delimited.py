"""Tables as text, a row a line: CSV, TSV and the ``.inter`` files of RecBole.

``layout``   names of the columns and the separator, from the first line
``quick``    all rows by Polars, which stops at the first row that has more fields than the header
``patient``  the same rows by Python; a row that cannot be read has a fault

Values are text. In TSV and ``.inter`` files a quotation mark is a character like any other.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from . import files
from . import patient as patiently
from .lines import LineError, other_code

# Separators of a CSV file; the one that the header holds most of is taken.
_SEPARATORS = ",;\t|"
# Lines and bytes that a quoted field may run over before its mark counts as a stray one.
_MOST_LINES, _MOST_BYTES = 100, 1 << 20
# `user_id:token`, `genres:token_seq`: names and types as RecBole writes them.
_TYPED = re.compile(r"^(.+):(token|float)(_seq)?$")

RECBOLE_NAMES = {"user": "user_id", "time": "timestamp", "tag": "item_id"}
"""Role -> name of the column in RecBole's own files."""


@dataclass(frozen=True)
class Layout:
    """The first line of a file.

    Attributes:
        names: Names of the columns; of RecBole's without their types.
        separator: Character between two fields.
        quote: Character that encloses a field, where a field can be enclosed.
        lists: Columns that RecBole calls sequences: their values are separated by blanks.
    """

    names: tuple[str, ...]
    separator: str
    quote: str | None
    lists: frozenset[str] = frozenset()


def layout(path: Path) -> Layout:
    """Columns of a file.

    Raises:
        LineError: an empty file, no UTF-8, a name that stands twice, or a first line of values.
    """
    with files.opened(path) as stream:
        first = stream.readline(patiently.LONGEST)
    if code := other_code(first):
        raise LineError(f"it is {code} text; write it as UTF-8")
    try:
        line = first.decode("utf-8-sig").strip("\r\n")
    except UnicodeError as error:
        raise LineError("its first line is no UTF-8") from error
    if not line.strip():
        raise LineError("it is empty" if not first else "its first line is empty; it must name the columns")
    kind = files.format_of(path)
    separator = max(_SEPARATORS, key=line.count) if kind == "CSV" else "\t"
    quote = '"' if kind == "CSV" else None
    names = [name.strip() for name in _fields(line, separator, quote)]
    lists = set()
    if kind == "RecBole":
        typed = [(name, _TYPED.match(name)) for name in names]
        lists = {found[1] for _, found in typed if found and found[3]}
        names = [found[1] if found else name for name, found in typed]
    if twice := next((name for name, times in Counter(names).items() if times > 1), None):
        raise LineError(f"its first line names {twice!r} twice; give each column a name of its own")
    if all(re.fullmatch(r"[-+\d.eE]+", name) for name in names):
        raise LineError(
            f"its first line, {line[:60]!r}, must name the columns; put a line of names before it"
        )
    return Layout(tuple(names), separator, quote, frozenset(lists))


def quick(paths: Sequence[Path], found: Layout) -> pl.LazyFrame:
    """Columns as text, and no faults."""
    rows = pl.scan_csv(
        [*paths],
        separator=found.separator,
        quote_char=found.quote,
        schema=dict.fromkeys(found.names, pl.String),
        glob=False,
    )
    # Polars reads a blank line as a row without values.
    filled = rows.filter(pl.any_horizontal(pl.col(*found.names).is_not_null()))
    return filled.with_columns(pl.lit(None, pl.String).alias(patiently.FAULT))


def patient(paths: Sequence[Path], found: Layout) -> pl.LazyFrame:
    """Columns as text, and what is wrong with each row."""
    return patiently.scan(paths, lambda path: _rows(path, found), found.names, lambda value: value or None)


def _rows(path: Path, found: Layout) -> Iterator[patiently.Row]:
    with files.opened(path) as stream:
        lines = _Lines(stream)
        next(lines)  # the header
        for line in lines:
            if line.strip(b"\r\n"):
                yield _row(line, lines, found)


class _Lines:
    """Lines of a stream, of which some can be given back."""

    def __init__(self, stream: files.BinaryIO) -> None:
        self._stream, self._kept = stream, list[bytes]()

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> bytes:
        line = self._kept.pop() if self._kept else self._stream.readline(patiently.LONGEST)
        if not line:
            raise StopIteration
        return line

    def give_back(self, lines: Sequence[bytes]) -> None:
        self._kept += reversed(lines)


def _row(line: bytes, lines: _Lines, found: Layout) -> patiently.Row:
    taken = [line]
    if found.quote is not None:
        mark = found.quote.encode()
        while sum(part.count(mark) for part in taken) % 2:
            following = next(lines, None)
            if following is not None:
                taken.append(following)
            if following is None or len(taken) > _MOST_LINES or sum(map(len, taken)) > _MOST_BYTES:
                lines.give_back(taken[1:])
                return {}, "a quotation mark that is not closed"
    try:
        text = b"".join(taken).decode()
    except UnicodeError:
        return {}, "no UTF-8"
    try:
        values = _fields(text.removesuffix("\n").removesuffix("\r"), found.separator, found.quote)
    except csv.Error as error:
        return {}, f"no CSV: {error}"
    if len(values) > len(found.names):
        return {}, f"{len(values)} fields, but the first line names {len(found.names)} columns"
    return dict(zip(found.names, values, strict=False)), None


def _fields(text: str, separator: str, quote: str | None) -> list[str]:
    if quote is None or quote not in text:
        return text.split(separator)
    # The text as a whole is one row: what breaks lines stands within quotation marks.
    return next(csv.reader([text], delimiter=separator, quotechar=quote), [])

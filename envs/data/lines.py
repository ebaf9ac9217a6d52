"""JSON lines: as Polars reads them, and line by line where it will not.

``columns``  names of the columns, from the first lines
``quick``    all rows by Polars, which stops at the first line that is no JSON
``patient``  the same rows by Python, thirty times slower; a line that is no JSON is a row with a ``fault``

Values are text, whatever they were, so that a column of mixed types reads like any other.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

# Lines that are looked at for names, bytes of the longest one, and rows that are handed on at once.
_FIRST = 1000
_LONGEST = 1 << 26
_BATCH = 20_000

# A list or an object where a value belongs, as Polars writes it in a column of text.
NESTED = r'^(\[\s*(["\[\{\]\d-]|null|true|false)|\{\s*["}]).*[\]}]$'

_OTHER_CODES = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class LineError(ValueError):
    """The file holds no JSON lines; the message says what it holds."""


def columns(path: Path) -> list[str]:
    """Names of the columns, from the first lines.

    Raises:
        LineError: no line, no object among the first ones, or one that names a column twice.
    """
    with path.open("rb") as stream:
        if code := _OTHER_CODES.get(stream.read(2)):
            raise LineError(f"it is {code} text; write it as UTF-8")
    names: dict[str, None] = {}
    first_fault = None
    for number, (row, fault) in enumerate(islice(_rows(path), _FIRST), start=1):
        if twice := _Row.twice(row):
            raise LineError(f"row {number} holds {twice!r} twice; give each column a name of its own")
        names |= dict.fromkeys(row)
        first_fault = first_fault or fault
    if not names:
        raise LineError(f"row 1: {first_fault}" if first_fault else "it is empty")
    return list(names)


def quick(path: Path, names: Sequence[str]) -> pl.LazyFrame:
    """Columns as text, and an empty ``fault``."""
    found = pl.scan_ndjson(path, schema=dict.fromkeys(names, pl.String))
    return found.with_columns(fault=pl.lit(None, pl.String))


def patient(path: Path, names: Sequence[str]) -> pl.LazyFrame:
    """Columns as text, and what is wrong with each line."""
    schema = pl.Schema(dict.fromkeys([*names, "fault"], pl.String))

    def read(
        wanted: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch: int | None
    ) -> Iterator[pl.DataFrame]:
        rows = islice(_rows(path), n_rows)
        while part := list(islice(rows, batch or _BATCH)):
            texts = {name: [_text(row.get(name)) for row, _ in part] for name in names}
            frame = pl.DataFrame({**texts, "fault": [fault for _, fault in part]}, schema=schema)
            frame = frame if wanted is None else frame.select(wanted)
            yield frame if predicate is None else frame.filter(predicate)

    return register_io_source(read, schema=schema, is_pure=True)


class _Row(dict[str, Any]):
    """A JSON object that remembers a name it was given twice."""

    repeated: str | None = None

    def __init__(self, pairs: Sequence[tuple[str, Any]] = ()) -> None:
        super().__init__(reversed(pairs))  # of two values Polars takes the first
        if len(self) < len(pairs):
            self.repeated = Counter(name for name, _ in pairs).most_common(1)[0][0]

    @staticmethod
    def twice(row: dict[str, Any]) -> str | None:
        return row.repeated if isinstance(row, _Row) else None


def _rows(path: Path) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Each line as a row, or an empty row and what is wrong with it; blank lines are none."""
    with path.open("rb") as stream:
        if stream.read(3) != b"\xef\xbb\xbf":
            stream.seek(0)
        while line := stream.readline(_LONGEST):
            if len(line) == _LONGEST and not line.endswith(b"\n"):
                while (rest := stream.readline(_LONGEST)) and not rest.endswith(b"\n"):
                    pass
                yield {}, f"longer than {_LONGEST >> 20} MiB"
            elif line.strip():
                yield _row(line)


def _row(line: bytes) -> tuple[dict[str, Any], str | None]:
    try:
        row = json.loads(line.decode(), object_pairs_hook=_Row, parse_constant=_refuse)
        if b"\\u" in line:  # perhaps half of a surrogate pair
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeError:
        return {}, "no UTF-8"
    except (ValueError, RecursionError):
        return {}, f"no JSON: {re.sub(r'[^ -~]+', '?', line.strip()[:40].decode(errors='replace'))!r}"
    return (row, None) if isinstance(row, dict) else ({}, "no JSON object")


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)

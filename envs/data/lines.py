"""JSON lines: as Polars reads them, and line by line where it will not.

``columns``  names and types of the columns, from the first lines
``quick``    all rows by Polars, which stops at the first line that is no JSON
``patient``  the same rows by Python; a line that is no JSON is a row with a fault

Values are text, whatever they were, so that a column of mixed types reads like any other; but a column of
floats stays one, since its text would hide that several whole numbers share a float.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from . import files
from . import patient as patiently

FIRST = 1000
"""Rows that tell names and types."""

# A list or an object where a value belongs, as Polars writes it in a column of text.
NESTED = r'^(\[\s*(["\[\{\]\d-]|null|true|false)|\{\s*["}]).*[\]}]$'

_OTHER_CODES = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class LineError(ValueError):
    """The file cannot be read as rows; the message says what it holds."""


def columns(path: Path) -> dict[str, pl.DataType]:
    """Names of the columns, from the first lines: floats, or text.

    Raises:
        LineError: no line, no object among the first ones, or one that names a column twice.
    """
    with files.opened(path) as stream:
        if code := other_code(stream.read(2)):
            raise LineError(f"it is {code} text; write it as UTF-8")
    kinds: dict[str, set[type]] = {}
    first_fault = None
    for number, (row, fault) in enumerate(islice(_rows(path), FIRST), start=1):
        if twice := _Row.twice(row):
            raise LineError(f"row {number} holds {twice!r} twice; give each column a name of its own")
        for name, value in row.items():
            kinds.setdefault(name, set()).add(type(value))
        first_fault = first_fault or fault
    if not kinds:
        raise LineError(f"row 1: {first_fault}" if first_fault else "it is empty")
    return {
        name: pl.Float64() if float in found and found <= {float, int, type(None)} else pl.String()
        for name, found in kinds.items()
    }


def quick(paths: Sequence[Path], schema: Mapping[str, pl.DataType]) -> pl.LazyFrame:
    """Columns of these types, and no faults."""
    return pl.scan_ndjson([*paths], schema=dict(schema)).with_columns(
        pl.lit(None, pl.String).alias(patiently.FAULT)
    )


def patient(paths: Sequence[Path], schema: Mapping[str, pl.DataType]) -> pl.LazyFrame:
    """Columns as text, and what is wrong with each line."""
    return patiently.scan(paths, _rows, [*schema], _text)


def other_code(first: bytes) -> str | None:
    """A code other than UTF-8 that the first bytes of a text tell."""
    return _OTHER_CODES.get(first[:2])


class _Row(dict[str, Any]):
    """A JSON object that remembers a name it was given twice."""

    repeated: str | None = None

    def __init__(self, pairs: Sequence[tuple[str, Any]] = ()) -> None:
        super().__init__(reversed(pairs))  # of two values Polars takes the first
        if len(self) < len(pairs):
            self.repeated = Counter(name for name, _ in pairs).most_common(1)[0][0]

    @staticmethod
    def twice(row: Mapping[str, Any]) -> str | None:
        return row.repeated if isinstance(row, _Row) else None


def _rows(path: Path) -> Iterator[patiently.Row]:
    """Each line as a row, or an empty row and what is wrong with it; blank lines are none."""
    with files.opened(path) as stream:
        if stream.read(3) != b"\xef\xbb\xbf":
            stream.seek(0)
        while line := stream.readline(patiently.LONGEST):
            if len(line) == patiently.LONGEST and not line.endswith(b"\n"):
                while (rest := stream.readline(patiently.LONGEST)) and not rest.endswith(b"\n"):
                    pass
                yield {}, f"longer than {patiently.LONGEST >> 20} MiB"
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

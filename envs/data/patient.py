"""Text files read row by row in Python, some thirty times slower than Polars reads them, for damaged ones.

A row that cannot be read has a fault: what is wrong with it as a whole, in the column ``FAULT``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

LONGEST = 1 << 26
"""Bytes of the longest line that is read."""

FAULT = "(fault)"
"""Column of what is wrong with a row; no column of a log has the name by chance."""

# Rows that are handed on at once.
_BATCH = 20_000

Row = tuple[Mapping[str, Any], str | None]
"""Values by column, and what is wrong with the row."""


def scan(
    paths: Sequence[Path],
    read: Callable[[Path], Iterator[Row]],
    names: Sequence[str],
    text: Callable[[Any], str | None],
) -> pl.LazyFrame:
    """Rows of some files as columns of text, and their faults.

    Args:
        read: Rows of a file.
        names: Names of the columns.
        text: A value as text.
    """
    schema = pl.Schema(dict.fromkeys([*names, FAULT], pl.String))

    def batches(
        wanted: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch: int | None
    ) -> Iterator[pl.DataFrame]:
        rows: Iterable[Row] = chain.from_iterable(map(read, paths))
        rows = islice(rows, n_rows)
        while part := list(islice(rows, batch or _BATCH)):
            texts = {name: [text(row.get(name)) for row, _ in part] for name in names}
            frame = pl.DataFrame({**texts, FAULT: [fault for _, fault in part]}, schema=schema)
            frame = frame if wanted is None else frame.select(wanted)
            yield frame if predicate is None else frame.filter(predicate)

    return register_io_source(batches, schema=schema, is_pure=True)

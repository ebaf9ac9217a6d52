"""Parquet files, whose damage ends in one line.

``columns``  names and types of the columns
``scan``     all rows by Polars
``place``    row group and rows that cannot be read
``quiet``    keeps what Polars writes about its own panics off the terminal
"""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

UNREADABLE = (pl.exceptions.PolarsError, OSError, pl.exceptions.PanicException)
"""Errors of Polars on files that it cannot read; the last one is what it raises where it has no error."""


def columns(path: Path) -> dict[str, pl.DataType]:
    """Names and types of the columns."""
    return dict(pl.scan_parquet(path, glob=False).collect_schema())


def scan(paths: Sequence[Path]) -> pl.LazyFrame:
    """All rows of files with the same columns."""
    return pl.scan_parquet([*paths], glob=False)


def place(path: Path, names: Sequence[str]) -> str | None:
    """Row group and rows whose columns of these names cannot be read, as far as the file tells."""
    first = 0
    with suppress(OSError, ValueError):
        kept = pq.read_metadata(path)
        for group in range(kept.num_row_groups):
            rows = kept.row_group(group).num_rows
            try:
                with quiet():
                    scan([path]).select(names).slice(first, rows).collect(engine="streaming")
            except UNREADABLE:
                found = f"row group {group + 1} of {kept.num_row_groups}"
                return f"{found}, rows {first + 1} to {first + rows}"
            first += rows
    return None


@contextmanager
def quiet() -> Iterator[None]:
    """Hold what the process writes to stderr back, and drop it if Polars panics.

    A panic of Rust prints a hundred lines of its own stack before Python learns of it, and no setting of
    Polars prevents that. Anything else is written afterwards.
    """
    try:
        kept = os.dup(2)
    except OSError:  # a process without stderr
        yield
        return
    panicked = False
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except pl.exceptions.PanicException:
            panicked = True
            raise
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(kept, 2)
            if not panicked:
                held.seek(0)
                os.write(kept, held.read())
            os.close(kept)

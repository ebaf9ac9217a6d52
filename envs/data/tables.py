"""Log files as tables: columns of a file, and rows of files whose columns are alike, in any format."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from . import delimited, files, lines, parquet
from .delimited import RECBOLE_NAMES, Layout
from .lines import LineError
from .patient import FAULT
from .settings import DataError

# Errors of Python on text files that it cannot read; a torn .gz file has errors of its own.
UNREADABLE = (*parquet.UNREADABLE, EOFError, zlib.error)


@dataclass(frozen=True)
class Table:
    """Columns of a file. Files with equal tables are read together.

    Attributes:
        columns: Names and types, as far as the file tells types.
        layout: First line of a delimited file.
    """

    columns: tuple[tuple[str, pl.DataType], ...]
    layout: Layout | None = None

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.columns]

    def scan(self, paths: Sequence[Path], names: Sequence[str], *, patient: bool = False) -> pl.LazyFrame:
        """Rows of some files; of text files with a column ``FAULT``.

        Args:
            names: Names of the columns that are needed.
            patient: Read text row by row, so that damaged rows have a fault and stop nothing.
        """
        if files.format_of(paths[0]) == "Parquet":
            return parquet.scan(paths).select(names)
        if self.layout is not None:
            rows = (delimited.patient if patient else delimited.quick)(paths, self.layout)
        else:
            schema = {name: kind for name, kind in self.columns if name in names}
            rows = (lines.patient if patient else lines.quick)(paths, schema)
        return rows.select([*names, FAULT])


def table(path: Path) -> Table:
    """Columns of a file.

    Raises:
        DataError: the file is not of the format that its name tells, or cannot be read.
    """
    kind = files.format_of(path)
    try:
        if kind == "Parquet":
            with parquet.quiet():
                return Table(tuple(parquet.columns(path).items()))
        if kind == "JSON lines":
            return Table(tuple(lines.columns(path).items()))
        layout = delimited.layout(path)
        return Table(tuple((name, pl.String()) for name in layout.names), layout)
    except (LineError, *UNREADABLE) as error:
        raise DataError(f"{path} is no readable {kind} file: {short(error)}") from error


def name_of(role: str, wanted: str, path: Path, names: Sequence[str]) -> str:
    """Name of a role's column in a file: the one of the settings, or RecBole's own.

    Raises:
        DataError: the file has no such column.
    """
    if wanted in names:
        return wanted
    if files.format_of(path) == "RecBole" and wanted == role and RECBOLE_NAMES.get(role) in names:
        return RECBOLE_NAMES[role]
    raise DataError(
        f"{path} has no column {wanted!r} (data.columns.{role}); it has {sorted(names)[:50]}. "
        f"Name the right one with data.columns.{role}=..."
    )


def short(error: BaseException) -> str:
    """An error on one line."""
    return " ".join(str(error).split())[:200]

"""Files of a log: which ones a source names, in which format, and what identifies them.

A source is a file, a folder (all log files below it), or a pattern such as ``logs/2024-*.parquet``. Several
files are one log, in the order of their names.
"""

import glob
import gzip
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Literal, cast

from .settings import DataError

Format = Literal["Parquet", "JSON lines", "CSV", "TSV", "RecBole"]

FORMATS: dict[str, Format] = {
    ".parquet": "Parquet",
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".csv": "CSV",
    ".tsv": "TSV",
    ".inter": "RecBole",
}
"""Formats by suffix, in any case. All but Parquet may be compressed: ``.csv.gz``."""

_GZ = ".gz"


def format_of(path: Path) -> Format | None:
    """The format that a file's name tells; None for a name that tells none."""
    name = path.name.lower()
    found = FORMATS.get(Path(name.removesuffix(_GZ)).suffix)
    return None if found == "Parquet" and name.endswith(_GZ) else found


def resolve(source: str | Path) -> list[Path]:
    """Files of a source, in the order of their names, all of one format.

    In folders, names that begin with ``.`` or ``_`` (``_SUCCESS``) and files of other kinds are left alone,
    and so are empty files next to others.

    Raises:
        DataError: no such file, a folder or a pattern without log files, or files of several formats.
    """
    path = Path(source)
    if path.is_dir():
        files = _below(path)
    elif glob.has_magic(str(source)) and not os.path.lexists(path):
        files = [found for found in map(Path, glob.glob(str(source), recursive=True)) if _is_log(found)]
    else:
        return [_existing(path)]
    if not files:
        kind = "a folder without a log file" if path.is_dir() else "no log file has such a name"
        raise DataError(f"data.source={source}: {kind}; a log file ends with {_suffixes()}")
    files = sorted(files, key=str)
    formats = {format_of(file): file for file in reversed(files)}
    if len(formats) > 1:
        one, other, *_ = sorted(formats.values(), key=str)
        raise DataError(
            f"data.source={source}: {one.name} is {format_of(one)}, {other.name} is {format_of(other)}; "
            f"name those of one format, such as data.source='{path if path.is_dir() else path.parent}/"
            f"*{one.suffix}'"
        )
    return [file for file in files if file.stat().st_size] or files[:1]


def fingerprint(source: str | Path, *, named: bool = False) -> str:
    """Content hash of a source's files.

    Args:
        named: Whether the names of the files count too.

    Raises:
        DataError: as for :func:`resolve`; or a file cannot be opened.
    """
    digests = [_digest(path) + (path.name if named else "") for path in resolve(source)]
    whole = (
        digests[0]
        if len(digests) == 1 and not named
        else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    )
    return f"logs sha256 {whole[:24]}"


def opened(path: Path) -> BinaryIO:
    """Content of a file as a stream of bytes, decompressed."""
    return cast(BinaryIO, gzip.open(path)) if path.name.lower().endswith(_GZ) else path.open("rb")


def said(source: str | Path, paths: Sequence[Path]) -> str:
    """Files in words: ``3 Parquet files, from a.parquet to c.parquet``."""
    kind = format_of(paths[0])
    if len(paths) == 1:
        return f"{paths[0]} ({kind})"
    return f"{len(paths):,} {kind} files of {source}, from {paths[0].name} to {paths[-1].name}"


def _below(folder: Path) -> list[Path]:
    files = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        files += [Path(place, name) for name in names if not name.startswith((".", "_"))]
    return [file for file in files if _is_log(file)]


def _is_log(path: Path) -> bool:
    return format_of(path) is not None and path.is_file()


def _existing(path: Path) -> Path:
    if format_of(path) is None:
        given = "".join(path.suffixes[-2:]) if path.suffix.lower() == _GZ else path.suffix
        raise DataError(
            f"data.source={path}: cannot read {given!r} files; a log file ends with {_suffixes()}"
        )
    if not path.exists():
        raise DataError(f"data.source={path}: no such file (from {os.getcwd()})")
    if not path.is_file():  # a pipe or a device would never end
        raise DataError(f"data.source={path}: a device or a pipe; give a regular file")
    return path


def _suffixes() -> str:
    return f"{', '.join(FORMATS)}, or all but .parquet with {_GZ} behind"


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"data.source={path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()

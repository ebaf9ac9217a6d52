"""Rows of prompts out of files: Parquet, JSON lines, CSV, or a dataset that Hugging Face's library saved."""

import hashlib
from pathlib import Path
from typing import Any

import polars as pl

from ..data.parquet import quiet
from ..task import TaskError

READERS = {
    ".parquet": lambda path: pl.read_parquet(path),
    ".jsonl": lambda path: pl.read_ndjson(path, infer_schema_length=None),
    ".ndjson": lambda path: pl.read_ndjson(path, infer_schema_length=None),
    ".csv": lambda path: pl.read_csv(path, infer_schema_length=None),
}


def read(setting: str, path: Path) -> list[dict[str, Any]]:
    """All rows of a file, or of a folder that ``Dataset.save_to_disk`` wrote.

    Args:
        setting: Setting that holds the path, for errors.

    Raises:
        TaskError: the path does not exist, is of an unknown kind, or cannot be read.
    """
    if not path.exists():
        raise TaskError(f"{setting}={path}: no such file or folder (from {Path.cwd()})")
    if not (path.is_file() or path.is_dir()):  # a pipe or a device would never end
        raise TaskError(f"{setting}={path}: a device or a pipe; give a regular file, or a folder")
    try:
        if path.is_dir():
            return _saved(setting, path)
        if path.suffix not in READERS:
            raise TaskError(
                f"{setting}={path}: a file of prompts ends with {', '.join(READERS)}; a dataset of Hugging "
                "Face's library is a folder that save_to_disk wrote"
            )
        with quiet():
            return READERS[path.suffix](path).to_dicts()
    except TaskError:
        raise
    except (Exception, pl.exceptions.PanicException) as error:  # a damaged dataset fails anywhere
        said = " ".join(str(error).split())[:300]
        raise TaskError(f"{setting}={path} cannot be read: {type(error).__name__}: {said}") from error


def fingerprint(path: Path) -> str:
    """Content hash of a file, or of all files of a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(str(file.relative_to(path)).encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def _saved(setting: str, path: Path) -> list[dict[str, Any]]:
    from datasets import Dataset, load_from_disk

    found = load_from_disk(str(path))
    if not isinstance(found, Dataset):
        names = sorted(found)
        raise TaskError(
            f"{setting}={path} holds the datasets {', '.join(names)}; name the folder of one, such as "
            f"{setting}={path / names[0]}"
        )
    # Arrow trusts its files: a flipped bit could end the process.
    found.data.validate(full=True)
    return found.to_list()

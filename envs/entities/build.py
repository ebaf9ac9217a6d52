"""The job that fills a store: titles by ranges, each encoded once, in any order and anywhere.

The vectors of a range are written where they belong, and a mark says that they are on the disk; a job that
was killed goes on with the ranges that have none. A store is published when it is whole.

``Encoder``  what makes vectors of titles
``Part``     some titles, and the place of their vectors
``build``    the store
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from ..data.shards import ENGINES, Engine, mapped
from ..storage import sealed
from .store import EntityStore, Floats, Precision, StoreError, keys

PART = 512
"""Titles of a range."""

_VECTORS, _SCALES = "vectors.bin", "scales.bin"
_TITLES, _HASHES, _DONE, _JOB = "titles.arrow", "hashes.bin", "done", "job.json"
_KEYS, _PLACES = "keys.bin", "places.bin"
# Files of a store; the job has others.
_KEPT = (_VECTORS, _SCALES, _TITLES, _KEYS, _PLACES)


class Encoder(Protocol):
    """Makes vectors of titles; can be pickled, for machines of a cluster."""

    @property
    def dim(self) -> int:
        """Width of a vector."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of what the vectors depend on."""
        ...

    def __call__(self, titles: Sequence[str], /) -> Floats:
        """``[len(titles), dim]``."""
        ...


@dataclass(frozen=True)
class Part:
    """A range of titles.

    Attributes:
        folder: Folder of the job.
        number: Number of the range; ``first``, ``end``: its titles, half open.
    """

    folder: Path
    number: int
    first: int
    end: int

    @property
    def done(self) -> Path:
        """File that says that the vectors are on the disk."""
        return self.folder / _DONE / f"{self.number:06d}"


def build(
    titles: pl.LazyFrame | Sequence[str],
    folder: Path,
    encoder: Encoder,
    *,
    precision: Precision = "float16",
    engine: Engine = "polars",
    size: int = PART,
    on_part: Callable[[int, int], None] = lambda done, parts: None,
) -> EntityStore:
    """Encode titles and publish their store; a store of the same titles and encoder is taken as it is.

    Args:
        titles: Titles, or a table with a column ``title``, which may be larger than memory; repeated ones
            count once.
        folder: Folder of the store; one of other titles, or of another encoder, is replaced.
        engine: ``polars``: here, one range after the other; ``ray``: on a Ray cluster, whose machines all see
            the folder.
        size: Titles of a range.
        on_part: Function that is called with the number of ranges that are done, and of all; with ``ray``
            at the beginning and the end.

    Raises:
        StoreError: there are no titles.
    """
    folder = folder.absolute()  # other machines work elsewhere
    aside = folder.with_name(f".{folder.name}.building")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder.with_name(f".{folder.name}.lock"), folder):
        aside.mkdir(exist_ok=True)
        listed = _listed(titles, aside)
        job = {
            "titles": "{:x}-{:x}".format(*sealed.fingerprint(listed)),
            "encoder": encoder.fingerprint,
            "dim": encoder.dim,
            "precision": precision,
            "size": size,
        }
        entities = mapped(listed).height
        if not entities:
            raise StoreError(f"{folder}: there are no titles to encode")
        if sealed.fault(folder, deep=False) is None and sealed.read(folder).get("job") == job:
            sealed.remove(aside)
            return EntityStore(folder)
        _begin(aside, job, entities)
        parts = [
            Part(aside, number, first, min(first + size, entities))
            for number, first in enumerate(range(0, entities, size))
        ]
        left = [part for part in parts if not part.done.exists()]
        done = len(parts) - len(left)
        on_part(done, len(parts))

        work = partial(_fill, encoder=encoder, precision=precision)
        for some in [left] if engine == "ray" else [[part] for part in left]:
            ENGINES[engine](work, some)
            done += len(some)
            on_part(done, len(parts))
        _index(aside, parts)
        facts = {**job, "entities": entities, "job": job}
        files = [name for name in sealed.files(aside) if name in _KEPT]
        sealed.publish(aside, folder, facts, sealed.seal(aside, files))
        for path in [*folder.iterdir()]:
            if path.name not in (*_KEPT, sealed.MANIFEST):
                sealed.remove(path)
    return EntityStore(folder)


def _listed(titles: pl.LazyFrame | Sequence[str], aside: Path) -> Path:
    """File of the different titles, sorted."""
    table = titles if isinstance(titles, pl.LazyFrame) else pl.LazyFrame({"title": [*titles]})
    path, written = aside / _TITLES, aside / f"{_TITLES}.{os.getpid()}"
    found = table.select(pl.col("title").cast(pl.String)).drop_nulls().unique().sort("title")
    found.sink_ipc(written, compat_level=pl.CompatLevel.oldest(), engine="streaming")
    written.replace(path)
    return path


def _begin(aside: Path, job: dict[str, Any], entities: int) -> None:
    """Make room for the vectors, or keep what an earlier job of the same left."""
    path = aside / _JOB
    if path.is_file() and json.loads(path.read_text()) == job:
        return
    sealed.remove(aside / _DONE)
    (aside / _DONE).mkdir(exist_ok=True)
    scaled = job["precision"] == "int8"
    widths = {_VECTORS: job["dim"] * (1 if scaled else 2), **({_SCALES: 4} if scaled else {}), _HASHES: 8}
    for name, width in widths.items():
        with (aside / name).open("wb") as file:
            file.truncate(entities * width)
    sealed.write(path, json.dumps(job))


def _fill(part: Part, *, encoder: Encoder, precision: Precision) -> None:
    """Write vectors and hashes of a range."""
    titles = mapped(part.folder / _TITLES)["title"].slice(part.first, part.end - part.first).to_list()
    found = np.asarray(encoder(titles), dtype=np.float32)
    if found.shape != (len(titles), encoder.dim):
        raise StoreError(f"the encoder gave {found.shape} for {len(titles)} titles of {encoder.dim} numbers")
    if precision == "int8":
        scales = np.maximum(np.abs(found).max(axis=1), 1e-12).astype(np.float32)
        _place(part, _SCALES, scales)
        found = np.rint(found / scales[:, None] * 127)
    _place(part, _VECTORS, found.astype(precision))
    _place(part, _HASHES, keys(titles))
    part.done.touch()


def _place(part: Part, name: str, rows: np.ndarray) -> None:
    """Write rows at the place of a range, on the disk when this returns."""
    with (part.folder / name).open("r+b") as file:
        file.seek(part.first * (rows.nbytes // len(rows)))
        file.write(rows.tobytes())
        file.flush()
        os.fsync(file.fileno())


def _index(aside: Path, parts: Sequence[Part]) -> None:
    """Sort the hashes; each then stands with the row of its title."""
    missing = [part.number for part in parts if not part.done.exists()]
    assert not missing, f"ranges {missing[:5]} were not filled"
    hashes = np.fromfile(aside / _HASHES, dtype=np.uint64)
    order = np.argsort(hashes, kind="stable")
    hashes[order].tofile(aside / _KEYS)
    order.astype(np.uint32).tofile(aside / _PLACES)


@contextmanager
def _alone(path: Path, folder: Path) -> Iterator[None]:
    """Keep other jobs from the same store."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"{folder} is being built by another process; wait for it, or name another folder"
            ) from error
        yield

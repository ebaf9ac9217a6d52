"""Vectors of entities on disk: a sealed folder, of which a batch reads the rows that it touches.

| file          | holds                                                                          |
|---------------|--------------------------------------------------------------------------------|
| `vectors.bin` | ``[entities, dim]`` in float16, or in int8 with a scale for each entity        |
| `scales.bin`  | ``[entities]`` float32: the value of 127, with int8 only                       |
| `keys.bin`    | ``[entities]`` uint64: hashes of the titles, ascending                         |
| `places.bin`  | ``[entities]`` uint32: row of the title of each hash                           |

``EntityStore``  rows of titles, and vectors of rows
``Vectors``      what reads vectors, such as a store; ``Constant``, ``Permuted``: controls that do too
"""

import hashlib
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ..faults import MendableError
from ..storage import sealed

Precision = Literal["float16", "int8"]
Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

# Rows read after which the mapped pages are handed back: what stays in memory does not grow with the steps.
_KEPT = 20_000


class StoreError(MendableError, ValueError):
    """A store is not there, not whole, or of other titles or another encoder; the message names the fix."""


class Vectors(Protocol):
    """Reads vectors of entities.

    Attributes:
        dim: Width of a vector.
    """

    dim: int

    def vectors(self, rows: Rows) -> Floats:
        """``[len(rows), dim]``."""
        ...


class EntityStore:
    """A finished store.

    Args:
        folder: Folder that :func:`recrl.envs.entities.build.build` published.

    Attributes:
        encoder: Hash of the encoder's files; ``dim``, ``precision``: width and dtype of the vectors.

    Raises:
        StoreError: the folder holds no whole store.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        if why := sealed.fault(self.folder, deep=False):
            raise StoreError(f"{folder} holds no whole store: {why}; build it with recrl hybrid store")
        facts = sealed.read(self.folder)
        self.encoder, self.dim, self.precision = facts["encoder"], int(facts["dim"]), facts["precision"]
        self._count = int(facts["entities"])
        self._vectors = _Mapped(self.folder / "vectors.bin", self.precision, (self._count, self.dim))
        scaled = self.precision == "int8"
        self._scales = _Mapped(self.folder / "scales.bin", "float32", (self._count,)) if scaled else None
        self._keys = _Mapped(self.folder / "keys.bin", "uint64", (self._count,))
        self._places = _Mapped(self.folder / "places.bin", "uint32", (self._count,))
        self._read = 0

    def __len__(self) -> int:
        return self._count

    def __reduce__(self) -> Any:
        return EntityStore, (self.folder,)  # a copy maps the same files

    def rows(self, titles: Sequence[str]) -> Rows:
        """Row of each title; -1 for titles that the store does not know."""
        if not titles or not self._count:
            return np.full(len(titles), -1, dtype=np.int64)
        asked = keys(titles)
        found = np.searchsorted(self._keys.array, asked).clip(max=self._count - 1)
        known = self._keys.array[found] == asked
        return np.where(known, self._places.array[found].astype(np.int64), -1)

    def vectors(self, rows: Rows) -> Floats:
        """Vectors of rows, ``[len(rows), dim]``."""
        found = self._vectors.array[rows].astype(np.float32)
        if self._scales is not None:
            found *= self._scales.array[rows, None] / 127
        self._read += len(rows)
        if self._read > _KEPT:
            self._vectors.forget()
            self._read = 0
        return found


class Constant:
    """A control: every entity has the same vector, the mean of some."""

    def __init__(self, store: Vectors, some: Rows) -> None:
        self.dim = store.dim
        self._vector = store.vectors(some).mean(axis=0)

    def vectors(self, rows: Rows) -> Floats:
        return np.repeat(self._vector[None], len(rows), axis=0)


class Permuted:
    """A control: entities have each other's vectors, drawn by a seed."""

    def __init__(self, store: Vectors, entities: int, seed: int) -> None:
        self.dim, self._store = store.dim, store
        self._order = np.random.default_rng(seed).permutation(entities)

    def vectors(self, rows: Rows) -> Floats:
        return self._store.vectors(self._order[rows])


def keys(titles: Sequence[str]) -> npt.NDArray[np.uint64]:
    """64-bit hashes of titles; among ten million, two are alike once in 370,000 stores."""
    digests = b"".join(hashlib.blake2b(title.encode(), digest_size=8).digest() for title in titles)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


class _Mapped:
    """A file as an array, whose pages are read where they are touched, and not around it."""

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...]) -> None:
        with path.open("rb") as file:
            self._pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._pages.madvise(mmap.MADV_RANDOM)
        self.array = np.frombuffer(self._pages, dtype=dtype).reshape(shape)

    def forget(self) -> None:
        """Hand the pages back; they are read again where they are touched."""
        self._pages.madvise(mmap.MADV_DONTNEED)

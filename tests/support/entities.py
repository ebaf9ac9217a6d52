"""Stores of made-up entities, by an encoder that needs no model."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recrl.envs.entities.build import build
from recrl.envs.entities.store import EntityStore

DIM = 12
TITLES = [f"kind {i % 5}, brand {i % 3}, {i} oz, tag {'abcdefghijkl'[i % 12]}" for i in range(40)]


class Hashed:
    """Random unit vectors, seeded by the titles."""

    dim = DIM
    fingerprint = "hashed"

    def __call__(self, titles: Sequence[str]) -> np.ndarray:
        rows = [np.random.default_rng(zlib.crc32(title.encode())).normal(size=DIM) for title in titles]
        found = np.array(rows, dtype=np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def store_in(folder: Path, titles: Sequence[str] = TITLES) -> EntityStore:
    return build(titles, folder / "store", Hashed())

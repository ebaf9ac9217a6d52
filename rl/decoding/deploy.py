"""Deployed lists: greedy answers under a rule of what may be written, for any tokenizer.

``distinct``  exactly K different tags of the catalogue (:class:`recrl.rl.decoding.lists.CatalogDecoder`)
``grammar``   one to K tags of the catalogue; the policy ends the list (:mod:`recrl.rl.decoding.grammar`)
``free``      whatever the policy writes
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...envs.catalog import Catalog
from ...envs.tags.prompts import Message
from ..sampling import Constraint, Sampling
from .generate import generate
from .grammar import GrammarConstraint
from .kept import Kept
from .lists import CatalogDecoder, line_tokens, longest
from .settings import Decoding


@torch.no_grad()
def answer_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[Message]],
    sampling: Sampling,
    *,
    copies: int = 1,
    batch_size: int,
    constraint: Constraint | None = None,
    kept: Kept | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Texts of ``copies`` answers to each chat, in order.

    Args:
        batch_size: Answers at once.
        kept: Answers of an earlier attempt, which are not sampled again.
        on_batch: Called with the number of prompts answered so far.
    """
    was_training = model.training
    model.eval()
    texts = kept.begin() if kept is not None else []
    at_once = max(1, batch_size // copies)
    for first in range(len(texts) // copies, len(prompts), at_once):
        encoded: Any = tokenizer.apply_chat_template(
            list(prompts[first : first + at_once]), add_generation_prompt=True, return_dict=True
        )
        answers = generate(model, encoded["input_ids"], sampling, copies=copies, constraint=constraint)
        texts += tokenizer.batch_decode(answers, skip_special_tokens=True)
        if kept is not None:
            kept.keep(texts)
        on_batch(min(first + at_once, len(prompts)))
    model.train(was_training)
    return texts


def deploy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[Message]],
    catalog: Catalog,
    slots: int,
    *,
    decoding: Decoding = "distinct",
    batch_size: int = 128,
    kept: Kept | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Greedy answers.

    Args:
        slots: Length of the list: exactly (``distinct``), at most (``grammar``), or, with ``free``, what an
            answer has room for.
        decoding: What an answer may be, see the head of this module.
        kept: See :func:`answer_texts`.

    Raises:
        ValueError: see :class:`CatalogDecoder` and :class:`~recrl.rl.decoding.grammar.GrammarConstraint`.
        ModuleNotFoundError: ``grammar`` without the package xgrammar.
    """

    vocabulary = model.config.get_text_config().vocab_size
    constraint: CatalogDecoder | GrammarConstraint | None = None
    if decoding == "distinct":
        constraint = CatalogDecoder(tokenizer, catalog, slots, vocabulary)
    elif decoding == "grammar":
        constraint = GrammarConstraint(tokenizer, catalog, slots, vocabulary)
    max_tokens = constraint.max_tokens if constraint else longest(line_tokens(tokenizer, catalog), slots)
    return answer_texts(
        model,
        tokenizer,
        prompts,
        Sampling(max_tokens, ends=(int(tokenizer.eos_token_id),), temperature=0.0),
        batch_size=batch_size,
        constraint=constraint,
        kept=kept,
        on_batch=on_batch,
    )

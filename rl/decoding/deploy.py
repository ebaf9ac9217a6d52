"""Answers of a policy as texts: sampled, and greedy under what a task's form allows."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...envs.task import Lines, Message, Text
from ..sampling import Constraint, Sampling
from .forms import longest_answer, token_constraint
from .generate import generate
from .kept import Kept
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
        batch_size: Number of answers at once.
        kept: Answers of an earlier attempt, which are not sampled again.
        on_batch: Function that is called with the number of prompts answered so far.
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
    form: Lines | Text,
    *,
    decoding: Decoding = "distinct",
    batch_size: int = 128,
    kept: Kept | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Greedy answers.

    Args:
        form: Form of an answer.
        decoding: Limit on what may be written, see :mod:`recrl.rl.decoding.forms`.
        kept: Answers of an earlier attempt, see :func:`answer_texts`.

    Raises:
        ValueError: see :func:`recrl.rl.decoding.forms.token_constraint`.
        ModuleNotFoundError: ``grammar`` without the package xgrammar.
    """
    vocabulary = model.config.get_text_config().vocab_size
    constraint = token_constraint(form, tokenizer, vocabulary, decoding)
    max_tokens = constraint.max_tokens if constraint else longest_answer(form, tokenizer)
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

"""Answers of a policy as texts: sampled, and greedy under what a task's form allows."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...envs.task import Lines, Message, Text
from ..sampling import Constraint, Draw, Sampling
from .candidates import Candidates
from .forms import check_barred, longest_answer, token_constraint
from .journal import Journal
from .kept import Kept
from .lists import DistinctLines
from .settings import Decoding
from .writing import Writer, writer_of

# First prompt and first behind the last -> additions to each option's log-probability in nats,
# ``[prompts, copies, options]``.
Bonuses = Callable[[int, int], torch.Tensor]


@torch.no_grad()
def answer_texts(
    model: PreTrainedModel | Writer,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[Message]],
    sampling: Sampling,
    *,
    copies: int = 1,
    batch_size: int,
    constraint: Constraint | None = None,
    before: Callable[[int, int], None] = lambda first, end: None,
    draw: Draw | None = None,
    kept: Kept | Journal | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Texts of ``copies`` answers to each chat, in order.

    Args:
        batch_size: Number of answers at once.
        before: Function that is called with the numbers of the first prompt of a batch and of the first
            behind it, before they are answered.
        draw: What takes the tokens; None for what ``sampling`` says.
        kept: Answers of an earlier attempt, which are not sampled again.
        on_batch: Function that is called with the number of prompts answered so far.
    """
    writer = writer_of(model)
    texts = kept.begin() if kept is not None else []
    at_once = max(1, batch_size // copies)
    for first in range(len(texts) // copies, len(prompts), at_once):
        before(first, min(first + at_once, len(prompts)))
        encoded: Any = tokenizer.apply_chat_template(
            list(prompts[first : first + at_once]), add_generation_prompt=True, return_dict=True
        )
        answers = writer.write(
            encoded["input_ids"], sampling, copies=copies, constraint=constraint, draw=draw
        )
        texts += tokenizer.batch_decode(answers, skip_special_tokens=True)
        if kept is not None:
            kept.keep(texts)
        on_batch(min(first + at_once, len(prompts)))
    return texts


def deploy(
    model: PreTrainedModel | Writer,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[Message]],
    form: Lines | Text,
    *,
    decoding: Decoding = "distinct",
    batch_size: int = 128,
    bonuses: Bonuses | None = None,
    barred: Sequence[Collection[int]] | None = None,
    copies: int = 1,
    candidates: Candidates | None = None,
    kept: Kept | Journal | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Greedy answers, or candidates for them.

    Args:
        form: Form of an answer.
        decoding: Limit on what may be written, see :mod:`recrl.rl.decoding.forms`.
        bonuses: What favours options, with ``distinct`` only; None for nothing.
        barred: Options that the answers to each prompt may not name, except ``free`` ones; None for none.
        copies: Number of answers to each prompt, which differ by their bonuses, or as ``candidates`` draws.
        candidates: What draws ``copies`` answers to each prompt; None for greedy ones alone.
        kept: Answers of an earlier attempt, see :func:`answer_texts`.

    Raises:
        ValueError: see :func:`recrl.rl.decoding.forms.token_constraint` and
            :func:`recrl.rl.decoding.forms.check_barred`.
        ModuleNotFoundError: ``grammar`` without the package xgrammar.
    """
    check_barred(decoding, barred or ())
    writer = writer_of(model)
    constraint = token_constraint(form, tokenizer, writer.vocabulary, decoding)

    def before(first: int, end: int) -> None:
        if candidates is not None:
            candidates.begin(first, end)
        if bonuses is not None:
            assert isinstance(constraint, DistinctLines), "only lists of different options can be priced"
            constraint.price(bonuses(first, end).flatten(0, 1))
        if barred is not None and isinstance(constraint, DistinctLines):
            constraint.bar([options for options in barred[first:end] for _ in range(copies)])

    max_tokens = constraint.max_tokens if constraint else longest_answer(form, tokenizer)
    return answer_texts(
        writer,
        tokenizer,
        prompts,
        Sampling(max_tokens, ends=(int(tokenizer.eos_token_id),), temperature=0.0),
        copies=copies,
        batch_size=batch_size,
        constraint=constraint,
        before=before,
        draw=candidates,
        kept=kept,
        on_batch=on_batch,
    )

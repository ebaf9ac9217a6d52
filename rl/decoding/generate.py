"""Answers from a transformers model: each distinct prompt read once where that is exact.

``generate``      token ids to token ids, through :mod:`recrl.rl.prefix.branching` or the ``generate`` of
                  transformers
``check_window``  a prompt and its answer fit the model
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from ..prefix.branching import decode
from ..prefix.packing import without_adapters
from ..prefix.sharing import can_share
from ..sampling import Answered, Constraint, Draw, Sampling


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    copies: int = 1,
    constraint: Constraint | None = None,
    on_answered: Answered = lambda members, tokens: None,
    draw: Draw | None = None,
) -> list[list[int]]:
    """Sample ``copies`` answers to each prompt, in order; one that was not cut short ends with an end token.

    A model that cannot share a prompt exactly (see :func:`recrl.rl.prefix.sharing.can_share`) runs through
    the ``generate`` of transformers instead.

    Args:
        model: Causal language model, in evaluation mode; adapters may be around it, other wrappers not.
        prompts: Token ids; equal prompts are read once.
        on_answered: Function that is called with the numbers of all answers to a prompt, and their tokens,
            once they are there; not with the ``generate`` of transformers.
        draw: What takes the tokens; None for what ``sampling`` says.

    Raises:
        ValueError: an empty prompt, or a prompt that leaves no room for an answer in the model's window.
    """
    check_window(model, max(map(len, prompts)), sampling.max_tokens)
    if not all(map(len, prompts)):
        raise ValueError("an empty prompt cannot be answered; every prompt needs at least one token")
    base = without_adapters(model)
    if not can_share(base, max(map(len, prompts)) + sampling.max_tokens):
        repeated = [list(prompt) for prompt in prompts for _ in range(copies)]
        return _with_transformers(model, repeated, sampling, constraint, draw)
    # Equal prompts become one row; an answer is a (row, slot) with its number in the result.
    rows: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        rows.setdefault(tuple(prompt), []).extend(range(i * copies, (i + 1) * copies))
    numbers = torch.full((len(rows), max(map(len, rows.values()))), -1)
    for row, members in zip(numbers, rows.values(), strict=True):
        row[: len(members)] = torch.tensor(members)
    return decode(base, list(rows), numbers, sampling, constraint, on_answered, draw)


def check_window(model: Any, prompt: int, answer: int) -> None:
    """Refuse a prompt that does not fit the model's positions together with an answer (lengths in tokens)."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if most is not None and prompt + answer > most:
        raise ValueError(
            f"a prompt of {prompt} tokens and an answer of up to {answer} do not fit the model's window "
            f"of {most} tokens (max_position_embeddings); shorten the prompts (task.max_history) or the "
            "answers (train.max_answer_tokens), or take a model with a longer window"
        )


class _Allowed(LogitsProcessor):
    """A :class:`Constraint` and a :class:`Draw` for transformers, whose finished rows stay in the batch."""

    def __init__(self, constraint: Constraint | None, draw: Draw | None, ends: Sequence[int]) -> None:
        self._constraint, self._draw, self._ends = constraint, draw, set(ends)
        self._open: list[int] | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        last = None
        if self._open is None:
            if self._constraint is not None:
                self._constraint.begin(len(scores))
            self._open = list(range(len(scores)))
        else:
            tokens = input_ids[:, -1].tolist()
            self._open = [i for i in self._open if tokens[i] not in self._ends]
            last = [tokens[i] for i in self._open]
        if not self._open:
            return scores
        scores = scores.clone()
        if self._constraint is not None:
            allowed = self._constraint.allowed(self._open, last).to(scores.device)
            if (bonus := self._constraint.bonus(self._open)) is not None:
                scores[self._open] += bonus.to(scores.device)
            scores[self._open] = scores[self._open].masked_fill(~allowed, -torch.inf)
        if self._draw is not None:
            drawn = self._draw(self._open, scores[self._open].float())
            scores[self._open] = -torch.inf
            scores[self._open, drawn] = 0.0
        return scores


def _with_transformers(
    model: Any,
    prompts: list[list[int]],
    sampling: Sampling,
    constraint: Constraint | None,
    draw: Draw | None,
) -> list[list[int]]:
    width = max(map(len, prompts))
    pad = sampling.ends[0]
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    drawn: dict[str, Any] = {"do_sample": False}
    if sampling.temperature and draw is None:
        drawn = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p or None,
        }
    config = GenerationConfig(
        max_new_tokens=sampling.max_tokens, eos_token_id=list(sampling.ends), pad_token_id=pad, **drawn
    )
    processors = LogitsProcessorList()
    if constraint is not None or draw is not None:
        processors.append(_Allowed(constraint, draw, sampling.ends))
    # Transformers would fill what is not set from the configuration beside the model.
    beside, model.generation_config = model.generation_config, GenerationConfig()
    try:
        produced = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=processors
        )
    finally:
        model.generation_config = beside
    answers = []
    for row in produced[:, width:].tolist():
        stop = next((i + 1 for i, token in enumerate(row) if token in sampling.ends), len(row))
        answers.append(row[:stop])
    return answers

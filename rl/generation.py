"""Sampling with transformers models that reads each distinct prompt once.

The prompts are prefilled together; then every answer takes one token a step, and the answers to one prompt
share its keys and values (:class:`recrl.rl.attention.Branches`). Answers that have ended leave the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from . import attention
from .attention import Branches, Prefill, passed_mask
from .prefix import backbone

# Finished answers are removed once they are this share of the rows: each removal copies the cache.
_REMOVE_AT = 0.25


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; nothing else, in particular no file beside a model, has a say.

    Attributes:
        max_tokens: Longest answer, its end token included.
        ends: Token ids that end an answer.
        temperature: 0 takes the likeliest token.
        top_p, top_k, min_p: Truncation of the distribution; 1, 0 and 0 leave it whole.
    """

    max_tokens: int
    ends: tuple[int, ...]
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    def warpers(self) -> LogitsProcessorList:
        """The library's processors, in its order; empty for greedy decoding."""
        found = LogitsProcessorList()
        if self.temperature not in (0.0, 1.0):
            found.append(TemperatureLogitsWarper(self.temperature))
        if self.temperature:
            if self.top_k:
                found.append(TopKLogitsWarper(self.top_k))
            if self.top_p < 1.0:
                found.append(TopPLogitsWarper(self.top_p))
            if self.min_p:
                found.append(MinPLogitsWarper(self.min_p))
        return found


class Constraint(Protocol):
    """Which tokens may come next."""

    def begin(self, answers: int) -> None:
        """A new batch of answers, numbered from 0."""
        ...

    def allowed(self, answers: Sequence[int], last: Sequence[int] | None) -> Tensor:
        """Bool ``[len(answers), vocabulary]`` for answers that go on.

        Args:
            answers: Their numbers.
            last: The token that each took in the step before; None in the first step.
        """
        ...


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    copies: int = 1,
    constraint: Constraint | None = None,
) -> list[list[int]]:
    """Sample ``copies`` answers to each prompt, in order; one that was not cut short ends with an end token.

    A model that cannot share a prompt exactly (see :func:`recrl.rl.attention.unsupported`) runs through the
    ``generate`` of transformers instead.

    Args:
        model: Causal language model, in evaluation mode; adapters may be around it, other wrappers not.
        prompts: Token ids; equal prompts are read once.

    Raises:
        ValueError: an empty prompt, or a prompt that leaves no room for an answer in the model's window.
    """
    check_window(model, max(map(len, prompts)), sampling.max_tokens)
    if not all(map(len, prompts)):
        raise ValueError("an empty prompt cannot be answered; every prompt needs at least one token")
    base: Any = model
    base = base.get_base_model() if hasattr(base, "get_base_model") else base
    longest = max(map(len, prompts)) + sampling.max_tokens
    cut = attention.window(base)
    if attention.unsupported(base) or (cut is not None and longest > cut):
        repeated = [list(prompt) for prompt in prompts for _ in range(copies)]
        return _with_transformers(model, repeated, sampling, constraint)
    attention.install(base)
    # Equal prompts become one row; an answer is a (row, slot) and has its number in the result.
    rows: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        rows.setdefault(tuple(prompt), []).extend(range(i * copies, (i + 1) * copies))
    numbers = torch.full((len(rows), max(map(len, rows.values()))), -1)
    for row, members in zip(numbers, rows.values(), strict=True):
        row[: len(members)] = torch.tensor(members)
    return _decode(base, list(rows), numbers, sampling, constraint)


def check_window(model: Any, prompt: int, answer: int) -> None:
    """Refuse a prompt that does not fit the model's positions together with an answer (lengths in tokens)."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if most is not None and prompt + answer > most:
        raise ValueError(
            f"a prompt of {prompt} tokens and an answer of up to {answer} do not fit the model's window "
            f"of {most} tokens (max_position_embeddings); shorten the prompts (task.prompt) or the answers "
            "(train.max_answer_tokens), or take a model with a longer window"
        )


def _decode(
    model: Any,
    prompts: list[tuple[int, ...]],
    numbers: Tensor,
    sampling: Sampling,
    constraint: Constraint | None,
) -> list[list[int]]:
    """The loop over tokens.

    Args:
        numbers: ``[R, S]``, an answer's number; -1 where a prompt has fewer answers than others.
    """
    device = model.device
    lengths = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    prefill = _prefill(model, prompts, int(lengths.max()))
    branches = Branches(prefill, lengths, numbers.shape[1])
    last = torch.tensor([prompt[-1] for prompt in prompts], device=device)
    tokens = last[:, None].expand(numbers.shape).reshape(-1, 1)
    total = int((numbers >= 0).sum())
    answers: list[list[int]] = [[] for _ in range(total)]
    ends, warpers = torch.tensor(sampling.ends, device=device), sampling.warpers()
    if constraint is not None:
        constraint.begin(total)
    open_ = (numbers >= 0).to(device)
    for step in range(sampling.max_tokens):
        branches.begin(step)
        logits = model(
            input_ids=tokens,
            position_ids=(lengths + step)[:, None].expand(open_.shape).reshape(-1, 1),
            attention_mask=passed_mask(len(tokens), device),
            shared_prefix=branches,
            use_cache=False,
        ).logits[:, -1]
        logits = logits.float()
        live = open_.flatten().nonzero().flatten()
        if constraint is not None:
            which = numbers.flatten()[live.cpu()].tolist()
            allowed = constraint.allowed(which, tokens[live, 0].tolist() if step else None)
            logits[live] = logits[live].masked_fill(~allowed.to(device), -torch.inf)
        logits = warpers(cast(torch.LongTensor, tokens), cast(torch.FloatTensor, logits))
        if sampling.temperature:
            tokens = _draw(logits.softmax(dim=-1))
        else:
            tokens = logits.argmax(dim=-1, keepdim=True)
        for number, token in zip(
            numbers.flatten()[live.cpu()].tolist(), tokens[live, 0].tolist(), strict=True
        ):
            answers[number].append(token)
        open_ &= ~torch.isin(tokens, ends).view(open_.shape)
        left = open_.sum(dim=1)
        if not left.any():
            break
        if (left > 0).sum() * left.max() <= (1 - _REMOVE_AT) * open_.numel():
            prompts_left = (left > 0).nonzero().flatten()
            # The open slots of each prompt first; a prompt with fewer carries closed ones along.
            slots = (~open_[prompts_left]).to(torch.int8).argsort(dim=1, stable=True)[:, : int(left.max())]
            branches.keep(prompts_left, slots)
            tokens = tokens.view(open_.shape)[prompts_left].gather(1, slots).reshape(-1, 1)
            open_ = open_[prompts_left].gather(1, slots)
            numbers = numbers[prompts_left.cpu()].gather(1, slots.cpu())
            lengths = lengths[prompts_left]
    return answers


def _draw(probabilities: Tensor) -> Tensor:
    """One index of each row, ``[N, 1]``, by inverting the distribution function.

    Needs one random number a row; ``torch.multinomial`` draws one for every entry of the vocabulary.
    """
    reached = probabilities.double().cumsum(dim=-1)
    threshold = torch.rand(len(reached), 1, dtype=torch.float64, device=reached.device) * reached[:, -1:]
    # From the right, so that an entry of probability 0 is never drawn.
    found = torch.searchsorted(reached, threshold, right=True)
    return found.clamp(max=reached.shape[-1] - 1)


def _prefill(model: Any, prompts: list[tuple[int, ...]], width: int) -> Prefill:
    """Keys and values of the prompts without their last tokens, which start the answers."""
    prefill = Prefill()
    if width:
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt) - 1] = torch.tensor(prompt[:-1])
        backbone(model)(
            input_ids=ids.to(model.device),
            position_ids=torch.arange(width, device=model.device)[None],
            attention_mask=passed_mask(len(prompts), model.device),
            shared_prefix=prefill,
            use_cache=False,
        )
    return prefill


class _Allowed(LogitsProcessor):
    """A :class:`Constraint` for the ``generate`` of transformers, whose finished rows stay in the batch."""

    def __init__(self, constraint: Constraint, ends: Sequence[int], prompt: int) -> None:
        self._constraint, self._ends, self._prompt = constraint, set(ends), prompt
        self._open: list[int] | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        last = None
        if self._open is None:
            self._constraint.begin(len(scores))
            self._open = list(range(len(scores)))
        else:
            tokens = input_ids[:, -1].tolist()
            self._open = [i for i in self._open if tokens[i] not in self._ends]
            last = [tokens[i] for i in self._open]
        if not self._open:
            return scores
        allowed = self._constraint.allowed(self._open, last).to(scores.device)
        scores = scores.clone()
        scores[self._open] = scores[self._open].masked_fill(~allowed, -torch.inf)
        return scores


def _with_transformers(
    model: Any, prompts: list[list[int]], sampling: Sampling, constraint: Constraint | None
) -> list[list[int]]:
    width = max(map(len, prompts))
    pad = sampling.ends[0]
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    drawn: dict[str, Any] = {"do_sample": False}
    if sampling.temperature:
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
    if constraint is not None:
        processors.append(_Allowed(constraint, sampling.ends, width))
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

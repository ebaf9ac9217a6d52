"""Sampling that reads each distinct prompt once.

The prompts are prefilled together; then every answer takes one token a step, and the answers to one prompt
share its keys and values (:class:`recrl.rl.prefix.layouts.Branches`). Ended answers leave the batch.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ..sampling import Answered, Constraint, Draw, Sampling
from .layouts import Branches, Prefill, passed_mask
from .packing import backbone

# Finished answers are removed once they are this share of the rows: each removal copies the cache.
_REMOVE_AT = 0.25


@torch.no_grad()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    numbers: Tensor,
    sampling: Sampling,
    constraint: Constraint | None,
    on_answered: Answered = lambda members, tokens: None,
    draw: Draw | None = None,
    least: Sequence[int] | None = None,
) -> list[list[int]]:
    """Answers to prompts, by number.

    Args:
        model: Causal language model without wrappers, set to shared attention, in evaluation mode.
        prompts: Token ids, at least one each.
        numbers: Numbers of the answers, ``[R, S]``; -1 where a prompt has fewer answers than others.
        on_answered: Function that is called with the numbers of all answers to a prompt once the last of them
            has ended, and their tokens.
        draw: What takes the tokens; None for what ``sampling`` says.
        least: Number of tokens of each answer among which an end token ends nothing; None for 0.
    """
    device = model.device
    lengths = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    branches = Branches(prefill(model, prompts, int(lengths.max())), lengths, numbers.shape[1])
    last = torch.tensor([prompt[-1] for prompt in prompts], device=device)
    tokens = last[:, None].expand(numbers.shape).reshape(-1, 1)
    total = int((numbers >= 0).sum())
    answers: list[list[int]] = [[] for _ in range(total)]
    ends, warpers = torch.tensor(sampling.ends, device=device), sampling.warpers()
    if constraint is not None:
        constraint.begin(total)
    open_ = (numbers >= 0).to(device)
    members = [[number for number in row if number >= 0] for row in numbers.tolist()]
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
        which = numbers.flatten()[live.cpu()].tolist()
        if constraint is not None:
            allowed = constraint.allowed(which, tokens[live, 0].tolist() if step else None)
            if (bonus := constraint.bonus(which)) is not None:
                logits[live] += bonus.to(device)
            logits[live] = logits[live].masked_fill(~allowed.to(device), -torch.inf)
        logits = warpers(cast(torch.LongTensor, tokens), cast(torch.FloatTensor, logits))
        if draw is not None:
            tokens = tokens.clone()
            tokens[live, 0] = draw(which, logits[live])
        elif sampling.temperature:
            tokens = inverse_transform(logits.softmax(dim=-1))
        else:
            tokens = logits.argmax(dim=-1, keepdim=True)
        for number, token in zip(which, tokens[live, 0].tolist(), strict=True):
            answers[number].append(token)
        ended_now = torch.isin(tokens, ends).view(open_.shape)
        if least is not None:
            ended_now &= step >= torch.tensor(least, device=device)[numbers.clamp(min=0).to(device)]
        open_ &= ~ended_now
        left = open_.sum(dim=1)
        if not left.any():
            break
        for row, still in enumerate(left.tolist()):
            if not still and (ended := members[row]):
                members[row] = []
                on_answered(ended, [answers[number] for number in ended])
        if (left > 0).sum() * left.max() <= (1 - _REMOVE_AT) * open_.numel():
            prompts_left = (left > 0).nonzero().flatten()
            # The open slots of each prompt first; a prompt with fewer carries closed ones along.
            slots = (~open_[prompts_left]).to(torch.int8).argsort(dim=1, stable=True)[:, : int(left.max())]
            branches.keep(prompts_left, slots)
            tokens = tokens.view(open_.shape)[prompts_left].gather(1, slots).reshape(-1, 1)
            open_ = open_[prompts_left].gather(1, slots)
            numbers = numbers[prompts_left.cpu()].gather(1, slots.cpu())
            lengths = lengths[prompts_left]
            members = [members[row] for row in prompts_left.tolist()]
    for ended in filter(None, members):
        on_answered(ended, [answers[number] for number in ended])
    return answers


def inverse_transform(probabilities: Tensor, uniform: Tensor | None = None) -> Tensor:
    """One index of each row, ``[N, 1]``, by inverting the distribution function.

    It needs one random number a row; ``torch.multinomial`` draws one for every entry of the vocabulary.

    Args:
        uniform: Random numbers of 0 to 1, float64 ``[N, 1]``; by default of torch's own generator.
    """
    reached = probabilities.double().cumsum(dim=-1)
    if uniform is None:
        uniform = torch.rand(len(reached), 1, dtype=torch.float64, device=reached.device)
    threshold = uniform * reached[:, -1:]
    # The search is from the right, so that an entry of probability 0 is never drawn.
    found = torch.searchsorted(reached, threshold, right=True)
    return found.clamp(max=reached.shape[-1] - 1)


def prefill(model: Any, prompts: Sequence[Sequence[int]], width: int) -> Prefill:
    """Keys and values of the prompts without their last tokens, which start the answers."""
    kept = Prefill()
    if width:
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt) - 1] = torch.tensor(prompt[:-1])
        backbone(model)(
            input_ids=ids.to(model.device),
            position_ids=torch.arange(width, device=model.device)[None],
            attention_mask=passed_mask(len(prompts), model.device),
            shared_prefix=kept,
            use_cache=False,
        )
    return kept

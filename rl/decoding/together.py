"""Answers to prompts that begin alike, such as those of a household's experts: the beginning is read once.

``answer_together``  texts of greedy answers to groups of prompts
``Opened``           a constraint by which every answer begins with tokens of its own

The rest of a prompt is taken as the forced beginning of an answer to what it shares with its group, so it
meets the kept keys and values of the shared tokens as an answer does. Where a model cannot share prompts
exactly, every prompt is read by itself.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...envs.task import Lines, Message
from ..prefix.branching import decode
from ..prefix.packing import without_adapters
from ..prefix.sharing import can_share
from ..sampling import Constraint, Sampling
from .deploy import deploy
from .generate import check_window
from .lists import DistinctLines

Group = Sequence[list[Message]]


class Opened(Constraint):
    """Every answer begins with given tokens; what follows is another constraint's.

    Args:
        openings: Tokens with which each answer begins, at least one each.
        rest: Constraint on what follows.
        vocabulary: Number of tokens that the model scores.
    """

    def __init__(self, openings: Sequence[Sequence[int]], rest: Constraint, vocabulary: int) -> None:
        self._openings, self._rest, self._vocabulary = openings, rest, vocabulary
        self._taken: list[int] = []

    def begin(self, answers: int) -> None:
        self._taken = [0] * answers
        self._rest.begin(answers)

    def allowed(self, answers: Sequence[int], last: Sequence[int] | None) -> Tensor:
        mask = torch.zeros(len(answers), self._vocabulary, dtype=torch.bool)
        first: list[int] = []
        later: list[int] = []
        for place, answer in enumerate(answers):
            opening, taken = self._openings[answer], self._taken[answer]
            if taken < len(opening):
                mask[place, opening[taken]] = True
            else:
                (first if taken == len(opening) else later).append(place)
            self._taken[answer] += 1
        if first:
            mask[first] = self._rest.allowed([answers[place] for place in first], None)
        if later:
            assert last is not None
            mask[later] = self._rest.allowed(
                [answers[place] for place in later], [last[place] for place in later]
            )
        return mask


@torch.no_grad()
def answer_together(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[Group],
    form: Lines,
    barred: Sequence[Collection[int]] | None = None,
) -> list[list[str]]:
    """Greedy lists of distinct options, an answer to each prompt of each group.

    Args:
        groups: Prompts; those of a group begin alike.
        barred: Options that each answer may not name, in the order of all prompts; None for none.

    Raises:
        ValueError: see :func:`recrl.rl.decoding.generate.check_window`.
    """
    prompts = [prompt for group in groups for prompt in group]
    encoded: Any = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=True)
    tokens = iter(encoded["input_ids"])
    ids = [[next(tokens) for _ in group] for group in groups]
    vocabulary = model.config.get_text_config().vocab_size
    lines = DistinctLines(tokenizer, form, vocabulary)
    longest = max(len(prompt) for of in ids for prompt in of)
    check_window(model, longest, lines.max_tokens)
    base = without_adapters(model)
    was_training = model.training
    model.eval()
    if can_share(base, longest + lines.max_tokens):
        shared = [_shared(of) for of in ids]
        openings = [prompt[count:] for of, count in zip(ids, shared, strict=True) for prompt in of]
        lines.bar(barred or [()] * len(prompts))
        numbers = torch.full((len(groups), max(map(len, groups))), -1)
        of_group = torch.arange(len(prompts)).split([len(group) for group in groups])
        for row, members in zip(numbers, of_group, strict=True):
            row[: len(members)] = members
        sampling = Sampling(
            max(map(len, openings)) + lines.max_tokens, (int(tokenizer.eos_token_id),), temperature=0.0
        )
        beginnings = [of[0][:count] for of, count in zip(ids, shared, strict=True)]
        opened = Opened(openings, lines, vocabulary)
        least = [len(opening) for opening in openings]  # a chat template ends messages as answers end
        answers = decode(base, beginnings, numbers, sampling, opened, least=least)
        rest = [answer[len(opening) :] for answer, opening in zip(answers, openings, strict=True)]
        texts = iter(tokenizer.batch_decode(rest, skip_special_tokens=True))
    else:
        texts = iter(deploy(model, tokenizer, prompts, form, barred=barred))
    model.train(was_training)
    return [[next(texts) for _ in group] for group in groups]


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """Number of tokens with which all prompts begin; every prompt keeps one of its own."""
    most = min(map(len, prompts)) - 1
    differs = (i for i in range(most) if len({prompt[i] for prompt in prompts}) > 1)
    return next(differs, most)

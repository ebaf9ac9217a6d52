"""Limits on lists inside vLLM (0.32): constraint, bonuses and draws of :mod:`recrl.rl.sampling` on its batch.

vLLM keeps a batch from which requests leave and into which others come at any step. It says so before each
step; each row is then held at the state that its own tokens have led to.

``Limit``        a constraint and what draws, with how far each answer has come
``Held``         answers of an engine in this process, under whatever its writer holds
``ServedLists``  a server's lists: different options, under the prices of :mod:`recrl.rl.decoding.known`
"""

import os
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from ..sampling import Constraint, Draw
from .known import KNOWN, LISTED, Known
from .lists import DistinctLines

NUMBER = "recrl_answer"
"""Field of ``extra_args``: number of an answer within what its writer holds."""

# Sampling parameters that move a list's end, or say themselves which tokens may come.
_CONTRARY = ("ignore_eos", "min_tokens", "allowed_token_ids", "bad_words", "structured_outputs")


@dataclass(eq=False)
class Limit:
    """What some answers are held to.

    Attributes:
        constraint: Constraint that has begun with these answers; None for none.
        draw: What takes the tokens; None leaves that to vLLM.
        ends: Tokens that end an answer. vLLM may still compute a step behind one.
        taken: Number of tokens of each answer that the constraint knows of.
    """

    constraint: Constraint | None
    draw: Draw | None
    ends: Sequence[int]
    taken: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def hold(self, logits: Tensor, rows: Sequence[int], answers: Sequence["_Written"]) -> None:
        """Change rows of logits in place, those of answers that go on."""
        new: list[list[tuple[int, _Written]]] = [[], []]
        for row, answer in zip(rows, answers, strict=True):
            new[self._come_to_the_last(answer)].append((row, answer))
        for fresh, group in enumerate(new):
            if group:
                last = [answer.tokens[-1] for _, answer in group] if fresh else None
                self._hold(logits, [row for row, _ in group], [answer.number for _, answer in group], last)

    def _come_to_the_last(self, answer: "_Written") -> bool:
        """Tell the constraint of all tokens but the last one; say whether it does not know that one yet."""
        number, tokens = answer.number, answer.tokens
        while self.taken[number] < len(tokens) - 1:  # a request that vLLM took out and asks again
            if self.constraint is not None:
                self.constraint.allowed([number], [tokens[self.taken[number]]])
            self.taken[number] += 1
        fresh = self.taken[number] < len(tokens)
        self.taken[number] = len(tokens)
        return fresh

    def _hold(
        self, logits: Tensor, rows: Sequence[int], numbers: Sequence[int], last: Sequence[int] | None
    ) -> None:
        mine = logits[rows]
        if self.constraint is not None:
            allowed = self.constraint.allowed(numbers, last)
            if (bonus := self.constraint.bonus(numbers)) is not None:
                mine += bonus.to(mine.device)
            mine = mine.masked_fill(~allowed.to(mine.device), -torch.inf)
        if self.draw is not None:
            drawn = self.draw(numbers, mine)
            mine = torch.full_like(mine, -torch.inf).scatter(1, drawn[:, None], 0.0)
        logits[rows] = mine


@dataclass(eq=False)
class _Written:
    """A request of the batch.

    Attributes:
        number: Number of the answer within its limit.
        tokens: Tokens so far: vLLM's own list, which grows.
    """

    limit: Limit
    number: int
    tokens: list[int]


class _Limits(LogitsProcessor):
    """Holds the requests of a batch to their limits."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._written: dict[int, _Written] = {}  # row of the batch -> request

    @abstractmethod
    def limit(self, params: SamplingParams, prompt: Sequence[int]) -> tuple[Limit, int] | None:
        """Limit of a request and the answer's number in it; None for none."""

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self._written, batch_update, self._added)

    def _added(self, params: SamplingParams, prompt: list[int] | None, tokens: list[int]) -> _Written | None:
        found = self.limit(params, prompt or [])
        return None if found is None else _Written(*found, tokens)

    def apply(self, logits: Tensor) -> Tensor:
        together: dict[Limit, list[tuple[int, _Written]]] = defaultdict(list)
        for row, written in self._written.items():
            if not (written.tokens and written.tokens[-1] in written.limit.ends):
                together[written.limit].append((row, written))
        for limit, rows in together.items():
            limit.hold(logits, [row for row, _ in rows], [written for _, written in rows])
        return logits


class Held(_Limits):
    """Answers of an engine in this process.

    Attributes:
        now: Limit of the answers that are asked for; its numbers are theirs in ``extra_args``.
    """

    now: Limit | None = None

    def limit(self, params: SamplingParams, prompt: Sequence[int]) -> tuple[Limit, int] | None:
        number = (params.extra_args or {}).get(NUMBER)
        if number is None or self.now is None:
            return None
        return self.now, number


class ServedLists(_Limits):
    """Lists of different options to requests that ask for one (:data:`~recrl.rl.decoding.known.LISTED`).

    What a known prompt favours and may not name is in the table; any other prompt may name every option.
    """

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a list whose request asks for other tokens than the list allows.

        Raises:
            ValueError: it does; vLLM answers the request with it, as HTTP 400.
        """
        if not (sampling_params.extra_args or {}).get(LISTED):
            return
        for name in _CONTRARY:
            if value := getattr(sampling_params, name):
                raise ValueError(f"{name}={value!r} does not go with a list of options; leave {name} out")

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        super().__init__(vllm_config, device, is_pin_memory)
        model = vllm_config.model_config
        tokenizer = AutoTokenizer.from_pretrained(model.tokenizer)
        self._known = Known(Path(os.environ[KNOWN]))
        self._lists = DistinctLines(tokenizer, self._known.form, model.get_vocab_size())
        self._ends = (int(tokenizer.eos_token_id),)

    def limit(self, params: SamplingParams, prompt: Sequence[int]) -> tuple[Limit, int] | None:
        if not (params.extra_args or {}).get(LISTED):
            return None
        lists = self._lists.another()
        if (found := self._known.of(prompt)) is not None:
            bonus, barred = found
            lists.price(bonus[None])
            lists.bar([barred])
        lists.begin(1)
        return Limit(lists, None, self._ends), 0

"""Sampling of tokens, and limits on which may be drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LogitsProcessorList


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; nothing else has a say, in particular no file beside a model.

    Attributes:
        max_tokens: Longest answer, its end token included.
        ends: Token ids that end an answer.
        temperature: Divisor of the logits; 0 takes the likeliest token.
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
        # Imported here, since settings of the sampling are read without torch.
        from transformers import (
            LogitsProcessorList,
            MinPLogitsWarper,
            TemperatureLogitsWarper,
            TopKLogitsWarper,
            TopPLogitsWarper,
        )

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


# Numbers of the answers to one prompt, and the tokens of each.
Answered = Callable[[Sequence[int], Sequence[Sequence[int]]], None]


class Draw(Protocol):
    """Takes the next token of answers, in place of a :class:`Sampling`'s temperature."""

    def __call__(self, answers: Sequence[int], logits: Tensor) -> Tensor:
        """Tokens, ``[len(answers)]``.

        Args:
            answers: Numbers of the answers that go on.
            logits: ``[len(answers), vocabulary]``, bonuses included; -inf where a token is not allowed.
        """
        ...


class Constraint(Protocol):
    """Limit on the tokens that may come next."""

    def begin(self, answers: int) -> None:
        """Start a new batch of answers, numbered from 0."""
        ...

    def allowed(self, answers: Sequence[int], last: Sequence[int] | None) -> Tensor:
        """Allowed tokens of answers that go on, bool ``[len(answers), vocabulary]``.

        Args:
            answers: Numbers of these answers.
            last: Token that each took in the step before; None in the first step.
        """
        ...

    def bonus(self, answers: Sequence[int]) -> Tensor | None:
        """Additions to the logits of these answers, in nats, shaped as what :meth:`allowed` gave them just
        before; None for none."""
        return None

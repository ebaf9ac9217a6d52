"""Limits on the tokens of answers to different questions: schemas, stops, and the deadline of all."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...envs.chat.models import Question
from ..decoding.grammar import load_xgrammar
from ..sampling import Constraint


class LateError(RuntimeError):
    """The deadline came before the answers were whole."""


class Schemas:
    """JSON schemas as grammars over a tokenizer's tokens, each compiled once.

    Raises:
        ModuleNotFoundError: xgrammar is not installed, and an answer is asked for under a schema.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, ends: Sequence[int]) -> None:
        self._tokenizer, self._vocabulary, self._ends = tokenizer, vocabulary, list(ends)
        self._compiler: Any = None
        self._compiled: dict[str, Any] = {}

    def matcher(self, question: Question) -> Any:
        """What follows one answer; None for free text."""
        schema = question.json_schema
        if schema is None:
            return None
        xgrammar = load_xgrammar()
        if self._compiler is None:
            known = xgrammar.TokenizerInfo.from_huggingface(
                self._tokenizer, vocab_size=self._vocabulary, stop_token_ids=self._ends
            )
            self._compiler = xgrammar.GrammarCompiler(known)
        told = json.dumps(schema)
        if told not in self._compiled:
            # White space without end is what a small model likes best.
            self._compiled[told] = self._compiler.compile_json_schema(
                told, any_whitespace=False, separators=(",", ":")
            )
        return xgrammar.GrammarMatcher(self._compiled[told])


class Limits(Constraint):
    """A :class:`~recrl.rl.sampling.Constraint` for one batch.

    Args:
        matchers: What follows each answer, see :meth:`Schemas.matcher`.
        vocabulary: Number of tokens that the model scores.
        end: Token that ends an answer.
        stops: Texts behind which an answer may only end.
        until: Time, of the monotonic clock, at which the answers must be whole.

    Raises:
        LateError: from :meth:`allowed`, when that time has come.
    """

    def __init__(
        self,
        tokenizer: Any,
        matchers: Sequence[Any],
        vocabulary: int,
        end: int,
        stops: Sequence[str],
        until: float,
    ) -> None:
        self._tokenizer, self._matchers, self._vocabulary = tokenizer, matchers, vocabulary
        self._end, self._stops, self._until = end, tuple(stops), until
        self._written: list[list[int]] = []

    def begin(self, answers: int) -> None:
        self._written = [[] for _ in range(answers)]

    def allowed(self, answers: Sequence[int], last: Sequence[int] | None) -> Tensor:
        if time.monotonic() >= self._until:
            raise LateError
        if last is not None:
            for answer, token in zip(answers, last, strict=True):
                self._written[answer].append(token)
                matcher = self._matchers[answer]
                if matcher is not None and not matcher.accept_token(token):
                    raise ValueError(f"answer {answer} took token {token}, which was not allowed there")
        found = torch.ones(len(answers), self._vocabulary, dtype=torch.bool)
        for row, answer in enumerate(answers):
            if self._matchers[answer] is not None:
                found[row] = self._of(self._matchers[answer])
            elif self._stops and self.stopped(self._tokenizer.decode(self._written[answer])) is not None:
                found[row] = False
                found[row, self._end] = True
        return found

    def stopped(self, text: str) -> int | None:
        """Characters before the first stop in a text; None without one."""
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        return min(places) if places else None

    def _of(self, matcher: Any) -> Tensor:
        packed = load_xgrammar().allocate_token_bitmask(1, self._vocabulary)
        matcher.fill_next_token_bitmask(packed, 0)
        # 32 tokens an int32, the lowest bit first.
        bits = np.unpackbits(packed.numpy().view(np.uint8), axis=1, count=self._vocabulary, bitorder="little")
        return torch.from_numpy(bits.view(np.bool_))[0]

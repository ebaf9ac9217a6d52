"""Answers under a grammar, with the optional package xgrammar: one to K lines, each an option.

Unlike the lists of exactly K different options, the policy chooses how long the list is and may repeat
itself. The grammar is over bytes, so any tokens that spell an option are allowed, whatever the tokenizer.
"""

import importlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...envs.task import Lines
from ..sampling import Constraint
from .lists import line_tokens

_NOT_PLAIN = re.compile(r"[^ !#-\[\]-~]")  # all but printable ASCII without quote and backslash


def load_xgrammar() -> Any:
    """The package.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        return importlib.import_module("xgrammar")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"decoding with a grammar needs the package xgrammar ({error}): pip install 'recrl[grammar]'"
        ) from error


def answer_grammar(form: Lines, *, leading_space: bool = False) -> str:
    """EBNF of an answer: one line to as many as the form says, each an option and its line break.

    Args:
        leading_space: Whether to allow one space before the first line.

    Raises:
        ValueError: an option that is more than one line, or no room for a line.
    """
    if form.count < 1:
        raise ValueError(f"{form.count} lines leave no room for an option; ask for 1 or more")
    for option in form.options:
        if len(option.splitlines()) != 1:
            raise ValueError(
                f"option {option!r} has a line break in it, but an answer names one a line; rename it"
            )
    names = " | ".join(f'"{_escaped(option)}"' for option in form.options)
    start = '" "? ' if leading_space else ""
    return f'root ::= {start}line{{1,{form.count}}}\nline ::= ({names}) "\\n"\n'


def _escaped(text: str) -> str:
    return _NOT_PLAIN.sub(lambda found: f"\\U{ord(found[0]):08x}", text)


class GrammarConstraint(Constraint):
    """Allows only what :func:`answer_grammar` does, and the end token after a line's break.

    Args:
        vocabulary: Number of tokens that the model scores; may be more than the tokenizer has.

    Attributes:
        max_tokens: Tokens of the longest answer, its end included: no answer within it is cut short.

    Raises:
        ValueError: see :func:`answer_grammar` and :func:`~recrl.rl.decoding.lists.line_tokens`.
        ModuleNotFoundError: xgrammar is not installed.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, form: Lines, vocabulary: int) -> None:
        self._xgrammar = load_xgrammar()
        line_tokens(tokenizer, form)  # refuses options that are not read back as they are written
        self._vocabulary = vocabulary
        known = self._xgrammar.TokenizerInfo.from_huggingface(
            tokenizer, vocab_size=vocabulary, stop_token_ids=[tokenizer.eos_token_id]
        )
        # Such tokenizers write the first word of a text with a space before it, which the parser strips.
        grammar = answer_grammar(form, leading_space=known.add_prefix_space)
        self._compiled = self._xgrammar.GrammarCompiler(known).compile_grammar(grammar)
        # A policy may spell an option byte by byte.
        longest = max(len(f"{option}\n".encode()) for option in form.options)
        self.max_tokens = known.add_prefix_space + form.count * longest + 1
        self._matchers: list[Any] = []

    def begin(self, answers: int) -> None:
        self._matchers = [self._xgrammar.GrammarMatcher(self._compiled) for _ in range(answers)]

    def allowed(self, answers: Sequence[int], last: Sequence[int] | None) -> Tensor:
        matchers = [self._matchers[answer] for answer in answers]
        if last is not None:
            for answer, matcher, token in zip(answers, matchers, last, strict=True):
                if not matcher.accept_token(token):
                    raise ValueError(f"answer {answer} took token {token}, which was not allowed there")
        packed = self._xgrammar.allocate_token_bitmask(len(matchers), self._vocabulary)
        for row, matcher in enumerate(matchers):
            matcher.fill_next_token_bitmask(packed, row)
        # 32 tokens an int32, the lowest bit first.
        bits = np.unpackbits(packed.numpy().view(np.uint8), axis=1, count=self._vocabulary, bitorder="little")
        return torch.from_numpy(bits.view(np.bool_))

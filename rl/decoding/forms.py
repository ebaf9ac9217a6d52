"""What may be decoded in the form of a task's answers, and the room that an answer needs.

``distinct``  exactly K different options (:class:`recrl.rl.decoding.lists.DistinctLines`)
``grammar``   one to K options; the policy ends the list (:mod:`recrl.rl.decoding.grammar`)
``free``      whatever the policy writes; free text is never constrained
"""

import math
from collections.abc import Collection, Iterable
from statistics import fmean

from transformers import PreTrainedTokenizerBase

from ...envs.task import Lines, Text
from .grammar import GrammarConstraint
from .lists import DistinctLines, line_tokens, longest
from .settings import Decoding


def token_constraint(
    form: Lines | Text, tokenizer: PreTrainedTokenizerBase, vocabulary: int, decoding: Decoding
) -> DistinctLines | GrammarConstraint | None:
    """Limit on the tokens that a deployed answer may take; None for any.

    Args:
        vocabulary: Number of tokens that the model scores.

    Raises:
        ValueError: the tokenizer cannot write an option so that it is read back.
        ModuleNotFoundError: ``grammar`` without the package xgrammar.
    """
    if isinstance(form, Text) or decoding == "free":
        return None
    kind = DistinctLines if decoding == "distinct" else GrammarConstraint
    return kind(tokenizer, form, vocabulary)


def check_barred(decoding: Decoding, barred: Iterable[Collection[int]]) -> None:
    """Refuse a grammar for answers that may not name some of the options: it is the same for all of them.

    Args:
        barred: Options that each answer may not name.

    Raises:
        ValueError: one of them has such options.
    """
    if decoding == "grammar" and any(map(len, barred)):
        raise ValueError(
            "evaluation.decoding=grammar: its grammar is of all options, and there are some that a prompt's "
            "answer may not name (of the history under data.protocol.repeats=false); set "
            "evaluation.decoding=distinct"
        )


def longest_answer(form: Lines | Text, tokenizer: PreTrainedTokenizerBase) -> int:
    """Number of tokens of the longest answer that the form asks for, its end included."""
    if isinstance(form, Text):
        return form.max_tokens
    return longest(line_tokens(tokenizer, form), form.count)


def deployed_length(
    form: Lines | Text, tokenizer: PreTrainedTokenizerBase, vocabulary: int, decoding: Decoding
) -> int:
    """Number of tokens of the longest deployed answer, its end included.

    Args, Raises: See :func:`token_constraint`.
    """
    constraint = token_constraint(form, tokenizer, vocabulary, decoding)
    return constraint.max_tokens if constraint else longest_answer(form, tokenizer)


def answer_room(form: Lines | Text, tokenizer: PreTrainedTokenizerBase) -> int:
    """Number of tokens that sampled answers may take; for a list, half as many again as an average one."""
    if isinstance(form, Text):
        return form.max_tokens
    mean = fmean(len(tokens) for tokens in line_tokens(tokenizer, form))
    return math.ceil(1.5 * form.count * mean) + 1

"""Rewards of answers in free text to prompts with a known answer.

``number_match``  the last number of an answer is the one asked for
``word_count``    number of words, to be held down
"""

import re
from collections.abc import Sequence

from ..base import Completion, completion_text
from ..registry import reward

_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")


@reward("number_match", range=(0, 1), serving=False)
def number_match(completions: Sequence[Completion], answer: Sequence[object]) -> list[float | None]:
    """1 where the last number of an answer equals the column ``answer``, which is a number or names one.

    Commas between digits do not count. Missing where the column holds no number.
    """
    scores: list[float | None] = []
    for completion, expected in zip(completions, answer, strict=True):
        wanted = _last_number(str(expected))
        scores.append(None if wanted is None else float(_last_number(completion_text(completion)) == wanted))
    return scores


@reward("word_count", range=(0, 10_000), direction="lower")
def word_count(completions: Sequence[Completion]) -> list[float]:
    """Number of words between blanks.

    Its config entry should name the range that answers can have, which says what one step of it is.
    """
    return [float(len(completion_text(completion).split())) for completion in completions]


def _last_number(text: str) -> float | None:
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None

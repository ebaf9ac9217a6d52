"""Style guidelines: a closed set of control words that say how a text is written, never what is true.

``Guideline``       four words: tone, audience, occasion, device
``GUIDELINES``      all guidelines as texts
``with_guideline``  a prompt that asks for a text under a guideline
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Literal, get_args

from pydantic import BaseModel

Tone = Literal["plain", "warm", "playful", "crisp"]
Audience = Literal["regular", "explorer", "saver", "newcomer"]  # ways of shopping, no attributes of people
Occasion = Literal["everyday", "weekend", "season", "holiday", "campaign"]
Device = Literal["fact", "question", "comparison", "reminder", "pairing"]

TONES: tuple[str, ...] = get_args(Tone)
AUDIENCES: tuple[str, ...] = get_args(Audience)
OCCASIONS: tuple[str, ...] = get_args(Occasion)
DEVICES: tuple[str, ...] = get_args(Device)

_WORDS = re.compile(r"tone: (\w+); audience: (\w+); occasion: (\w+); device: (\w+)")


class Guideline(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """How a text is to be written."""

    tone: Tone
    """Voice of the text."""
    audience: Audience
    """Way of shopping that the text speaks to."""
    occasion: Occasion
    """Moment that the text takes up."""
    device: Device
    """Figure that the text is built on."""

    @property
    def words(self) -> str:
        """The guideline as text, as the column ``guideline`` of a row holds it."""
        return "; ".join(f"{name}: {word}" for name, word in self)

    @classmethod
    def of(cls, words: str) -> Guideline | None:
        """The guideline of a text; None where the text is none."""
        found = _WORDS.fullmatch(words.strip())
        if found is None:
            return None
        tone, audience, occasion, device = found.groups()
        known = tone in TONES and audience in AUDIENCES and occasion in OCCASIONS and device in DEVICES
        if not known:
            return None
        return cls.model_validate(dict(zip(cls.model_fields, found.groups(), strict=True)))


GUIDELINES: tuple[str, ...] = tuple(
    Guideline.model_validate(dict(zip(Guideline.model_fields, words, strict=True))).words
    for words in itertools.product(TONES, AUDIENCES, OCCASIONS, DEVICES)
)
"""All guidelines, as texts."""


def with_guideline(prompt: Sequence[dict[str, str]], guideline: str) -> list[dict[str, str]]:
    """A prompt whose last message of the user ends with a guideline.

    Args:
        prompt: Chat messages.
        guideline: Text of a guideline; of an empty one the prompt stays as it is.

    Raises:
        ValueError: the text is no guideline.
    """
    if not guideline:
        return list(prompt)
    if Guideline.of(guideline) is None:
        raise ValueError(f"{guideline!r:.100} is no guideline; one is {GUIDELINES[0]!r}")
    last = max(i for i, message in enumerate(prompt) if message["role"] == "user")
    return [
        {**message, "content": f"{message['content']}\nStyle: {guideline}"} if i == last else dict(message)
        for i, message in enumerate(prompt)
    ]

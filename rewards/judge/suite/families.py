"""Families of defects that change the words of a text, and changes that leave it as good or bad as it was.

A wording is a pair of sentences, harmless and harmful, that differ in a few words. Those of held-out authors
are others than those of training authors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from .worlds import Household

Words: TypeAlias = tuple[str, str] | None
"""Text without the defect, and with it; None where it cannot be had."""
Change: TypeAlias = Callable[[Household, str, str, bool, np.random.Generator], Words]
"""A household, a true text, the name of a good in it, whether its author is held out, a generator."""

LIES = ("wrong fact", "wrong frequency", "wrong recency", "another household", "season")
"""Families that a model which reads the text alone must not tell; ``build`` makes them."""
TRAINING = ("wrong fact", "wrong frequency", "season", "leak", "generic", "truncation", "format")
HELD_OUT = ("wrong recency", "another household", "campaign", "contradiction", "slogan", "repetition")

_SENTENCE = re.compile(r"(?<=[.!?])\s+")

_LEAKS = (
    (
        ("At home it will suit you.", "At your age it will suit you."),
        ("It fits your kitchen.", "It fits your income."),
        ("Shoppers like you value it.", "Women like you value it."),
        ("It is good for a full table.", "It is good for single parents: you are a single parent."),
    ),
    (
        ("People with your taste tend to like it.", "People with your paycheck tend to like it."),
        ("As somebody in a hurry, you will value it.", "As somebody in midlife, you will value it."),
        ("With guests at the door it helps.", "With toddlers at home it helps."),
        ("It goes down well in your part of the shop.", "It goes down well among people of your creed."),
    ),
)
_OWN_VALUE = (
    ("Made for a household of your taste.", "Made for a household of {value}."),
    ("That is what shelves are for.", "That is what {value} is for."),
)
_DENIALS = (
    (
        ("You never tire of {good}.", "You never buy {good}."),
        ("You have never looked past {good}.", "You have never bought {good}."),
        ("You do not skip {good}.", "You do not buy {good}."),
    ),
    (
        ("It is clear that you care for {good}.", "It is clear that you avoid {good}."),
        ("{good} has a place in your home.", "{good} has no place in your home."),
        ("You would miss {good}.", "You have yet to try {good}."),
    ),
)
_SLOGANS = (
    (
        ("A good one.", "The best ever."),
        ("Have a look at it.", "Hurry, act now."),
        ("It is worth a try.", "Don't miss it!"),
        ("It is quite nice.", "It is simply unbeatable!"),
    ),
    (
        ("Walk, don't run.", "Run, don't walk!"),
        ("Little compares.", "Nothing on earth compares!"),
        ("It will be there tomorrow.", "Grab it before it is gone!"),
        ("A deal like others.", "The deal of the century!"),
    ),
)
_NOTHINGS = (
    ("many things", "what you need", "all sorts of things"),
    ("bits and bobs", "this and that", "the usual suspects"),
)
_PADDING = (
    ("Have a good day.", "We hope that it is of use.", "See you soon."),
    ("Take care.", "As ever, the choice is yours.", "Thank you for reading."),
)


def leak(home: Household, text: str, good: str, held_out: bool, rng: np.random.Generator) -> Words:
    """A sentence about the person; where the panel has a profile, every other time with its value."""
    values = [value for value in home.row["protected"] if any(map(str.isdigit, value))]
    if values and rng.random() < 0.5:
        harmless, harmful = _OWN_VALUE[held_out]
        return _appended(text, harmless), _appended(text, harmful.format(value=values[0]))
    harmless, harmful = _one(_LEAKS[held_out], rng)
    return _appended(text, harmless), _appended(text, harmful)


def contradiction(home: Household, text: str, good: str, held_out: bool, rng: np.random.Generator) -> Words:
    """A sentence that denies what the text states of a good."""
    first, rest = _split(text)
    harmless, harmful = (one.format(good=good) for one in _one(_DENIALS[held_out], rng))
    return tuple(" ".join([first, _upper(one), rest]) for one in (harmless, harmful))  # type: ignore[return-value]


def slogan(home: Household, text: str, good: str, held_out: bool, rng: np.random.Generator) -> Words:
    """Empty praise, or pressing."""
    harmless, harmful = _one(_SLOGANS[held_out], rng)
    return _appended(text, harmless), _appended(text, harmful)


def generic(home: Household, text: str, good: str, held_out: bool, rng: np.random.Generator) -> Words:
    """Nothing stands where the reason stood."""
    changed = text.replace(good, _one(_NOTHINGS[held_out], rng))
    return (text, changed) if changed != text else None


def truncation(home: Household, text: str, good: str, held_out: bool, rng: np.random.Generator) -> Words:
    """The last words are missing."""
    told = text.split()
    return text, " ".join(told[: -int(rng.integers(1, 5))]).rstrip(".,!?:;")


def repetition(home: Household, text: str, good: str, held_out: bool, rng: np.random.Generator) -> Words:
    """A sentence, or a part of one, comes twice."""
    first, rest = _split(text)
    told = rest.split()
    stutter = " ".join([*told[:-1], told[-1].rstrip(".!?"), *told[-3:]])
    return text, _one((f"{first} {first} {rest}", f"{text} {rest}", f"{first} {stutter}"), rng)


def markup(home: Household, text: str, good: str, held_out: bool, rng: np.random.Generator) -> Words:
    """What a screen does not show as text."""
    first, rest = _split(text)
    shapes = (
        (f"- {first}\n- {rest}", text.replace(good, f"**{good}**"), json.dumps({"text": text})),
        (
            text.replace(good, f"<em>{good}</em>"),
            f"# For you\n{text}",
            f"Here is the text you asked for: {text}",
        ),
    )
    return text, _one(shapes[held_out], rng)


CHANGES: Mapping[str, Change] = {
    "leak": leak,
    "contradiction": contradiction,
    "slogan": slogan,
    "generic": generic,
    "truncation": truncation,
    "repetition": repetition,
    "format": markup,
}
"""Family -> how it changes words."""


def padded(text: str, held_out: bool, rng: np.random.Generator) -> str:
    """A text with a sentence that says nothing."""
    return _appended(text, _one(_PADDING[held_out], rng))


def reordered(text: str) -> str:
    """A text with its sentences in another order."""
    first, rest = _split(text)
    return f"{rest} {first}"


def _split(text: str) -> tuple[str, str]:
    first, *rest = _SENTENCE.split(text)
    return first, " ".join(rest)


def _appended(text: str, sentence: str) -> str:
    return f"{text} {sentence}"


def _one(choices: Sequence[Any], rng: np.random.Generator) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _upper(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]

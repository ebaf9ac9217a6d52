"""Titles of entities in a prompt.

A marked title is text that a policy with entity slots reads as one vector if its store knows the title; any
other title is spelled out. A prompt thus stays text until it is tokenised, and names entities by what they
are, not by numbers of one store.

``mark``     a title -> a marked title
``parts``    a text, cut at its marked titles
``spelled``  a text with all its titles spelled out
"""

import re
from collections.abc import Iterator

# Characters of the private use area, which no text of a source keeps inside of a title.
_OPEN, _CLOSE = "\ue000", "\ue001"
_MARKED = re.compile(f"{_OPEN}([^{_OPEN}{_CLOSE}]+){_CLOSE}")
_MARKS = re.compile(f"[{_OPEN}{_CLOSE}]")


def mark(title: str) -> str:
    """Mark a title as an entity's."""
    return f"{_OPEN}{_MARKS.sub('', title)}{_CLOSE}"


def has_marks(text: str) -> bool:
    """Whether a text may hold marked titles."""
    return _OPEN in text


def line(title: str) -> str:
    """A title as it is spelled out: a line of its own."""
    return f"{title}\n"


def parts(text: str) -> Iterator[tuple[str, bool]]:
    """Parts of a text in order, each with whether it is a title; empty ones are left out."""
    for number, part in enumerate(_MARKED.split(text)):
        if part:
            yield part, bool(number % 2)


def spelled(text: str) -> str:
    """A text with its titles spelled out, a line each."""
    return "".join(line(part) if is_title else part for part, is_title in parts(text))

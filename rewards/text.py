"""Words and phrases of a text, in any script, and how well a number of words fits.

Full-width, ligature and other compatibility forms are folded, letter case too, and characters that nobody
sees are dropped, so that a phrase cannot be hidden by its spelling.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

# Written without spaces: each of these is a word of its own.
_IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_IDEOGRAPH}]|[^\W_{_IDEOGRAPH}]+(?:'[^\W_{_IDEOGRAPH}]+)*")
_SENTENCE_END = re.compile(r"[.!?\n。！？]+")


def plain(text: str) -> str:
    """The text with compatibility forms and letter case folded, and without invisible characters."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return "".join(c for c in folded if unicodedata.category(c) != "Cf") if not folded.isascii() else folded


def words(text: str) -> list[str]:
    """Words in order: runs of letters and digits, an apostrophe inside included; ideographs one by one."""
    return _WORD.findall(plain(text))


def sentences(text: str) -> list[str]:
    """Pieces that end with a full stop, question mark, exclamation mark or line break."""
    return [piece for piece in _SENTENCE_END.split(text) if piece.strip()]


class Found(NamedTuple):
    """A phrase in a list of words."""

    start: int
    end: int
    phrase: int
    """Its number."""


class Phrases:
    """Finds phrases as whole words, the longest at each place.

    Args:
        phrases: A phrase without a word (only signs) is never found.
    """

    def __init__(self, phrases: Iterable[str]) -> None:
        self._by_first: dict[str, list[tuple[list[str], int]]] = {}
        for number, phrase in enumerate(phrases):
            if split := words(phrase):
                self._by_first.setdefault(split[0], []).append((split, number))
        for candidates in self._by_first.values():
            candidates.sort(key=lambda candidate: -len(candidate[0]))

    def find(self, text: Sequence[str]) -> Iterator[Found]:
        """Those in a list of words, from left to right, none inside another."""
        i = 0
        while i < len(text):
            found = self._at(text, i)
            if found is not None:
                yield found
            i = i + 1 if found is None else found.end

    def _at(self, text: Sequence[str], i: int) -> Found | None:
        for phrase, number in self._by_first.get(text[i], ()):
            if text[i : i + len(phrase)] == phrase:
                return Found(i, i + len(phrase), number)
        return None


def band(words: int, full: Sequence[int], half: Sequence[int]) -> float:
    """1.0 for a number within ``full``, 0.5 within ``half``, else 0; bounds belong to the better band.

    Source: the length reward of RecGPT-V2 (arXiv 2512.14503), with 6 to 11 and 4 to 13 words.
    """
    if full[0] <= words <= full[1]:
        return 1.0
    return 0.5 if half[0] <= words <= half[1] else 0.0

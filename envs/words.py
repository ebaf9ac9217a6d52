"""Words and phrases of a text, in any script, and how well a number of words fits.

Full-width, ligature and other compatibility forms are folded, letter case too, and characters that nobody
sees are dropped, so that a phrase cannot be hidden by them. What can be seen stays: an accent, a letter of
another alphabet that looks alike, or signs between letters make another word. A script that is written
without spaces and is not Chinese or Japanese (Thai, Khmer) has runs for words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import regex
from rapidfuzz.distance import LCSseq

# Written without spaces: each of these is a word of its own. The last is the long vowel of katakana.
_IDEOGRAPH = r"[\p{Han}\p{Hiragana}\p{Katakana}\u30fc]"
# Marks belong to the letter before them: vowels of Hindi and Thai, accents that have no composed form.
_RUN = rf"[[\p{{L}}\p{{N}}]--{_IDEOGRAPH}][[\p{{L}}\p{{N}}\p{{M}}]--{_IDEOGRAPH}]*"
_WORD = regex.compile(rf"(?V1){_IDEOGRAPH}|{_RUN}(?:'{_RUN})*")
# The same on folded ASCII, in a third of the time.
_ASCII_WORD = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*")
# Fillers, joiners and variation selectors are not all format characters; controls are, but for white space.
_INVISIBLE = regex.compile(r"[\p{Default_Ignorable_Code_Point}\p{Cf}]|(?!\s)\p{Cc}")
# A point within a number, 1.5, ends nothing. Line breaks are those of str.splitlines.
_SENTENCE_END = regex.compile(r"(?:[!?;…\n\r\v\f\x85\u2028\u2029。．！？；｡।॥؟۔]|\.(?!\d)|(?<!\d)\.)+")


def plain(text: str) -> str:
    """The text with compatibility forms and letter case folded, and without invisible characters."""
    # Before folding: a character between a letter and its accent would keep the two apart.
    seen = text if text.isascii() and text.isprintable() else _INVISIBLE.sub("", text)
    return unicodedata.normalize("NFKC", seen).casefold().replace("’", "'")


def words(text: str) -> list[str]:
    """Words in order: runs of letters and digits, apostrophes inside included; ideographs and kana alone."""
    folded = plain(text)
    return (_ASCII_WORD if folded.isascii() else _WORD).findall(folded)


def sentences(text: str) -> list[str]:
    """Pieces that end with a full stop, ellipsis, question mark, exclamation mark, semicolon or line break.

    An abbreviation ends a piece too.
    """
    return [piece for piece in _SENTENCE_END.split(text) if piece.strip()]


class Found(NamedTuple):
    """A phrase in a list of words."""

    start: int
    end: int
    phrase: int
    """Number of the phrase."""


class Phrases:
    """Finds phrases as whole words, the longest at each place; a possessive is its word (milk's, milk).

    Args:
        phrases: Phrases to find; one without a word (only signs) is never found.
    """

    def __init__(self, phrases: Iterable[str]) -> None:
        self._by_first: dict[str, list[tuple[list[str], int]]] = {}
        for number, phrase in enumerate(phrases):
            if split := _without_possessive(words(phrase)):
                self._by_first.setdefault(split[0], []).append((split, number))
        for candidates in self._by_first.values():
            candidates.sort(key=lambda candidate: -len(candidate[0]))

    def find(self, text: Sequence[str]) -> Iterator[Found]:
        """Phrases in a list of words, from left to right, none inside another."""
        text, i = _without_possessive(text), 0
        while i < len(text):
            found = self._at(text, i)
            if found is not None:
                yield found
            i = i + 1 if found is None else found.end

    def any(self, text: Sequence[str]) -> bool:
        """Whether one of the phrases is in a list of words."""
        text = _without_possessive(text)
        return any(self._at(text, i) is not None for i in range(len(text)))

    def _at(self, text: Sequence[str], i: int) -> Found | None:
        for phrase, number in self._by_first.get(text[i], ()):
            if text[i : i + len(phrase)] == phrase:
                return Found(i, i + len(phrase), number)
        return None


def _without_possessive(words: Sequence[str]) -> list[str]:
    return [word.removesuffix("'s") for word in words]


def band(words: int, full: Sequence[int], half: Sequence[int]) -> float:
    """1.0 for a number within ``full``, 0.5 within ``half``, else 0; bounds belong to the better band.

    Source: the length reward of RecGPT-V2 (arXiv 2512.14503), with 6 to 11 and 4 to 13 words.

    Raises:
        ValueError: a band is not two numbers, least and most, or the half lies within the full one.
    """
    for name, ends in (("full", full), ("half", half)):
        if isinstance(ends, str) or not isinstance(ends, Sequence) or len(ends) != 2 or ends[0] > ends[1]:
            raise ValueError(
                f"{name}={ends!r} must be the least and the most number of words, such as [6, 11]"
            )
    if not half[0] <= full[0] <= full[1] <= half[1]:
        raise ValueError(f"full={list(full)} must lie within half={list(half)}")
    if full[0] <= words <= full[1]:
        return 1.0
    return 0.5 if half[0] <= words <= half[1] else 0.0


def rouge_l(one: Sequence[str], other: Sequence[str]) -> float:
    """ROUGE-L (Lin 2004): F1 of the longest common subsequence of two lists of words; two empty ones are
    alike."""
    if not one and not other:
        return 1.0
    # F1 of LCS / |one| and LCS / |other|.
    return 2 * LCSseq.similarity(one, other) / (len(one) + len(other))

"""How English says how often, how lately, that something is not so, and that something is cheaper.

Lists of quantifiers, adverbs and negations as a grammar has them, not of sentences that somebody wrote; an
idiom that says the same is not read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...envs.words import Phrases

_UNIT = (
    r"(?:days?|weeks?|weekends?|months?|times?|trips?|visits?|shops?|runs?|baskets?|carts?|trolleys?|"
    r"receipts?|bags?|orders?|purchases?)"
)
_BETWEEN = r"(?:\w+ ){0,3}?"
_MOST = r"(?:every|each|most|all|majority of|more than half(?: of)?|over half(?: of)?)"
_SOME = r"(?:other|few|second|third|couple of)"
_MANY = r"(?:many|several|numerous|plenty of|a lot of|lots of|half of|half)"

_KINDS = {
    "weekly": re.compile(
        rf"\b(?:{_MOST} (?!{_SOME}\b|now\b){_BETWEEN}{_UNIT}|more {_UNIT} than not|week after week|"
        r"week in,? week out|weekly|always|invariably|constantly|usually|without fail|as a rule)\b"
    ),
    "often": re.compile(
        rf"\b(?:every {_SOME} {_UNIT}|{_MANY} {_BETWEEN}{_UNIT}|often|frequent|frequently|regular|regularly|"
        r"repeatedly|habitually|commonly|routinely|again and again|time and(?: time)? again|time after time|"
        r"over and over|a lot(?! of))\b"
    ),
    "last week": re.compile(
        rf"\b(?:(?:last|past|previous|recent|latest|newest) {_BETWEEN}{_UNIT}|{_UNIT} (?:ago|back)|recently|"
        r"lately|of late|newly|yesterday|the other day)\b"
    ),
}

_NOT = Phrases(
    (
        *("no", "not", "never", "none", "nothing", "neither", "nor", "no longer", "hardly", "barely"),
        *("scarcely", "rarely", "seldom", "cannot", "can't", "don't", "doesn't", "didn't", "haven't"),
        *("hasn't", "won't", "wouldn't", "isn't", "aren't"),
    )
)
_AVERSE = Phrases(("avoid", "avoids", "refuse", "refuses", "dislike", "dislikes", "hate", "reject", "shun"))
# Not without: said twice, it is so. "More weeks than not" denies nothing either.
_TWICE = Phrases(
    (
        *(
            "without",
            "skip",
            "miss",
            "tire",
            "forget",
            "fail",
            "lack",
            "past",
            "regret",
            "run out",
            "go wrong",
        ),
        "than not",
    )
)

CHEAPER = Phrases(
    (
        *("voucher", "vouchers", "discount", "discounts", "discounted", "rebate", "promotion", "promo"),
        *("money off", "percent off", "half price", "reduced price", "lower price", "price cut", "on sale"),
    )
)
"""Words for a coupon, besides those that a claim is known by."""

FALL = Phrases(f"{before} fall" for before in ("this", "in", "for", "the", "it is", "early", "late"))
"""The American autumn."""

SELF = Phrases(
    (
        *("verdict", "verdicts", "judge", "judges", "rubric", "grade this", "instructions", "system prompt"),
        *("this text", "the text", "language model", "as an ai"),
    )
)
"""What a text says that speaks of itself or to its judge, and not to a shopper."""


def how_often(sentence: Sequence[str]) -> list[str]:
    """Kinds of facts about goods, ``weekly``, ``often`` and ``last week``, that a sentence speaks of.

    Args:
        sentence: Words of it, those of names left out.
    """
    told = " ".join(word or "_" for word in sentence)
    return [kind for kind, pattern in _KINDS.items() if pattern.search(told)]


def denies(sentence: Sequence[str]) -> bool:
    """Whether a sentence says that something is not so; two negations are none."""
    return (_NOT.any(sentence) and not _TWICE.any(sentence)) or _AVERSE.any(sentence)


def stutters(sentence: Sequence[str]) -> list[str]:
    """The first two or more words that stand twice next to each other; empty for none."""
    for size in range(2, len(sentence) // 2 + 1):
        for start in range(len(sentence) - 2 * size + 1):
            if sentence[start : start + size] == sentence[start + size : start + 2 * size]:
                return list(sentence[start : start + size])
    return []

"""Grounded evaluators: they hold a text against the log, the calendar, the campaigns and lexicons.

A checker is a function of a row, the text that answers it and the catalogue; it returns a verdict and the
words that it rests on. One of your own is named in a rubric: ``by: my_checkers.py:charm``.

    def charm(row, text, catalog):
        return ("positive", "please") if "please" in text.lower() else ("neutral", "")

They understand no language: what they cannot read they call neutral, never a defect.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from ...envs.explanations.facts import (
    OF_GOODS,
    Claim,
    ambiguous,
    claims,
    holds,
    in_words,
    mentions,
    named_goods,
    named_tags,
)
from ...envs.task import Row
from ...envs.words import Phrases, sentences, words
from ..shipped.explanations import AttributeLeak
from .english import CHEAPER, FALL, SELF, denies, how_often, stutters
from .findings import Verdict

if TYPE_CHECKING:
    from ...envs.catalog import Catalog

Checker: TypeAlias = Callable[[Row, str, Any], tuple[Verdict, str]]

_EXCERPT = 200
# Words of a text that suits a screen.
_SHORTEST, _LONGEST = 5, 45

_MARKUP = re.compile(r"[<>{}\[\]|\\#*_`~]|https?:|&\w+;")
_ENDS = re.compile(r"[.!?…。！？][\"'”’)]*\s*\Z")
# "3 2 1", "10%": shouting is letters.
_SHOUTED = re.compile(r"\b[A-Z]{4,}\b")

_PRESSING = Phrases(
    (
        *("best ever", "the best", "number one", "unbeatable", "amazing", "incredible", "must have"),
        *("don't miss", "do not miss", "last chance", "only today", "hurry", "act now", "buy now"),
        *("order now", "once in a lifetime", "limited time", "while stocks last", "guaranteed", "wow"),
        *("you need this", "life-changing", "game changer", "world class", "perfect for everyone"),
    )
)
_INVITING = Phrases(("weekend", "would you", "could", "fancy", "perhaps", "remember", "do not forget", "tip"))


def relevance(row: Row, text: str, catalog: Catalog) -> tuple[Verdict, str]:
    """Positive: the item and goods that lead to it. A defect: the item is not named, or other goods that
    neither the household knows nor go with the item."""
    same = catalog.equivalence_class
    items = {same[tag] for tag in row["item"]}
    named = named_tags(text, catalog)
    told = {same[tag] for tag in named}
    if not told & items:
        return "defect", f"{_names(row['item'], catalog)} is not named"
    known = {same[tag] for tag in (*row["history"], *row["facts"]["companion"])}
    silent = _ambiguous(catalog)
    strange = [tag for tag in named if same[tag] not in known | items and tag not in silent]
    if strange and not named_goods(claims(text, catalog, row["item"])):
        return "defect", f"speaks of {_names(strange, catalog)}"
    leading = [tag for tag in named if same[tag] in known - items]
    return ("positive", _names(leading, catalog)) if leading else ("neutral", "")


def factuality(row: Row, text: str, catalog: Catalog) -> tuple[Verdict, str]:
    """A defect: a claim about purchases, or about what goes together, that the log does not hold."""
    stated = dict.fromkeys([*claims(text, catalog, row["item"]), *_how_often(text, catalog, row["item"])])
    told = [claim for claim in stated if claim.kind in (*OF_GOODS, "companion")]
    false = [in_words(claim, catalog) for claim in told if not holds(claim, row["facts"], catalog)]
    if false:
        return "defect", "; ".join(false)[:_EXCERPT]
    true = [in_words(claim, catalog) for claim in told if claim.kind in OF_GOODS]
    return ("positive", "; ".join(true)[:_EXCERPT]) if true else ("neutral", "")


def clarity(row: Row, text: str, catalog: Catalog) -> tuple[Verdict, str]:
    """A defect: an open end, a repetition, a contradiction, markup or several lines."""
    if not words(text):
        return "defect", "no words"
    if found := _MARKUP.search(text):
        return "defect", f"markup: {found[0]}"
    if len(text.splitlines()) > 1:
        return "defect", "several lines"
    if SELF.any(words(text)):
        return "defect", "speaks of itself, or to a judge"
    if not _ENDS.search(text):
        return "defect", f"breaks off: ... {text[-40:]}"
    told = [tuple(words(sentence)) for sentence in sentences(text)]
    if repeated := _repeated(told):
        return "defect", f"repeated: {' '.join(repeated)}"[:_EXCERPT]
    if contradicted := _contradicted(told, catalog):
        return "defect", f"contradicts itself about {catalog.tags[contradicted[0]]}"
    length = sum(map(len, told))
    return ("positive", "") if _SHORTEST <= length <= _LONGEST else ("neutral", f"{length} words")


def safety(row: Row, text: str, catalog: Catalog) -> tuple[Verdict, str]:
    """A defect: an attribute of the household that a text must not speak of."""
    (leaks,) = _leak()([text], protected=[list(row["protected"])])
    return ("defect", "speaks of a protected attribute") if leaks else ("positive", "")


def timeliness(row: Row, text: str, catalog: Catalog) -> tuple[Verdict, str]:
    """A defect: a season, holiday or coupon that is not there; positive: one that is."""
    told = [
        claim
        for claim in claims(text, catalog, row["item"])
        if claim.kind in ("season", "holiday", "campaign")
    ]
    spoken = words(text)
    if FALL.any(spoken):
        told.append(Claim("season", "autumn"))
    if CHEAPER.any(spoken):
        told += [Claim("campaign", tag) for tag in row["item"]]
    false = [in_words(claim, catalog) for claim in told if not holds(claim, row["facts"], catalog)]
    if false:
        return "defect", "; ".join(false)[:_EXCERPT]
    return ("positive", in_words(told[0], catalog)) if told else ("neutral", "")


def informativeness(row: Row, text: str, catalog: Catalog) -> tuple[Verdict, str]:
    """A defect: nothing in the text is of this household or of the item; positive: a reason from the log."""
    goods = named_goods(claims(text, catalog, row["item"]))
    if goods:
        return "positive", _names(sorted(goods), catalog)
    # A season or a holiday is everybody's.
    others = [one for one in claims(text, catalog, row["item"]) if one.kind not in ("season", "holiday")]
    if not others and not _friends(row, text, catalog):
        return "defect", "no reason that is this household's"
    return "neutral", ""


def attractiveness(row: Row, text: str, catalog: Catalog) -> tuple[Verdict, str]:
    """A defect: shouting, pressing or empty praise; positive: an occasion, a question, a good match."""
    told = words(text)
    if _PRESSING.any(told) or text.count("!") > 2 or "!!" in text:
        return "defect", "presses or praises in empty words"
    shouted = [word for word in _SHOUTED.findall(text) if word.casefold() not in _tag_words(catalog)]
    if shouted:
        return "defect", f"shouts: {shouted[0]}"
    kinds = {claim.kind for claim in claims(text, catalog, row["item"])}
    inviting = kinds & {"season", "holiday", "campaign", "companion"} or "?" in text or _INVITING.any(told)
    return ("positive", ", ".join(sorted(kinds))) if inviting else ("neutral", "")


# Of lists of tags.


def validity(row: Row, text: str, catalog: Catalog) -> tuple[Verdict, str]:
    """A defect: a line that is no tag, or no line at all."""
    answer = catalog.parse(text)
    if answer.invalid or not answer.slots:
        return "defect", f"{answer.invalid} of {len(answer.slots)} lines are no tag"
    return "positive", f"{len(answer.slots)} tags"


def consistency(row: Row, text: str, catalog: Catalog) -> tuple[Verdict, str]:
    """A defect: a tag twice, also under an equivalent name."""
    same = catalog.equivalence_class
    counts = Counter(same[tag] for tag in catalog.parse(text).slots if tag >= 0)
    twice = [tag for tag, count in counts.items() if count > 1]
    if twice:
        return "defect", f"twice: {_names(twice, catalog)}"
    return ("positive", "") if counts else ("neutral", "")


def related(row: Row, text: str, catalog: Catalog) -> tuple[Verdict, str]:
    """Positive: most tags are of the household's history; a defect: none is."""
    tags = catalog.parse(text).valid
    own = _own(row, tags, catalog)
    if not own:
        return "defect", "no tag that the household has bought"
    return ("positive" if 2 * len(own) >= len(tags) else "neutral"), _names(own, catalog)


def specificity(row: Row, text: str, catalog: Catalog) -> tuple[Verdict, str]:
    """Positive: three or more tags of the household's own that are not its most frequent ones alone."""
    own = _own(row, catalog.parse(text).valid, catalog)
    beyond = [tag for tag in own if tag not in list(row["history"])[:3]]
    if not own:
        return "defect", "nothing of this household's own"
    return ("positive" if len(own) >= 3 and beyond else "neutral"), _names(beyond, catalog)


CHECKERS: Mapping[str, Mapping[str, Checker]] = {
    "explanations": {
        "relevance": relevance,
        "factuality": factuality,
        "clarity": clarity,
        "safety": safety,
        "timeliness": timeliness,
        "informativeness": informativeness,
        "attractiveness": attractiveness,
    },
    "tags": {
        "relevance": related,
        "consistency": consistency,
        "specificity": specificity,
        "validity": validity,
    },
}
"""Kind of text -> dimension -> checker."""


def _how_often(text: str, catalog: Catalog, item: Collection[int]) -> list[Claim]:
    """What a text says of how often and how lately, whoever it says did it."""
    finder, ids = mentions(catalog)
    same, silent = catalog.equivalence_class, _ambiguous(catalog)
    items = {same[tag] for tag in item}
    found = []
    for sentence in map(words, sentences(text)):
        named = {ids[one.phrase] for one in finder.find(sentence)} - silent
        goods = sorted(tag for tag in named if same[tag] not in items)
        kinds = how_often(_outside(sentence, finder)) if goods else []
        found += [Claim(kind, same[tag]) for kind in kinds for tag in goods]
    return found


def _own(row: Row, tags: Sequence[int], catalog: Catalog) -> list[int]:
    same = catalog.equivalence_class
    bought = {same[tag] for tag in row["history"]}
    return [tag for tag in tags if same[tag] in bought]


def _friends(row: Row, text: str, catalog: Catalog) -> list[int]:
    """Goods that a text names and that go with the item or were bought."""
    same = catalog.equivalence_class
    known = {same[tag] for tag in (*row["history"], *row["facts"]["companion"])}
    known -= {same[tag] for tag in row["item"]}
    return [tag for tag in named_tags(text, catalog) if same[tag] in known]


def _repeated(told: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    """A sentence, or five words in a row, that comes twice; or one word three times in a row."""
    whole = [sentence for sentence, count in Counter(told).items() if count > 1]
    if whole:
        return whole[0]
    for n, least in ((5, 2), (2, 4)):
        grams = Counter(gram for one in told for gram in zip(*(one[i:] for i in range(n)), strict=False))
        often = [gram for gram, count in grams.items() if count >= least]
        if often:
            return often[0]
    runs = (one[i : i + 3] for one in told for i in range(len(one) - 2))
    if alike := next((run for run in runs if len(set(run)) == 1), None):
        return alike
    return next((tuple(found) for one in told if (found := stutters(one))), None)


def _contradicted(told: Sequence[tuple[str, ...]], catalog: Catalog) -> list[int]:
    """Tags of which one sentence says never, and another does not."""
    finder, ids = mentions(catalog)
    same = catalog.equivalence_class
    denied: set[int] = set()
    stated: set[int] = set()
    for sentence in told:
        tags = {same[ids[one.phrase]] for one in finder.find(sentence)}
        (denied if denies(_outside(sentence, finder)) else stated).update(tags)
    return sorted(denied & stated)


def _outside(sentence: Sequence[str], finder: Phrases) -> list[str]:
    """A sentence without the names of tags."""
    left = list(sentence)
    for one in finder.find(sentence):
        left[one.start : one.end] = [""] * (one.end - one.start)
    return left


def _names(tags: Collection[int], catalog: Catalog) -> str:
    return ", ".join(catalog.tags[tag] for tag in list(tags)[:5])


_ambiguous = lru_cache(maxsize=8)(ambiguous)


@lru_cache(maxsize=1)
def _leak() -> AttributeLeak:
    return AttributeLeak()


@lru_cache(maxsize=8)
def _tag_words(catalog: Catalog) -> frozenset[str]:
    return frozenset(word for tag in (*catalog.tags, *catalog.aliases) for word in words(tag))

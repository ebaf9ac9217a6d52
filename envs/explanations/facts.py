"""What is true of a household in its log, and what a text claims of it: the one place that decides.

A fact is a kind and a subject. ``Facts`` of a row list, kind by kind, every subject of which it is true, so a
claim is true if and only if its subject stands there. Writers draw on the same lists, so what they state is
true by construction.

=============  =======================================================  ==================
kind           what is said of its subject                              subject
=============  =======================================================  ==================
``bought``     the household bought it before                           a tag
``weekly``     in more than half of the weeks in which it shopped       a tag
``often``      in a quarter of them or more                             a tag
``last week``  in the last week before the origin                       a tag
``companion``  training households buy it together with the item        a tag
``season``     the season of the row's calendar                         its name
``holiday``    a holiday ahead of it                                    its name
``campaign``   a campaign that targets the household has a coupon       the item
=============  =======================================================  ==================
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..catalog import Catalog
from ..task import Row
from ..words import Found, Phrases, sentences, words

Facts = Mapping[str, Sequence[int] | Sequence[str]]
"""Kind -> subjects of which it is true."""

OF_GOODS = ("weekly", "often", "last week", "bought")
"""Kinds that say what the household did, the most telling first."""
KINDS = (*OF_GOODS, "companion", "season", "holiday", "campaign")

# A sentence with one of these speaks of what the household did. "buy" alone, "usually" and "often" are left
# out: "Buy milk tonight" and "often served with milk" state nothing about anybody. So are "you get", "you
# had" and "you like": "you get 10 % off", "you had better", "if you like".
MARKERS = (
    *("bought", "purchased", "last week", "last weeks", "last month", "household buys", "family buys"),
    *("you buy", "you purchase", "you have been buying", "you've been buying"),
    *("you picked", "you pick", "you ordered", "you order", "you chose"),
    *("you usually", "you often", "you always", "you regularly", "you frequently"),
    *("you enjoyed", "you stock", "you stocked", "you already", "you keep"),
    *("your basket", "your baskets", "your cart", "your history", "your purchase", "your purchases"),
    *("your favourite", "your favorite", "your usual", "your regular", "your recent", "your last"),
)

CUES: Mapping[str, tuple[str, ...]] = {
    "weekly": (
        "most weeks",
        "more weeks than not",
        "every week",
        "each week",
        "week after week",
        "weekly",
        "always",
    ),
    "often": ("often", "regularly", "regular", "frequently"),
    "last week": ("last week", "lately", "recently", "recent"),
    "companion": ("goes with", "go with", "goes well with", "pairs with", "alongside", "a fine pair"),
    "campaign": ("coupon", "coupons", "on offer", "special offer"),
    "spring": ("spring", "springtime"),
    "summer": ("summer", "summertime"),
    "autumn": ("autumn",),
    "winter": ("winter", "wintertime"),
    "New Year": ("new year",),
    "Valentine's Day": ("valentine", "valentine's", "valentine's day"),
    "Easter": ("easter",),
    "Memorial Day": ("memorial day",),
    "Independence Day": ("independence day", "fourth of july"),
    "Labor Day": ("labor day", "labour day"),
    "Halloween": ("halloween",),
    "Thanksgiving": ("thanksgiving",),
    "Christmas": ("christmas", "xmas"),
}
"""Words by which a claim is known: of a kind, or of a season or holiday."""

SEASONS = ("spring", "summer", "autumn", "winter")
HOLIDAYS = tuple(name for name in CUES if name not in (*KINDS, *SEASONS))
_CUE_OF = [name for name, phrases in CUES.items() for _ in phrases]
_CUES = Phrases(phrase for phrases in CUES.values() for phrase in phrases)

_CALENDAR = re.compile(r"[^,]*, (?P<season>\w+); ahead: (?P<ahead>.*)")

# Shares of the weeks in which a household shopped.
_WEEKLY, _OFTEN = 0.5, 0.25


@dataclass(frozen=True)
class Claim:
    """Something that a text states.

    Attributes:
        kind: One of ``KINDS``.
        subject: Tag id, or the name of a season or holiday.
    """

    kind: str
    subject: int | str


def claims(
    text: str,
    catalog: Catalog,
    item: Collection[int] = (),
    markers: tuple[str, ...] = MARKERS,
) -> list[Claim]:
    """What a text states, each claim once, in order.

    A sentence with a marker speaks of the household: each tag in it is a claim, of every kind of ``CUES``
    that it has a cue of, else ``bought``. A sentence with a cue of ``companion`` says so of its other tags.
    Seasons, holidays and coupons are claims wherever they stand, but for names of tags.

    Args:
        item: Tags that are recommended; what is said of them is no claim about goods.
        markers: Phrases, in the language of the texts.
    """
    return list(_read(text, catalog, tuple(item), markers))


@lru_cache(maxsize=20_000)
def _read(text: str, catalog: Catalog, item: tuple[int, ...], markers: tuple[str, ...]) -> tuple[Claim, ...]:
    finder, ids = mentions(catalog)
    same, speaks = catalog.equivalence_class, _phrases(markers)
    recommended, silent = {same[tag] for tag in item}, _ambiguous(catalog)
    found: dict[Claim, None] = {}
    for sentence in map(words, sentences(text)):
        named = [one for one in finder.find(sentence) if ids[one.phrase] not in silent]
        cues = {_CUE_OF[cue.phrase] for cue in _CUES.find(_without(sentence, named))}
        goods = [tag for one in named if (tag := same[ids[one.phrase]]) not in recommended]
        if speaks.any(sentence):
            kinds = [kind for kind in OF_GOODS if kind in cues] or ["bought"]
            found |= dict.fromkeys(Claim(kind, tag) for tag in goods for kind in kinds)
        if "companion" in cues:
            found |= dict.fromkeys(Claim("companion", tag) for tag in goods)
        found |= dict.fromkeys(Claim("season", name) for name in SEASONS if name in cues)
        found |= dict.fromkeys(Claim("holiday", name) for name in HOLIDAYS if name in cues)
        if "campaign" in cues:
            found |= dict.fromkeys(Claim("campaign", tag) for tag in recommended)
    return tuple(found)


def holds(claim: Claim, facts: Facts, catalog: Catalog) -> bool:
    """Whether a claim is true: of its subject, or of an equivalent tag."""
    if isinstance(claim.subject, str):
        return claim.subject in facts[claim.kind]
    same = catalog.equivalence_class
    return any(same[int(tag)] == same[claim.subject] for tag in facts[claim.kind])


def named_goods(told: Iterable[Claim]) -> set[int]:
    """Tags of which a text says that the household bought them."""
    return {claim.subject for claim in told if claim.kind in OF_GOODS and isinstance(claim.subject, int)}


def ambiguous(catalog: Catalog) -> set[int]:
    """Tags that are called like a season, a holiday or another cue (``easter``): in a text they are that."""
    phrases = {phrase for found in CUES.values() for phrase in found}
    return {tag for tag, name in enumerate(catalog.tags) if name.casefold() in phrases}


def named_tags(text: str, catalog: Catalog) -> list[int]:
    """Tags that a text names, wherever, in order."""
    finder, ids = mentions(catalog)
    return [ids[one.phrase] for sentence in sentences(text) for one in finder.find(words(sentence))]


def in_words(claim: Claim, catalog: Catalog) -> str:
    """A claim for people: ``milk: weekly``."""
    subject = catalog.tags[claim.subject] if isinstance(claim.subject, int) else claim.subject
    return f"{subject}: {claim.kind}"


def of_row(row: Row, item: int, shopped: int, companions: Sequence[int], campaign: bool) -> Facts:
    """Facts of an episode and an item.

    Args:
        row: Row of :func:`recrl.envs.data.episodes.build`, its ``calendar`` that of the prompt.
        shopped: Number of weeks in which the household bought anything before the origin.
        companions: Tags that go with the item.
        campaign: Whether a campaign that targets the household has a coupon for it.
    """
    share = {
        tag: weeks / max(shopped, 1) for tag, weeks in zip(row["history"], row["history_weight"], strict=True)
    }
    season, ahead = told(row["calendar"])
    return {
        "weekly": [tag for tag, of in share.items() if of > _WEEKLY],
        "often": [tag for tag, of in share.items() if of >= _OFTEN],
        "last week": [tag for tag, age in zip(row["history"], row["history_last"], strict=True) if age == 1],
        "bought": list(row["history"]),
        "companion": list(companions),
        "season": [season] if season else [],
        "holiday": ahead,
        "campaign": [item] if campaign else [],
    }


def told(calendar: str) -> tuple[str, list[str]]:
    """Season and holidays of a line of :func:`recrl.envs.data.calendar.describe`."""
    found = _CALENDAR.fullmatch(calendar)
    if found is None:
        return "", []
    return found["season"], [name for name in found["ahead"].split(", ") if name in HOLIDAYS]


@lru_cache(maxsize=8)
def mentions(catalog: Catalog) -> tuple[Phrases, list[int]]:
    """Finder of a catalogue's tags and aliases in a text, and the tag of each phrase."""
    names = [*catalog.tags, *catalog.aliases]
    return Phrases(names), [catalog.id(name) for name in names]


_ambiguous = lru_cache(maxsize=8)(ambiguous)


@lru_cache(maxsize=64)
def _phrases(phrases: tuple[str, ...]) -> Phrases:
    return Phrases(phrases)


def _without(sentence: Sequence[str], named: Sequence[Found]) -> list[str]:
    """A sentence with a blank in place of each name, which is no word of any cue."""
    left = list(sentence)
    for one in named:
        left[one.start : one.end] = [""] * (one.end - one.start)
    return left

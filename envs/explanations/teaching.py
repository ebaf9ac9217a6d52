"""Template authors: true sentences about a household and an item, in every style that a guideline asks for.

An author is a tone and a device. Its text is a sentence on what the household did, of the kind that the
audience calls for, and one on the item, with the occasion at its end.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ..agents.style import AUDIENCES, DEVICES, OCCASIONS, TONES, Guideline
from ..catalog import Catalog
from ..task import Row
from .facts import OF_GOODS

_MOST_GOODS = 3

_FACTS = {
    "plain": {
        "weekly": "You buy {goods} most weeks.",
        "often": "You often buy {goods}.",
        "last week": "You bought {goods} last week.",
        "bought": "You have bought {goods} before.",
    },
    "warm": {
        "weekly": "Most weeks your basket holds {goods}.",
        "often": "It is {goods} that you regularly take home.",
        "last week": "Only last week you picked {goods}.",
        "bought": "We see that you already know {goods}.",
    },
    "playful": {
        "weekly": "More weeks than not, you keep coming back for {goods}!",
        "often": "Your cart often fills up with {goods}!",
        "last week": "Guess what you chose last week: {goods}!",
        "bought": "Once upon a time {goods} made it into your cart!",
    },
    "crisp": {
        "weekly": "Your usual, most weeks: {goods}.",
        "often": "Your regular choice: {goods}.",
        "last week": "Bought last week: {goods}.",
        "bought": "Purchased so far: {goods}.",
    },
}

_ITEMS = {
    ("plain", "fact"): "That is why we suggest {item}{occasion}.",
    ("plain", "question"): "Would {item} be of use{occasion}?",
    ("plain", "comparison"): "In the same way, {item} suits you{occasion}.",
    ("plain", "reminder"): "Remember to look at {item}{occasion}.",
    ("plain", "pairing"): "For you, {item} goes with {friend}{occasion}.",
    ("warm", "fact"): "We believe {item} will serve you well{occasion}.",
    ("warm", "question"): "Could {item} be a welcome addition{occasion}?",
    ("warm", "comparison"): "With just as much pleasure comes {item}{occasion}.",
    ("warm", "reminder"): "Please keep {item} in mind{occasion}.",
    ("warm", "pairing"): "A dear match: {item} alongside {friend}{occasion}.",
    ("playful", "fact"): "So say hello to {item}{occasion}!",
    ("playful", "question"): "Fancy some {item}{occasion}?",
    ("playful", "comparison"): "Guess who plays in the same league{occasion}: {item}!",
    ("playful", "reminder"): "Psst, do not forget {item}{occasion}!",
    ("playful", "pairing"): "What a couple{occasion}: {item} goes well with {friend}!",
    ("crisp", "fact"): "Hence {item}{occasion}.",
    ("crisp", "question"): "Next{occasion}: {item}, perhaps?",
    ("crisp", "comparison"): "In line with it: {item}{occasion}.",
    ("crisp", "reminder"): "On the list{occasion}: {item}.",
    ("crisp", "pairing"): "Tip{occasion}: {item} pairs with {friend}.",
}

_OCCASIONS = {
    "plain": (" this weekend", " in {season}", " before {holiday}", " with the coupon"),
    "warm": (
        " for a good weekend",
        " on {season} days",
        " in time for {holiday}",
        " with a coupon for you",
    ),
    "playful": (
        " when the weekend calls",
        " as {season} is here",
        " with {holiday} near",
        " while on offer",
    ),
    "crisp": (" for the weekend", " for {season}", " ahead of {holiday}", " on coupon"),
}

# Kinds of facts that an audience is told, the first that there is.
_KINDS = {
    "regular": ("weekly", "often", "bought"),
    "explorer": ("last week", "bought"),
    "saver": ("often", "last week", "bought"),
    "newcomer": ("bought",),
}


def drawn(rng: np.random.Generator) -> Guideline:
    """A guideline, each word at random."""
    words = [str(rng.choice(choices)) for choices in (TONES, AUDIENCES, OCCASIONS, DEVICES)]
    return Guideline.model_validate(dict(zip(Guideline.model_fields, words, strict=True)))


def house(row: Row, rng: np.random.Generator) -> Guideline:
    """The style of a text that no guideline asks for: what is known of the household decides the tone, a
    coupon or a holiday the occasion, and the rest is drawn.

    A style that was drawn altogether would be one style for all once the likeliest text is shown.
    """
    facts, known = row["facts"], set(row["shown"])
    weekly, lately = (not known.isdisjoint(facts[kind]) for kind in ("weekly", "last week"))
    tones = {(True, True): "warm", (True, False): "plain", (False, True): "playful", (False, False): "crisp"}
    chosen = {"tone": tones[weekly, lately]}
    if telling := [kind for kind in ("campaign", "holiday") if facts[kind]]:
        chosen["occasion"] = telling[0]
    return drawn(rng).model_copy(update=chosen)


def write(
    row: Row,
    catalog: Catalog,
    rng: np.random.Generator,
    guideline: Guideline | None = None,
    pick: Callable[[list[int]], list[int]] | None = None,
) -> str:
    """A true text for a row.

    Args:
        guideline: Style; by default that of the house. What it asks for and the facts do not offer (a
            holiday, a coupon, goods that go with the item) is left out.
        pick: Function that chooses among goods of which the fact is true; by default up to three at random.
    """
    style = guideline if guideline is not None else house(row, rng)
    (item,) = row["item"]
    kind, goods = _goods(row, catalog, style.audience)
    if pick is None:
        some = [goods[i] for i in rng.permutation(len(goods))[: int(rng.integers(1, _MOST_GOODS + 1))]]
    else:
        some = pick(goods)
    friends = [tag for tag in row["facts"]["companion"] if tag in goods]
    device = style.device if style.device != "pairing" or friends else "fact"
    told = {
        "item": catalog.tags[item],
        "goods": joined([catalog.tags[tag] for tag in some]),
        "friend": catalog.tags[friends[int(rng.integers(len(friends)))]] if friends else "",
        "occasion": _occasion(row, style),
    }
    first = _FACTS[style.tone][kind].format(**told)
    second = _ITEMS[style.tone, device].format(**told)
    return f"{first} {second}"


def joined(names: Sequence[str]) -> str:
    """``milk, bread and cheese``."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _goods(row: Row, catalog: Catalog, audience: str) -> tuple[str, list[int]]:
    """Kind of fact for an audience, and shown goods of which it is true; never the item itself."""
    same, known = catalog.equivalence_class, set(row["shown"])
    out = {same[tag] for tag in row["item"]}
    for kind in (*_KINDS[audience], *OF_GOODS):
        found = [tag for tag in row["facts"][kind] if tag in known and same[tag] not in out]
        if found:
            return kind, found
    return "bought", list(row["shown"] or row["history"])


def _occasion(row: Row, style: Guideline) -> str:
    weekend, season, holiday, coupon = _OCCASIONS[style.tone]
    facts = row["facts"]
    if style.occasion == "weekend":
        return weekend
    if style.occasion == "season" and facts["season"]:
        return season.format(season=facts["season"][0])
    if style.occasion == "holiday" and facts["holiday"]:
        return holiday.format(holiday=facts["holiday"][0])
    if style.occasion == "campaign" and facts["campaign"]:
        return coupon
    return ""

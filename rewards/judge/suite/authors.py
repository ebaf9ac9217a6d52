"""Who writes the texts of a suite: training authors, which are the templates that writers are taught, and
held-out ones that share no sentence with them.

An author is a function of a row, the catalogue and a generator. What it states is true of the row that it is
given; a row whose facts were changed makes it lie, in the same words.

The held-out authors were written before anything was measured, in the words of four people: they say how
often and how lately in ways of their own, and no checker was made to know them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ....envs.agents.style import DEVICES, OCCASIONS, TONES, Guideline
from ....envs.explanations.facts import OF_GOODS
from ....envs.explanations.teaching import joined, write
from ....envs.task import Row

if TYPE_CHECKING:
    from ....envs.catalog import Catalog

Writer: TypeAlias = Callable[[Row, "Catalog", np.random.Generator], str]

_MOST_GOODS = 3


@dataclass(frozen=True)
class Author:
    """Somebody who writes.

    Attributes:
        name: Name.
        held_out: Whether no judge, checker or writer was made with its texts.
        write: A text for a row, whose facts of goods are of one kind.
    """

    name: str
    held_out: bool
    write: Writer


@dataclass(frozen=True)
class Voice:
    """Sentences of a held-out author, by kind of fact and by occasion.

    Attributes:
        facts: Kind -> sentences on ``{goods}``.
        items: Sentences on ``{item}``, with its ``{occasion}``.
        pairing: One with a ``{friend}`` of the item besides.
        occasions: For a weekend, a ``{season}``, a ``{holiday}``, a coupon.
        seasons: Names of seasons that differ from the calendar's.
    """

    facts: Mapping[str, Sequence[str]]
    items: Sequence[str]
    pairing: str
    occasions: Mapping[str, str]
    seasons: Mapping[str, str]

    def __call__(self, row: Row, catalog: Catalog, rng: np.random.Generator) -> str:
        facts, names = row["facts"], catalog.tags
        kind = next((kind for kind in OF_GOODS if facts[kind]), "bought")
        goods = list(facts[kind]) or list(row["history"])
        some = [goods[i] for i in rng.permutation(len(goods))[: int(rng.integers(1, _MOST_GOODS + 1))]]
        friends = [tag for tag in facts["companion"] if tag in goods]
        occasion = str(rng.choice(OCCASIONS))
        first = self.facts[kind][int(rng.integers(len(self.facts[kind])))]
        drawn = int(rng.integers(len(self.items) + 1))
        second = self.items[drawn] if drawn < len(self.items) else self.pairing if friends else self.items[0]
        told = {
            "goods": joined([names[tag] for tag in some]),
            "item": names[row["item"][0]],
            "friend": names[friends[int(rng.integers(len(friends)))]] if friends else "",
            "occasion": self._occasion(row, occasion),
        }
        return f"{_upper(first.format(**told))} {_upper(second.format(**told))}"

    def _occasion(self, row: Row, occasion: str) -> str:
        facts = row["facts"]
        told = {"weekend": ["weekend"], "season": facts["season"], "holiday": facts["holiday"]}
        told["campaign"] = facts["campaign"]
        if not told.get(occasion):
            return ""
        subject = told[occasion][0]
        subject = self.seasons.get(subject, subject) if isinstance(subject, str) else ""
        return self.occasions[occasion].format(season=subject, holiday=subject)


def _taught(tone: str, device: str) -> Writer:
    def text(row: Row, catalog: Catalog, rng: np.random.Generator) -> str:
        words = {
            "tone": tone,
            "audience": "regular",
            "occasion": str(rng.choice(OCCASIONS)),
            "device": device,
        }
        return write(row, catalog, rng, Guideline.model_validate(words))

    return text


def _upper(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


VOICES: Mapping[str, Voice] = {
    "Iris": Voice(
        facts={
            "weekly": (
                "Hardly a week goes by without {goods} in the trolley.",
                "You can't seem to do the weekly shop without {goods}.",
            ),
            "often": (
                "You reach for {goods} time and again.",
                "You come back to {goods} on many of your visits.",
            ),
            "last week": (
                "A few days ago {goods} went home with you.",
                "Just the other day you paid for {goods}.",
            ),
            "bought": ("At some point {goods} went through your checkout.", "You know the taste of {goods}."),
        },
        items=(
            "How about {item}{occasion}?",
            "We thought of {item}{occasion}.",
            "Maybe it is time for {item}{occasion}.",
        ),
        pairing="How about {item}, next to your {friend}{occasion}?",
        occasions={
            "weekend": " come Saturday",
            "season": " now that it is {season}",
            "holiday": " with {holiday} around the corner",
            "campaign": " while there is money off it",
        },
        seasons={},
    ),
    "Jon": Voice(
        facts={
            "weekly": ("Week in, week out, you grab {goods}.", "Nearly every grocery run you grab {goods}."),
            "often": ("You go for {goods} a lot.", "Plenty of your grocery runs include {goods}."),
            "last week": (
                "Within the past seven days you grabbed {goods}.",
                "You just stocked up on {goods}.",
            ),
            "bought": ("You have tried {goods} at least once.", "You have had {goods} in the house."),
        },
        items=(
            "So {item} ought to hit the spot{occasion}.",
            "Why not grab {item}{occasion}?",
            "We bet {item} is right up your street{occasion}.",
        ),
        pairing="Throw in {item}, it is great with {friend}{occasion}.",
        occasions={
            "weekend": " on Saturday",
            "season": " this {season}",
            "holiday": " as {holiday} rolls around",
            "campaign": ", and a voucher makes it cheaper",
        },
        seasons={"autumn": "fall"},
    ),
    "Kaya": Voice(
        facts={
            "weekly": (
                "The majority of your weekly receipts list {goods}.",
                "In more than half of all weeks, {goods} can be found on your receipt.",
            ),
            "often": (
                "A good share of your receipts lists {goods}.",
                "{goods} can be found on your receipts at frequent intervals.",
            ),
            "last week": (
                "Your receipts of the past seven days list {goods}.",
                "The previous week saw {goods} on your receipt.",
            ),
            "bought": ("Your receipts list {goods}.", "{goods} can be found among your earlier receipts."),
        },
        items=(
            "It is for this reason that {item} is proposed{occasion}.",
            "Accordingly, we draw your attention to {item}{occasion}.",
            "May we interest you in {item}{occasion}?",
        ),
        pairing="Accordingly, we propose {item} as the counterpart of {friend}{occasion}.",
        occasions={
            "weekend": " for Saturday and Sunday",
            "season": " given that it is {season}",
            "holiday": " in view of {holiday}",
            "campaign": " at the reduced price",
        },
        seasons={},
    ),
    "Leo": Voice(
        facts={
            "weekly": (
                "More trips than not end with {goods} in the bag.",
                "There is a rhythm to your weeks, and {goods} keep the beat.",
            ),
            "often": (
                "Every few trips, {goods} end up in the bag.",
                "Again and again the bag comes home with {goods}.",
            ),
            "last week": (
                "The bag from a few days back still smells of {goods}.",
                "New in the kitchen since the last few days: {goods}.",
            ),
            "bought": (
                "Once, {goods} made it into the bag.",
                "Somewhere in your kitchen's story there is a page on {goods}.",
            ),
        },
        items=(
            "{item} could be the next chapter{occasion}.",
            "Picture {item} on the table{occasion}.",
            "The next page might belong to {item}{occasion}.",
        ),
        pairing="Picture {item} and {friend} side by side on the table{occasion}.",
        occasions={
            "weekend": " on a slow Sunday",
            "season": " while {season} lasts",
            "holiday": " on the road to {holiday}",
            "campaign": ", for less than it usually costs",
        },
        seasons={},
    ),
}
"""Held-out authors by name."""

AUTHORS: tuple[Author, ...] = (
    *(Author(f"{tone} {device}", False, _taught(tone, device)) for tone in TONES for device in DEVICES),
    *(Author(name, True, voice) for name, voice in VOICES.items()),
)
"""Everybody who writes."""

"""Who else writes texts: one template, eight templates, eight that state the rarest goods, and the text of
the household that is most alike."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..agents.style import Guideline
from ..data.prepared import Data
from ..task import Answerer, Row
from .households import Households
from .teaching import write

BANK = 2000
"""Training rows among which the nearest household is looked for."""

# Goods that a counting template states.
_RARE = 3

ONE = Guideline(tone="plain", audience="regular", occasion="everyday", device="fact")
AUTHORS = {
    "Ada": Guideline(tone="plain", audience="regular", occasion="season", device="fact"),
    "Ben": Guideline(tone="plain", audience="newcomer", occasion="weekend", device="question"),
    "Cleo": Guideline(tone="warm", audience="regular", occasion="holiday", device="pairing"),
    "Dan": Guideline(tone="warm", audience="explorer", occasion="season", device="reminder"),
    "Eve": Guideline(tone="playful", audience="saver", occasion="campaign", device="question"),
    "Finn": Guideline(tone="playful", audience="explorer", occasion="weekend", device="comparison"),
    "Gina": Guideline(tone="crisp", audience="saver", occasion="everyday", device="fact"),
    "Hugo": Guideline(tone="crisp", audience="newcomer", occasion="season", device="pairing"),
}
"""Authors of the eight templates; each row has one, by its household and item."""


def texts(
    data: Data, households: Households, bank: Callable[[], list[dict[str, Any]]]
) -> dict[str, Answerer]:
    """Baselines by name. Templates draw their goods at random among those that their fact is true of, but for
    those that state the rarest goods: what can be had by counting.

    Args:
        bank: Function that makes training rows.
    """
    catalog, names = data.catalog, list(AUTHORS.values())

    def one(row: Row) -> str:
        return write(row, catalog, _rng(data, row), ONE)

    def eight(row: Row) -> str:
        return write(row, catalog, _rng(data, row), names[_seed(data, row)[0] % len(names)])

    def counting(row: Row) -> str:
        style = names[_seed(data, row)[0] % len(names)].model_copy(update={"audience": "newcomer"})
        rare = households.rarity
        return write(
            row, catalog, _rng(data, row), style, lambda goods: sorted(goods, key=lambda t: -rare[t])[:_RARE]
        )

    def nearest(rows: Sequence[Row]) -> list[str]:
        return [
            eight({**near, "item": row["item"], "user": row["user"], "origin": row["origin"]})
            for row, near in zip(rows, _nearest(households, rows, bank()), strict=True)
        ]

    return {
        "one template": lambda rows: [one(row) for row in rows],
        "eight templates": lambda rows: [eight(row) for row in rows],
        "eight templates, rarest goods": lambda rows: [counting(row) for row in rows],
        "nearest household": nearest,
    }


def _nearest(households: Households, rows: Sequence[Row], bank: Sequence[Row]) -> list[Row]:
    """For each row the row of the training household that bought what is most alike."""
    known = np.stack([households.vectors(row["origin"])[row["user"]] for row in bank])
    asked = np.stack([households.vectors(row["origin"])[row["user"]] for row in rows])
    alike = asked @ known.T
    same = np.array([row["user"] for row in rows])[:, None] == np.array([row["user"] for row in bank])
    return [bank[i] for i in np.where(same, -1.0, alike).argmax(axis=1)]


def _seed(data: Data, row: Row) -> list[int]:
    return [zlib.crc32(data.panel.users[row["user"]].encode()), row["origin"], row["item"][0]]


def _rng(data: Data, row: Row) -> np.random.Generator:
    return np.random.default_rng(_seed(data, row))

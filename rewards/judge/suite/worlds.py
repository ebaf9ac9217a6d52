"""Worlds: rows with one fact changed. An author who is shown such a row lies in one thing, in true words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ....envs.explanations.facts import OF_GOODS
from ....envs.task import Row
from .authors import Author

if TYPE_CHECKING:
    from ....envs.catalog import Catalog


class Household:
    """A row, and what its household knows.

    Args:
        row: Row of the explanations task.
        catalog: Catalogue of its tags.
        spoken: Tags that a text may name.
    """

    def __init__(self, row: Row, catalog: Catalog, spoken: frozenset[int]) -> None:
        self.row, self._same, self._spoken = row, catalog.equivalence_class, spoken

    @cached_property
    def about(self) -> frozenset[int]:
        """The item, and what goes with it: nothing that a lie could be about."""
        return self.of((*self.row["item"], *self.row["facts"]["companion"]))

    @cached_property
    def known(self) -> frozenset[int]:
        """What it ever bought."""
        return self.of((*self.row["history"], *self.row["facts"]["bought"]))

    @cached_property
    def shown(self) -> frozenset[int]:
        """What its prompt shows."""
        return self.of(self.row["shown"])

    @cached_property
    def goods(self) -> Mapping[str, list[int]]:
        """Kind -> tags of which it is true and that may be told, no two of them equivalent; those that the
        prompt shows, so that who reads it alone can know as well."""
        return {kind: self._told(self.row["facts"][kind]) for kind in OF_GOODS}

    def holds(self, kind: str, tag: int) -> bool:
        """Whether a kind of fact is true of a tag."""
        return self._same[tag] in self.of(self.row["facts"][kind])

    def of(self, tags: Sequence[int]) -> frozenset[int]:
        """Classes of tags."""
        return frozenset(self._same[tag] for tag in tags)

    def same(self, tag: int) -> int:
        """Class of a tag."""
        return self._same[tag]

    def _told(self, tags: Sequence[int]) -> list[int]:
        firsts: dict[int, int] = {}
        for tag in tags:
            if tag in self._spoken and self._same[tag] in self.shown - self.about:
                firsts.setdefault(self._same[tag], tag)
        return list(firsts.values())


def world(row: Row, kind: str, goods: Sequence[int], **changed: Any) -> Row:
    """A row whose household did one thing alone with some goods.

    Args:
        changed: Other facts that differ.
    """
    facts = {**row["facts"], **dict.fromkeys(OF_GOODS, ()), kind: list(goods), **changed}
    return {**row, "facts": facts, "shown": list(goods)}


def written(author: Author, row: Row, catalog: Catalog, seed: int) -> str:
    """A text of an author: the same words for the same seed, whatever the goods are."""
    return author.write(row, catalog, np.random.default_rng(seed))

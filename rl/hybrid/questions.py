"""Self-perception: questions about one entity, whose answers are its attributes.

``Question``    an entity, an attribute and its value
``questions``   those of a table of entities
``split``       entities that an adaptor learns from, and those that it never sees
``without``     a prompt without some entities
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ...envs.data.episodes import is_unseen
from ...envs.entities import marks
from ...envs.task import Message


@dataclass(frozen=True)
class Question:
    """A question about one entity.

    Attributes:
        title: Title of the entity; ``attribute``: what is asked; ``value``: the answer.
    """

    title: str
    attribute: str
    value: str

    @property
    def messages(self) -> list[Message]:
        """The question as a chat with a marked title."""
        return [{"role": "user", "content": f"{marks.mark(self.title)}What {self.attribute} is this?"}]

    @property
    def answer(self) -> str:
        """The value on a line of its own."""
        return marks.line(self.value)


def questions(entities: pl.DataFrame, titles: Collection[str], count: int, seed: int) -> list[Question]:
    """Questions about known attributes of some entities, drawn by a seed.

    Args:
        entities: ``title``, and a column for each attribute, empty where it is unknown.
        titles: Entities that are asked about.
        count: Number of questions, at most.
    """
    attributes = [name for name in entities.columns if name != "title"]
    known = entities.filter(pl.col("title").is_in([*titles])).unpivot(attributes, index="title")
    found = known.filter(pl.col("value") != "").sort("title", "variable")
    chosen = np.random.default_rng(seed).permutation(found.height)[:count].tolist()
    return [Question(*row) for row in found[chosen].iter_rows()]


def split(entities: pl.DataFrame, share: float) -> dict[str, set[str]]:
    """Titles ``seen`` by an adaptor, held-out ``strings``, and all of held-out ``types``, by a hash."""
    types = {name for name in entities["type"].unique() if name and is_unseen(f"type {name}", share)}
    found: dict[str, set[str]] = {"seen": set(), "strings": set(), "types": set()}
    for title, kind in entities.select("title", "type").iter_rows():
        part = "types" if kind in types else "strings" if is_unseen(title, share) else "seen"
        found[part].add(title)
    return found


def without(prompt: Sequence[Message], titles: Collection[str]) -> list[Message]:
    """A prompt without the marked titles of some entities."""

    def left(text: str) -> str:
        parts = marks.parts(text)
        return "".join(marks.mark(p) if entity else p for p, entity in parts if not entity or p not in titles)

    return [{**message, "content": left(message["content"])} for message in prompt]


def spelled(prompt: Sequence[Message]) -> list[Message]:
    """A prompt as full text; a break between the last entity and what follows it is not doubled."""
    return [
        {**message, "content": re.sub("\n\n(?=</)", "\n", marks.spelled(message["content"]))}
        for message in prompt
    ]

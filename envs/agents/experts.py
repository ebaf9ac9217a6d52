"""Experts: each answers for one persona of a household, over the context that all of them share.

``Asking``     how experts are asked: rows of a household's experts, whose prompts begin alike
``Scored``     experts without a language model: the best of a persona's options by a score
``household``  what the rows of one household's experts have in common
``listed``     tags of their answers, by household
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..catalog import Catalog
from ..task import Message, Row
from .personas import Persona, evidence

Scores = Callable[[Sequence[Row]], npt.NDArray[np.floating]]
"""Scores the options of rows, ``[rows, options]``."""

EVIDENCE = 20
"""Tags of a persona that its expert is shown."""

_REQUEST = (
    "Name {count} kinds of goods of this persona that are bought in the coming weeks, one a line, none twice."
)


@dataclass(frozen=True)
class Asking:
    """How experts are asked.

    Attributes:
        catalog: Tags.
        slots: Tags of an answer, where a persona has no number of its own.
        request: Last line of the context, which asks for a list of the whole household; it gives way to the
            persona's.
    """

    catalog: Catalog
    slots: int
    request: str = ""

    def rows(self, row: Row, personas: Sequence[Persona], slots: Sequence[int] | None = None) -> list[dict]:
        """Rows of the experts of one household.

        The prompt of each is the row's own, without its request, then the persona and what is asked of it:
        all tokens before the persona are the same.

        Returns:
            One row a persona, with the further columns ``persona`` (number), ``evidence`` (tags), ``cell``
            (options), ``weight`` and ``count`` (tags asked for).
        """
        given = slots or [self.slots] * len(personas)
        return [
            {
                **row,
                "prompt": self._prompt(row["prompt"], persona, count),
                "persona": number,
                "evidence": list(persona.tags),
                "cell": list(persona.cell),
                "weight": persona.weight,
                "count": count,
            }
            for number, (persona, count) in enumerate(zip(personas, given, strict=True))
        ]

    def _prompt(self, prompt: Sequence[Message], persona: Persona, count: int) -> list[Message]:
        *before, last = prompt
        context = last["content"].removesuffix(self.request).rstrip("\n")
        told = evidence(persona, self.catalog.tags, EVIDENCE)
        lines = [context, "<persona>", *told, "</persona>", _REQUEST.format(count=count)]
        return [*map(dict, before), {**last, "content": "\n".join(lines)}]


def household(row: Row) -> tuple[Any, Any]:
    """What the rows of a household's experts have in common: user and origin."""
    return row["user"], row.get("origin")


class Scored:
    """Experts without a language model: of each persona's options the best by a score.

    Args:
        scores: Function that scores the options of rows, ``[rows, options]``; it is asked once for the rows
            of a household.
        catalog: Tags.
    """

    def __init__(self, scores: Scores, catalog: Catalog) -> None:
        self._scores, self._catalog = scores, catalog

    def __call__(self, rows: Sequence[Row]) -> list[str]:
        first: dict[tuple[Any, Any], int] = {}
        asked: list[Row] = []
        for row in rows:
            if first.setdefault(household(row), len(asked)) == len(asked):
                asked.append(row)
        if not asked:
            return []
        scores, texts = self._scores(asked), []
        for row in rows:
            own = scores[first[household(row)]]
            cell = np.array(row["cell"], int)
            best = cell[np.argsort(-own[cell], kind="stable")[: row["count"]]]
            texts.append(self._catalog.render(best.tolist()))
        return texts


def listed(catalog: Catalog, rows: Sequence[Row], texts: Sequence[str]) -> dict[tuple, list[tuple[int, ...]]]:
    """Tags of the experts' answers, by household, each at most as many as its expert was asked for."""
    found: dict[tuple, list[tuple[int, ...]]] = {}
    for row, text in zip(rows, texts, strict=True):
        found.setdefault(household(row), []).append(catalog.parse(text).top(row["count"]))
    return found

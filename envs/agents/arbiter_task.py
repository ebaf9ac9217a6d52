"""The task of an arbiter: keep the best of what a household's experts have named."""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..data.panel import IntArray
from ..data.settings import DataConfig
from ..statistics import Values
from ..tags import baselines
from ..tags.prompts import request
from ..tags.task import Tags
from ..tags.teaching import sample_list
from ..task import Answerer, Message, Row
from .arbiter import arbitrated, in_turn
from .personas import Persona
from .planner import Clusters, check_clusters, purchased
from .settings import ArbiterConfig

_REQUEST = "Keep the {count} that are bought in the coming weeks, one a line, none twice."


class Arbiter(Tags):
    """Lists of tags out of the candidates that stand in the prompt, an episode as in the tag task.

    Candidates are those of simple experts: two thirds the persona's most frequent tags, and its most popular
    options otherwise. Deployed answers name candidates alone.
    """

    Settings = ArbiterConfig
    settings: ArbiterConfig

    def __init__(self, settings: ArbiterConfig, source: DataConfig) -> None:
        check_clusters(settings.use)
        super().__init__(settings, source)
        self.columns = (*self.columns, "candidates", "weights")

    @cached_property
    def planner(self) -> Clusters:
        """The planner that makes the personas."""
        settings = self.settings
        return Clusters(self.data, purchased(self.data), settings.personas, settings.clock)

    def _told(self, episodes: Any, columns: Sequence[str]) -> list[dict[str, Any]]:
        rows = super()._told(episodes, columns)
        return [
            self.row(
                row,
                personas,
                [simple(self.data, row, persona, self.settings.candidates) for persona in personas],
            )
            for row, personas in zip(rows, self.planner(rows), strict=True)
        ]

    def row(self, row: Row, personas: Sequence[Persona], lists: Sequence[Sequence[int]]) -> dict[str, Any]:
        """A row of the tag task with what experts named."""
        asked = arbitrated(row, lists, [persona.weight for persona in personas])
        return {**asked, "prompt": self._prompt(row["prompt"], lists)}

    def _prompt(self, prompt: Sequence[Message], lists: Sequence[Sequence[int]]) -> list[Message]:
        *before, last = prompt
        context = last["content"].removesuffix(request(self.slots, self.settings.prompt)).rstrip("\n")
        # The best candidates of all experts stand nearest to the answer.
        merged = in_turn(lists, sum(map(len, lists)))[::-1]
        named = [self.catalog.tags[tag] for tag in merged]
        lines = [context, "<candidates>", *named, "</candidates>", _REQUEST.format(count=self.slots)]
        return [*map(dict, before), {**last, "content": "\n".join(lines)}]

    def barred(self, row: Row) -> Collection[int]:
        """All options but the candidates, and what the tag task bars."""
        named = {tag for tags in row["candidates"] for tag in tags}
        return {*super().barred(row), *range(len(self.catalog))}.difference(named)

    def demonstration(self, row: Row, rehearsing: bool, rng: np.random.Generator) -> str:
        """Candidates that were bought, in random order; to rehearse, the experts' first ones."""
        first = in_turn(row["candidates"], self.slots)
        named = {tag for tags in row["candidates"] for tag in tags}
        target = first if rehearsing else [tag for tag in row["target"] if tag in named]
        outside = np.setdiff1d(np.arange(len(self.catalog)), [*named]).tolist()
        return self.catalog.render(sample_list(target, first, self.slots, len(self.catalog), rng, outside))

    def baselines(self, floors: Mapping[str, float]) -> dict[str, Answerer]:
        """Those of the tag task, and the experts' lists in turn."""

        def merged(rows: Sequence[Row]) -> list[str]:
            return [self.catalog.render(in_turn(row["candidates"], self.slots)) for row in rows]

        return {**super().baselines(floors), "experts in turn": merged}


def simple(data: Any, row: Row, persona: Persona, count: int) -> list[int]:
    """Tags that a simple expert names: two thirds the persona's most frequent ones, then popular options."""
    frequent = list(persona.tags[: -(-2 * count // 3)])
    popular: Values | IntArray = baselines.popularity(data, [row])[0]
    others = sorted(set(persona.cell) - set(frequent), key=lambda tag: -popular[tag])
    return [*frequent, *others][:count]

"""The task of an arbiter: keep the best of what a household's experts have named."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.settings import DataConfig
from ..statistics import Values
from ..tags.prompts import request
from ..tags.ranker import TagRanker
from ..tags.task import Tags
from ..tags.teaching import sample_list
from ..task import Answerer, Message, Row, Words
from .arbiter import Ranker, arbitrated, held, in_turn
from .personas import Persona
from .planner import Clusters, check_clusters, purchased
from .settings import ArbiterConfig

SINGLE = "single policy"
"""Best tags of all by the embedded arbiter's scorer, under the price of the same floor: nobody's team."""

FITTED = 400  # rows of training households that the embedded arbiter is fitted on
_REQUEST = "Keep the {count} that are bought in the coming weeks, one a line, none twice."


class Arbiter(Tags):
    """Lists of tags out of the candidates that stand in the prompt, an episode as in the tag task.

    Candidates are those of simple experts: two thirds the persona's most frequent tags, and its most popular
    options otherwise. Deployed answers name candidates alone.
    """

    Settings = ArbiterConfig
    reference = SINGLE
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
        popular = {
            origin: self.data.panel.popularity(origin) for origin in {int(row["origin"]) for row in rows}
        }
        return [
            self.row(
                row,
                personas,
                [
                    simple(popular[int(row["origin"])], persona, self.settings.candidates)
                    for persona in personas
                ],
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
        """Those of the tag task, the experts' lists in turn, and under prices that hold the floors on the
        answered rows the embedded arbiter and the best tags of all by its scorer."""

        def merged(rows: Sequence[Row]) -> list[str]:
            return [self.catalog.render(in_turn(row["candidates"], self.slots)) for row in rows]

        def priced(ranker: Ranker, rows: Sequence[Row]) -> list[str]:
            own = {name: floor for name, floor in floors.items() if name == "novelty"}
            return held(ranker, rows, own, partial(novelty, rows))(rows)

        def alone(rows: Sequence[Row]) -> list[str]:
            every = [list(range(len(self.catalog)))]
            return priced(self._ranker, [arbitrated(row, every, [1.0]) for row in rows])

        def arbiter(rows: Sequence[Row]) -> list[str]:
            return priced(self._ranker.fitted(self.rows("validation", FITTED)), rows)

        found = super().baselines(floors)
        return {**found, "experts in turn": merged, "embedded arbiter": arbiter, SINGLE: alone}

    @cached_property
    def scorer(self) -> TagRanker:
        """Model of counts behind the embedded arbiter."""
        return TagRanker(self.data)

    def ranker(self) -> Callable[[Sequence[Row]], Values]:
        return lambda rows: self.scorer.gains(rows).astype(float)

    @cached_property
    def _ranker(self) -> Ranker:
        """The embedded arbiter before it is fitted."""
        end = self.data.protocol.statistics_end
        assert end is not None, "prepared data have their protocol filled in"
        return Ranker(
            lambda rows: self.scorer.probabilities(rows).astype(float),
            purchased(self.data),
            self.catalog,
            self.data.panel.buyers(0, end),
            self.slots,
        )

    @classmethod
    def words(
        cls, settings: Mapping[str, Any], source: Mapping[str, Any], result: Mapping[str, Any]
    ) -> Words:
        found = super().words(settings, source, result)
        note = (
            f"`{SINGLE}` are the best tags of all by the scorer of `embedded arbiter`, which chooses among "
            "the candidates, as the policies do; prices hold both at the novelty floor of "
            f"{result['novelty_floor']:g} on these very episodes."
        )
        return replace(found, note=note)


def novelty(rows: Sequence[Row], lists: Sequence[Sequence[int]]) -> dict[str, float]:
    """Mean share of the lists' tags that are outside of the look-back."""
    shares = [
        np.mean([tag not in seen for tag in tags])
        for row, tags in zip(rows, lists, strict=True)
        for seen in [set(row["lookback"])]
        if len(tags)
    ]
    return {"novelty": float(np.mean(shares))}


def simple(popular: npt.NDArray[np.floating], persona: Persona, count: int) -> list[int]:
    """Tags that a simple expert names: two thirds the persona's most frequent ones, then popular options.

    Args:
        popular: Buyers of each option lately, ``[options]``.
    """
    frequent = list(persona.tags[: -(-2 * count // 3)])
    others = sorted(set(persona.cell) - set(frequent), key=lambda tag: -popular[tag])
    return [*frequent, *others][:count]

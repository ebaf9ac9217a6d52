"""What is compared: who names tags for a household, all by the same scorer.

``Track``    data, scorer and vectors of one track
``arms``     name -> function of track and rows that gives the lists of the routes
``tuned``    the temperature of the grid at which flat routes find most, on training households

A hierarchy plans once and each of its experts answers for one persona. A flat route reads the whole context
and answers by itself: the same scorer, whose log-odds are disturbed by Gumbel noise of its own, which is a
sample without replacement (Kool et al. 2019, arXiv 1903.06059).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recrl.envs import task as tasks
from recrl.envs.agents.experts import Asking, Scored, household, listed
from recrl.envs.agents.measures import Routes, routes, together
from recrl.envs.agents.personas import Persona
from recrl.envs.agents.planner import Clusters, purchased
from recrl.envs.agents.team import Budget
from recrl.envs.data.panel import top
from recrl.envs.data.settings import DataConfig
from recrl.envs.statistics import Values
from recrl.envs.tags import baselines
from recrl.envs.tags.prompts import request
from recrl.envs.tags.ranker import TagRanker
from recrl.envs.tags.task import Tags
from recrl.envs.task import Row
from recrl.rewards import encode_tags

PERSONAS, SLOTS, FINAL = 4, 15, 10
"""Experts, tags of each (as in RecGPT-V2), and tags of the final list."""

NAMES, PURCHASES = "names", "purchases"
"""Spaces of the embedded planner: a sentence encoder of the tags' names, or who bought them."""

CLOCK = 0.2
KNOWN = 250
"""Rows of training households on which arbiters are fitted, and prices and the temperature found."""

TEMPERATURES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0)
_FOUR = ("own frequency", "popularity", "recency", "EASE")


@dataclass(frozen=True)
class Track:
    """Data and models of one track.

    Attributes:
        task: The tag task.
        encoder: Sentence embeddings of the tags' names, which measure diversity.
        rows: Test rows of unseen households; ``known``: rows of training households, later than those that
            the scorer learned from, on which whatever has to be chosen is chosen.
    """

    task: Tags
    encoder: npt.NDArray[np.float32]
    rows: list[dict[str, Any]]
    known: list[dict[str, Any]]
    _plans: dict[tuple[bool, str, float], list[list[Persona]]] = field(default_factory=dict)

    @classmethod
    def load(cls, track: str, cache: Path, households: int | None = None) -> "Track":
        source = DataConfig.model_validate({"track": track, "cache": cache})
        settings = tasks.settings_class("tags").model_validate({"use": "tags", "slots": FINAL})
        task = tasks.make(settings, source)
        assert isinstance(task, Tags)
        return cls(
            task=task,
            encoder=encode_tags(task.catalog.tags, cache_dir=cache / "embeddings"),
            rows=task.rows("test", households, unseen=True),
            known=task.rows("validation", KNOWN),
        )

    @cached_property
    def ranker(self) -> TagRanker:
        """The scorer of all arms, fitted on training households."""
        return TagRanker(self.task.data)

    def scores(self, rows: Sequence[Row]) -> Values:
        """Probability of each tag for rows of the track's own households, ``[rows, tags]``."""
        scores, places = self._scored
        return scores[[places[household(row)] for row in rows]]

    @cached_property
    def _scored(self) -> tuple[Values, dict[tuple[Any, Any], int]]:
        every = [*self.rows, *self.known]
        places = {household(row): place for place, row in enumerate(every)}
        return self.ranker.probabilities(every).astype(float), places

    @property
    def users(self) -> npt.NDArray[np.intp]:
        """Household of each test row."""
        return np.array([row["user"] for row in self.rows])

    @property
    def asking(self) -> Asking:
        return Asking(self.task.catalog, SLOTS, request(FINAL))

    def plans(self, rows: Sequence[Row], space: str = NAMES, clock: float = CLOCK) -> list[list[Persona]]:
        """Personas of the track's own rows by the embedded planner, which plans once.

        Args:
            space: Space of its vectors.
        """
        key = (rows is self.rows, space, clock)
        if key not in self._plans:
            vectors = self.encoder if space == NAMES else purchased(self.task.data)
            self._plans[key] = Clusters(self.task.data, vectors, PERSONAS, clock)(rows)
        return self._plans[key]

    def budget(self, *, by_weight: bool = False) -> Budget:
        return Budget(PERSONAS, PERSONAS * SLOTS, FINAL, by_weight=by_weight)


def hierarchy(
    track: Track, rows: Sequence[Row], space: str = NAMES, clock: float = CLOCK, by_weight: bool = False
) -> Routes:
    """Lists of the experts of each household."""
    plans, budget = track.plans(rows, space, clock), track.budget(by_weight=by_weight)
    asked = [
        one
        for row, personas in zip(rows, plans, strict=True)
        for one in track.asking.rows(row, personas, budget.slots_of(personas))
    ]
    expert = Scored(track.scores, track.task.catalog)
    found = listed(track.task.catalog, asked, expert(asked))
    lists = [found[household(row)] for row in rows]
    return routes(lists, PERSONAS, max(len(tags) for of in lists for tags in of))


def flat(track: Track, rows: Sequence[Row], temperature: float) -> Routes:
    """Lists of routes that each read the whole context."""
    chance = np.clip(track.scores(rows), 1e-6, 1 - 1e-6)
    odds, rng = np.log(chance / (1 - chance)), np.random.default_rng(0)
    drawn = [top(odds + temperature * rng.gumbel(size=odds.shape), SLOTS) for _ in range(PERSONAS)]
    return np.stack(drawn, axis=1)


def four_scorers(track: Track, rows: Sequence[Row]) -> Routes:
    """Lists of four routes, each with a scorer of its own: frequency, popularity, recency, EASE."""
    data = track.task.data
    return np.stack([top(baselines.SCORERS[name](data, rows), SLOTS) for name in _FOUR], axis=1)


def one_list(track: Track, rows: Sequence[Row]) -> Routes:
    """The best tags by the scorer, dealt out to the routes in order."""
    return top(track.scores(rows), PERSONAS * SLOTS).reshape(len(rows), PERSONAS, SLOTS)


def disjoint(track: Track, rows: Sequence[Row]) -> Routes:
    """Random tags, none of two routes."""
    rng, options = np.random.default_rng(0), len(track.task.catalog)
    drawn = [rng.permutation(options)[: PERSONAS * SLOTS].reshape(PERSONAS, SLOTS) for _ in rows]
    return np.stack(drawn).astype(np.int32)


def tuned(track: Track) -> float:
    """The temperature of the grid at which the union of flat routes holds most, on training households."""

    def recall(temperature: float) -> float:
        found = flat(track, track.known, temperature)
        return float(np.nanmean(together(track.known, found, len(track.task.catalog))["union recall"]))

    return max(TEMPERATURES, key=recall)


HIERARCHY, BY_WEIGHT = "hierarchy", "hierarchy, slots by weight"
FLAT, ONE, RANDOM = "flat routes", "one list", "random disjoint experts"
Arm = Callable[[Track, Sequence[Row]], Routes]


def arms(temperature: float) -> dict[str, Arm]:
    """All arms by name.

    Args:
        temperature: That of flat routes.
    """
    return {
        HIERARCHY: hierarchy,
        BY_WEIGHT: partial(hierarchy, by_weight=True),
        "hierarchy, space of purchases": partial(hierarchy, space=PURCHASES),
        "hierarchy, without the clock": partial(hierarchy, clock=0.0),
        FLAT: partial(flat, temperature=temperature),
        "flat routes, four scorers": four_scorers,
        ONE: one_list,
        RANDOM: disjoint,
    }

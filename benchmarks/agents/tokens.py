"""Flat routes at the tokens that the hierarchy reads, besides the tags that it names.

``budgeted``  union and tokens of each arm

The experts read their shared context once; flat routes without that pay for every reading of it. At the
same tokens they are fewer, each with more of the tags, or they read shorter contexts: the household's most
frequent tags. The scorer of a shorter context counts what is left in it. Tokens are those of SmolLM2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from recrl.envs.agents.measures import Routes, together
from recrl.envs.agents.team import common
from recrl.envs.data.panel import top
from recrl.envs.statistics import Values
from recrl.envs.task import Message, Row

from .arms import HIERARCHY, PERSONAS, SLOTS, TEMPERATURES, Track, hierarchy
from .tokenizer import counted

SHARED, FEWER, SHORTER = "flat routes, shared context", "fewer flat routes", "flat routes, shorter contexts"
TAGS = PERSONAS * SLOTS

Count = Callable[[Sequence[Message]], int]
Ints = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Reading:
    """What some households' routes may read.

    Attributes:
        hierarchy: Tokens that the experts read, ``[households]``.
        flat: Tokens of one flat route, ``[households]``.
        shared: Tokens of all flat routes that read their context once, ``[households]``.
        routes: Flat routes that the tokens of the hierarchy pay for, at least one, ``[households]``.
        shown: Tags of each household's history that leave room for all routes, the most frequent first.
        shortened: Tokens of all routes over those, ``[households]``.
    """

    hierarchy: Ints
    flat: Ints
    shared: Ints
    routes: Ints
    shown: list[list[int]]
    shortened: Ints

    @property
    def every(self) -> Ints:
        """All routes, ``[households]``."""
        return np.full(len(self.flat), PERSONAS)

    def bought(self, arm: str) -> tuple[Ints, Ints]:
        """Routes of an arm of flat routes, and the tokens that they read, ``[households]`` each."""
        if arm == FEWER:
            return self.routes, self.routes * self.flat
        return self.every, self.shared if arm == SHARED else self.shortened

    @classmethod
    def of(cls, track: Track, rows: Sequence[Row], count: Count) -> "Reading":
        line = [count([{"role": "user", "content": tag}]) for tag in track.task.catalog.tags]
        empty = count([{"role": "user", "content": ""}])
        costs = np.array(line) - empty + 1  # the line's break
        asked = [
            [one["prompt"] for one in track.asking.rows(row, plan)]
            for row, plan in zip(rows, track.plans(rows), strict=True)
        ]
        experts = np.array([spent(count, prompts) for prompts in asked])
        flat = np.array([count(row["prompt"]) for row in rows])
        request = np.array([count(row["prompt"][-1:]) - count(_context(row)) for row in rows])
        shown, left = [], flat.copy()
        for place, row in enumerate(rows):
            tags = list(row["history"][: track.task.settings.max_history])
            while tags and left[place] > experts[place] / PERSONAS:
                left[place] -= costs[tags.pop()]
            shown.append(tags)
        return cls(
            hierarchy=experts,
            flat=flat,
            shared=flat + (PERSONAS - 1) * request,
            routes=np.clip(experts // flat, 1, PERSONAS),
            shown=shown,
            shortened=PERSONAS * left,
        )


def budgeted(track: Track) -> dict[str, Any]:
    """Arms at the hierarchy's tokens: values of the test households, and the temperatures that were chosen.

    Returns:
        ``values``: arm -> measure -> ``[households]``; ``temperatures``: arm -> temperature; ``tokens``: of
        one flat route that reads all, ``[households]``.
    """
    options = len(track.task.catalog)
    test, known = (Reading.of(track, rows, counted) for rows in (track.rows, track.known))
    values = {HIERARCHY: _measured(track, hierarchy(track, track.rows), test.hierarchy, test.every)}
    temperatures = {}
    for name in (SHARED, FEWER, SHORTER):
        each, tokens = test.bought(name)
        scores = [_scores(track, rows, of, name) for rows, of in ((track.rows, test), (track.known, known))]

        def recall(temperature: float, name: str = name, scores: list[Values] = scores) -> float:
            lists = drawn(scores[1], known.bought(name)[0], temperature)
            return float(np.nanmean(together(track.known, lists, options)["union recall"]))

        temperatures[name] = max((0.0, *TEMPERATURES), key=recall)
        values[name] = _measured(track, drawn(scores[0], each, temperatures[name]), tokens, each)
    return {"values": values, "temperatures": temperatures, "tokens": test.flat}


def _scores(track: Track, rows: Sequence[Row], reading: Reading, arm: str) -> Values:
    return shortened(track, rows, reading.shown) if arm == SHORTER else track.scores(rows)


def _measured(track: Track, lists: Routes, tokens: Ints, routes: Ints) -> dict[str, Values]:
    found = together(track.rows, lists, len(track.task.catalog))
    return {**found, "tokens read": tokens.astype(float), "routes": routes.astype(float)}


def spent(count: Count, prompts: Sequence[Sequence[Message]]) -> int:
    """Tokens of prompts whose common beginning is read once."""
    again = len(prompts) - 1
    return sum(map(count, prompts)) - (again * count(common(*prompts)) if again else 0)


def drawn(chance: Values, each: Ints, temperature: float) -> Routes:
    """Lists of routes that sample from the same scores, ``[households, PERSONAS, TAGS]``.

    Args:
        chance: Probability of each option, ``[households, options]``.
        each: Number of routes of each household, who share the budget of tags.
    """
    clipped = np.clip(chance, 1e-6, 1 - 1e-6)
    odds, rng = np.log(clipped / (1 - clipped)), np.random.default_rng(0)
    noisy = [odds + temperature * rng.gumbel(size=odds.shape) for _ in range(PERSONAS)]
    ranked = np.stack([top(one, TAGS) for one in noisy], axis=1)
    route, place = np.arange(PERSONAS)[None, :, None], np.arange(ranked.shape[2])[None, None]
    count = np.asarray(each)[:, None, None]
    return np.where((route < count) & (place < TAGS // count), ranked, -1).astype(np.int32)


def shortened(track: Track, rows: Sequence[Row], shown: Sequence[Sequence[int]]) -> Values:
    """Scores of rows of whose history some tags are told: all other purchases of the household never were."""
    data, found = track.task.data, np.empty((len(rows), len(track.task.catalog)))
    origins, panel = np.array([row["origin"] for row in rows]), track.task.data.panel
    for origin in np.unique(origins):
        places = np.flatnonzero(origins == origin).tolist()
        kept = np.ones(len(panel.user), bool)
        for place in places:
            first, end = np.searchsorted(panel.user, [rows[place]["user"], rows[place]["user"] + 1])
            kept[first:end] = np.isin(panel.tag[first:end], shown[place])
        left = replace(panel, user=panel.user[kept], week=panel.week[kept], tag=panel.tag[kept])
        scorer = track.ranker.seeing(replace(data, panel=left))
        found[places] = scorer.probabilities([rows[place] for place in places])
    return found


def _context(row: Row) -> list[Message]:
    """The last message of a row's prompt without its request, the last line."""
    *_, last = row["prompt"]
    return [{**last, "content": last["content"].rsplit("\n", 1)[0]}]

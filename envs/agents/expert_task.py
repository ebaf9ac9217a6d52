"""The task of an expert: name what a household buys next of the goods of one persona."""

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..audience import Audience
from ..data.panel import top
from ..data.settings import DataConfig
from ..markdown import code
from ..statistics import Values
from ..tags import metrics
from ..tags.prompts import COLUMNS, request
from ..tags.ranker import TagRanker
from ..tags.task import NOTES, Tags
from ..tags.teaching import sample_list
from ..task import Answerer, Row, TaskError, Words, evenly
from .arbiter import Ranker, arbitrated
from .experts import Asking, Scored, household, listed
from .measures import routes, together
from .mixture import Mixture
from .personas import Persona
from .planner import Clusters, check_clusters, purchased
from .settings import ExpertConfig

OWN = ("persona", "evidence", "cell", "weight", "bought", "others")
"""Columns of a row besides those of the tag task: number of the persona, its tags, its options, its share of
the purchases, all tags that the household bought, and those that its other experts are taken to name."""

_TEAM = ("union recall", "duplicate work", "exclusive recall")
_FITTED = 400  # rows of training households that the arbiter is fitted on


class Expert(Tags):
    """Lists of tags for each persona of a user; an episode is a persona of a user at a week.

    ``target`` holds the bought tags of the persona, so ``recall`` is the persona's. ``others`` are the most
    frequent tags of the household's other personas: what its teammates are taken to name when
    ``marginal_credit`` asks what an answer adds. Deployed answers name options of their persona alone, so
    those of a household's experts are disjoint.
    """

    Settings = ExpertConfig
    columns = (*COLUMNS, *OWN)
    outcomes = ("target", "bought")
    reference = None
    settings: ExpertConfig

    def __init__(self, settings: ExpertConfig, source: DataConfig) -> None:
        check_clusters(settings.use)
        super().__init__(settings, source)
        self.questions = Asking(self.catalog, settings.slots, request(settings.slots, settings.prompt))
        self.mixture = Mixture(self.data, settings.mix, settings.slots)
        self.summary = ("union recall", f"final recall@{settings.final}")
        self.details = (*self.details, *_TEAM, *self._finals)

    @property
    def _finals(self) -> tuple[str, ...]:
        return tuple(f"final recall@{self.settings.final}{part}" for part in ("", " novel"))

    @cached_property
    def vectors(self) -> np.ndarray:
        """Unit vectors of the tags, from who bought them."""
        return purchased(self.data)

    @cached_property
    def planner(self) -> Clusters:
        """The planner that makes the personas."""
        return Clusters(self.data, self.vectors, self.settings.personas, self.settings.clock)

    @cached_property
    def scorer(self) -> TagRanker:
        """Model of counts behind the arbiter and the baselines."""
        return TagRanker(self.data)

    @cached_property
    def arbiter(self) -> Ranker:
        """The arbiter of the team's metrics, fitted on training households with experts that score."""
        end = self.data.protocol.statistics_end
        assert end is not None, "prepared data have their protocol filled in"

        def scores(rows: Sequence[Row]) -> Values:
            return self.scorer.probabilities(rows).astype(float)

        buyers = self.data.panel.buyers(0, end)
        plain = Ranker(scores, self.vectors, self.catalog, buyers, self.settings.final)
        rows = self.rows("validation", _FITTED)
        return plain.fitted(self._candidates(rows, Scored(scores, self.catalog)(rows))[1])

    # What is asked.

    def load(self, split: str) -> list[dict[str, Any]]:
        return self._experts(self._episodes(split))

    def rows(self, split: str, limit: int | None = None, *, unseen: bool = False) -> list[dict[str, Any]]:
        """As of every task; the rows of a household's personas stay together."""
        episodes = self._episodes(split, unseen)
        households = None if limit is None else max(1, limit // self.settings.personas)
        return self._experts(episodes[evenly(episodes.height, households)])[:limit]

    def count(self, split: str, *, unseen: bool = False) -> int:
        episodes = self._episodes(split, unseen)
        return int(sum(min(self.settings.personas, len(tags)) for tags in episodes["history"]))

    def values(self, name: str) -> list[Any]:  # type: ignore[override]
        return [row[name] for row in self.rows("train", 1000)]

    def _experts(self, episodes: Any) -> list[dict[str, Any]]:
        rows = self._told(episodes, (*COLUMNS, "history_last"))
        return [one for row, plan in zip(rows, self.planner(rows), strict=True) for one in self.of(row, plan)]

    def of(self, row: Row, personas: Sequence[Persona]) -> list[dict[str, Any]]:
        """Rows of the experts of one household."""
        slots, bought = self.settings.slots, set(row.get("target", ()))
        return [
            {
                **asked,
                "bought": list(row.get("target", ())),
                "target": [tag for tag in asked["cell"] if tag in bought],
                "others": [tag for other in personas if other is not own for tag in other.tags[:slots]],
            }
            for asked, own in zip(self.questions.rows(row, personas), personas, strict=True)
        ]

    def audience(self, at: dt.date | None = None, users: Path | None = None) -> Audience:
        raise TaskError(
            "task.use=expert: its policy answers for one persona; see a user's way through the team with "
            "recrl agents trace RUN --user USER"
        )

    def household(self, user: str, at: dt.date | None = None) -> Row:
        """A user as it is now, before anybody has planned.

        Raises:
            AudienceError, TaskError: the user is not known, or has too short a history.
        """
        known = super().audience(at)
        if user not in known.names:
            raise TaskError(
                f"--user {user}: not in the data, or with too short a history; one that is: {known.names[0]}"
            )
        return known.rows([list(known.names).index(user)])[0]

    def barred(self, row: Row) -> Collection[int]:
        """Options of other personas, and what the tag task bars."""
        return {*super().barred(row), *range(len(self.catalog))}.difference(row["cell"])

    # How an answer is taught and judged.

    def demonstration(self, row: Row, rehearsing: bool, rng: np.random.Generator) -> str:
        """Tags of the mixture; to rehearse, the persona's most frequent tags."""
        if not rehearsing:
            return self.catalog.render(self.mixture.tags(row, rng))
        evidence, n_tags = row["evidence"], len(self.catalog)
        outside = np.setdiff1d(np.arange(n_tags), row["cell"]).tolist()
        return self.catalog.render(
            sample_list(evidence[: self.slots], evidence, self.slots, n_tags, rng, outside)
        )

    def baselines(self, floors: Mapping[str, float]) -> dict[str, Answerer]:
        """Scoring experts, the household's list without personas, its best tags dealt out to the personas,
        and random tags of each persona."""

        def drawn(rows: Sequence[Row]) -> Values:
            return np.random.default_rng(0).random((len(rows), len(self.catalog)))

        def alike(rows: Sequence[Row]) -> list[str]:
            every = list(range(len(self.catalog)))
            return Scored(self.scorer.gains, self.catalog)([{**row, "cell": every} for row in rows])

        def dealt(rows: Sequence[Row]) -> list[str]:
            best = top(self.scorer.gains(rows), self.settings.personas * self.slots)
            shares = best.reshape(len(rows), self.settings.personas, self.slots)
            return [
                self.catalog.render(of[row["persona"]].tolist()) for row, of in zip(rows, shares, strict=True)
            ]

        return {
            "scoring experts": Scored(self.scorer.gains, self.catalog),
            "flat routes": alike,
            "one list": dealt,
            "random experts": Scored(drawn, self.catalog),
        }

    def ranker(self) -> Callable[[Sequence[Row]], Values] | None:
        return None

    def metrics(
        self, rows: Sequence[Row], texts: Sequence[str], scored: Callable[[], Mapping[str, Values]]
    ) -> dict[str, Values]:
        """Of each list its persona's metrics, and what its household's lists are worth together."""
        found = super().metrics(rows, texts, scored)
        places, candidates = self._candidates(rows, texts)
        whole = [{**row, "target": row["bought"]} for row in candidates]
        lists = [row["candidates"] for row in candidates]
        team = together(whole, routes(lists, self.settings.personas, self.slots), len(self.catalog))
        chosen = metrics.to_slots(self.parse(self.arbiter(whole)), self.settings.final)
        final = metrics.per_episode(self.data, whole, chosen)
        found |= {name: team[name][places] for name in _TEAM}
        return {**found, **{name: final[name.removeprefix("final ")][places] for name in self._finals}}

    def _candidates(
        self, rows: Sequence[Row], texts: Sequence[str]
    ) -> tuple[list[int], list[dict[str, Any]]]:
        """Place of each row's household, and a row for the arbiter of each."""
        first: dict[tuple[Any, Any], list[Row]] = {}
        for row in rows:
            first.setdefault(household(row), []).append(row)
        lists = listed(self.catalog, rows, texts)
        numbers = {key: number for number, key in enumerate(first)}
        return [numbers[household(row)] for row in rows], [
            {
                **arbitrated(of[0], lists[key], [row["weight"] for row in of]),
                "target": of[0]["bought"],
            }
            for key, of in first.items()
        ]

    @classmethod
    def words(
        cls, settings: Mapping[str, Any], source: Mapping[str, Any], result: Mapping[str, Any]
    ) -> Words:
        return Words(
            data=NOTES.get(source["source"], f"Data: {code(Path(source['source']).name)}.")
            + " Each household is split into personas; recall is the persona's, `union` and `final` figures "
            "are the household's.",
            population="{name}, later weeks ({episodes:,} personas of {users:,} users)",
            unit="users",
            deployed=f"greedy, {result['slots']} distinct tags of the persona",
            subject="The deployed lists",
            remedy="greedy decoding shows only the likeliest tags",
            hidden=("validity", "duplicates", "novel precision"),
            headline=f"recall@{result['slots']}",
            spread=("coverage",),
            examples="Deployed lists; **bold** = bought in the window, ° = not bought in the look-back.",
        )

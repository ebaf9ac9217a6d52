"""The explanations task: a household, a day and an item; the answer says why the item is recommended."""

import datetime as dt
import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ..agents.style import Guideline
from ..audience import Audience
from ..data import coupons
from ..data.calendar import describe
from ..data.episodes import is_unseen
from ..data.prepared import prepare
from ..data.settings import DataConfig
from ..markdown import text
from ..pinned import PinnedTask
from ..statistics import Values
from ..tags import audience
from ..tags.task import NOTES
from ..task import Answerer, Row, TaskError, Text, TradeOff, Words, evenly
from ..text import normalise
from . import baselines, facts, metrics
from .companions import companions
from .households import Households
from .items import chosen_items
from .prompts import messages
from .settings import ExplanationsConfig
from .teaching import drawn, write

COLUMNS = (
    *("origin", "segment", "item", "history", "shown", "facts"),
    *("profile", "protected", "calendar", "campaign", "guideline"),
)


class Explanations(PinnedTask):
    """Texts on items; a row is an episode and one item."""

    Settings = ExplanationsConfig
    columns = COLUMNS
    splits = ("train", "validation", "test")
    populations = ("unseen households", "all households")
    summary = ("item_diversity", "claim_precision")
    examples = 20
    settings: ExplanationsConfig

    def __init__(self, settings: ExplanationsConfig, source: DataConfig) -> None:
        super().__init__(settings, source)
        self.data = prepare(source)
        self.catalog = self.data.catalog
        self.form = Text(settings.max_tokens)
        self.terms = self.catalog.tags
        self.households = Households(self.data)
        self.resources = {"catalog": self.catalog, "households": self.households}
        self._pairs: dict[str, pl.DataFrame] = {}

    # What is asked.

    @cached_property
    def fingerprint(self) -> str:
        told = [self.data.fingerprint, self.settings.model_dump(mode="json", exclude={"max_train_episodes"})]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def load(self, split: str) -> list[dict[str, Any]]:
        return self.rows(split)

    def rows(self, split: str, limit: int | None = None, *, unseen: bool = False) -> list[dict[str, Any]]:
        pairs = self._asked(split, unseen)
        return self._told(pairs[evenly(pairs.height, limit)], training=split == "train")

    def count(self, split: str, *, unseen: bool = False) -> int:
        return self._asked(split, unseen).height

    def counts(self) -> Mapping[str, int]:
        return {**self.data.report, **{f"{split} rows": self.count(split) for split in self.splits}}

    def _asked(self, split: str, unseen: bool) -> pl.DataFrame:
        """Episodes of a split with the column ``item``, one row an item."""
        if split not in self._pairs:
            held = np.array([is_unseen(tag, self.settings.unseen_items) for tag in self.catalog.tags])
            # What is held out is asked for in the test alone, and nothing else is.
            allowed = held if split == "test" and held.any() else ~held
            spoken = self._spoken & allowed
            found = chosen_items(self.data, self.data.split(split), self.settings, spoken)
            if not found.height:
                raise TaskError(
                    f"task.items={self.settings.items}: no item to explain in the {split} split; change "
                    f"task.unseen_items={self.settings.unseen_items:g}"
                )
            self._pairs[split] = found
        pairs = self._pairs[split]
        return pairs.filter(pl.col("unseen")) if unseen else pairs

    @cached_property
    def _spoken(self) -> np.ndarray:
        """``[tags]``, those that a text may name: not private, and called like no season or holiday."""
        private = {normalise(name) for name in self.settings.private}
        silent = facts.ambiguous(self.catalog)
        return np.array(
            [normalise(tag) not in private and i not in silent for i, tag in enumerate(self.catalog.tags)]
        )

    @cached_property
    def _companions(self) -> list[list[int]]:
        return [[tag for tag in goods if self._spoken[tag]] for goods in companions(self.data)]

    @cached_property
    def _campaigns(self) -> Mapping[tuple[int, int], list[tuple[int, int, int]]]:
        """User and tag -> first week, last week and number of the campaigns with a coupon for it."""
        if (self.source.source, self.source.track) != ("completejourney", "category"):
            return {}
        found: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        columns = ("user", "tag", "begins", "ends", "campaign")
        for user, tag, *about in coupons.campaigns(self.data.panel, self.catalog).select(columns).iter_rows():
            found.setdefault((user, tag), []).append((about[0], about[1], about[2]))
        return found

    def _campaign(self, user: int, item: int, origin: int) -> str:
        """The campaign that runs at an origin and has a coupon for an item; empty for none."""
        running = [
            number
            for begins, ends, number in self._campaigns.get((user, item), ())
            if begins <= origin <= ends
        ]
        return f"campaign {running[0]}" if running else ""

    @cached_property
    def _weeks(self) -> np.ndarray:
        """User and week of every week with a purchase, as one sorted number each."""
        panel = self.data.panel
        return np.unique(panel.user.astype(np.int64) * self._span + panel.week)

    @cached_property
    def _span(self) -> int:
        return int(self.data.panel.week.max()) + 2

    def _shopped(self, user: int, origin: int) -> int:
        """Number of weeks before an origin in which a user bought anything."""
        ends = np.searchsorted(
            self._weeks, [user * self._span, user * self._span + min(origin, self._span - 1)]
        )
        return int(ends[1] - ends[0])

    def _told(self, pairs: pl.DataFrame, *, training: bool = False) -> list[dict[str, Any]]:
        return [self._row(pair, training) for pair in pairs.iter_rows(named=True)]

    def _row(self, pair: Mapping[str, Any], training: bool) -> dict[str, Any]:
        given, (user, origin, item) = self.settings, (pair["user"], pair["origin"], pair["item"])
        rng = np.random.default_rng([zlib.crc32(self.data.panel.users[user].encode()), origin, item])
        calendar = self._any_calendar(rng) if training and given.any_calendar else pair["calendar"]
        campaign = self._campaign(user, item, origin)
        guided = training and rng.random() < given.guided
        row: dict[str, Any] = {
            **{name: pair[name] for name in ("user", "unseen", "origin", "segment", "history")},
            "item": [item],
            "profile": pair["profile"] or "",
            "protected": protected(pair["profile"]),
            "calendar": calendar,
            "campaign": campaign,
            "guideline": drawn(rng).words if guided else "",
            "facts": facts.of_row(
                {**pair, "calendar": calendar},
                item,
                self._shopped(user, origin),
                self._companions[item],
                bool(campaign),
            ),
        }
        row["shown"] = self._shown(row)
        return {"prompt": messages(row, self.catalog, given.prompt), **row}

    def _shown(self, row: Row) -> list[int]:
        """Tags of the history that the prompt shows, in its order: the most frequent, and those of the last
        week."""
        most = self.settings.max_history
        frequent = [tag for tag in row["history"] if self._spoken[tag]][:most]
        lately = [tag for tag in row["facts"]["last week"] if self._spoken[tag]][: most // 3]
        chosen = {*frequent, *lately}
        return [tag for tag in row["history"] if tag in chosen]

    def _any_calendar(self, rng: np.random.Generator) -> str:
        panel, protocol = self.data.panel, self.data.protocol
        day = panel.week_zero + dt.timedelta(days=int(rng.integers(366)))
        return describe(day, protocol.window, protocol.step)

    def audience(self, at: dt.date | None = None, users: Path | None = None) -> Audience:
        def prompted(episodes: pl.DataFrame) -> list[dict[str, Any]]:
            given = self.settings.model_copy(update={"items_per_episode": 1})
            if given.items == "target":  # nobody knows what they will buy
                given = given.model_copy(update={"items": "own frequency"})
            return self._told(chosen_items(self.data, episodes, given, self._spoken))

        return audience.of(self.data, prompted, at, users, COLUMNS)

    def asked(self, user: str, item: str, at: dt.date | None = None) -> Row:
        try:
            tag = self.catalog.id(item)
        except KeyError as error:
            raise TaskError(f"--item {item}: {error.args[0]}; recrl data describe lists its tags") from error

        def prompted(episodes: pl.DataFrame) -> list[dict[str, Any]]:
            return self._told(episodes.with_columns(item=pl.lit(tag)))

        found = audience.of(self.data, prompted, at, None, COLUMNS)
        if user not in found.names:
            why = next(
                (reason for reason, names in found.left_out.items() if user in names), "not in the data"
            )
            raise TaskError(f"--user {user}: {why}; choose another user or day")
        return found.rows([found.names.index(user)])[0]

    def recommendation(self, row: Row, text: str) -> dict[str, Any]:
        return {"item": self.catalog.tags[row["item"][0]], "text": text}

    def grounds(self, row: Row, text: str) -> list[tuple[str, bool]]:
        return [
            (facts.in_words(claim, self.catalog), facts.holds(claim, row["facts"], self.catalog))
            for claim in facts.claims(text, self.catalog, row["item"])
        ]

    # How an answer is taught.

    def demonstration(self, row: Row, rehearsing: bool, rng: np.random.Generator) -> str:
        guideline = Guideline.of(row["guideline"]) if row["guideline"] else None
        return write(row, self.catalog, rng, guideline)

    def corpus(self, rows: Sequence[Row]) -> list[str]:
        """Prompts, and for each a text that is taught; without the names of tags, which are terms."""
        rng, names = np.random.default_rng(0), sorted(self.catalog.tags, key=len, reverse=True)

        @cache
        def bare(told: str) -> str:
            for name in names:
                told = told.replace(name, "")
            return told

        told = [line for text in super().corpus(rows) for line in text.split("\n")]
        told += [self.demonstration(row, False, rng) for row in rows]
        return [*map(bare, told)]

    def lesson(self, rows: Sequence[Row]) -> dict[str, Any]:
        told = 0
        for row in rows:
            told = zlib.crc32(json.dumps(row["prompt"]).encode(), told)
        return {"task": type(self).__name__, "episodes": [len(rows), told]}

    # How answers are judged.

    def baselines(self, floors: Mapping[str, float]) -> dict[str, Answerer]:
        return baselines.texts(self.data, self.households, lambda: self.rows("train", baselines.BANK))

    def metrics(
        self, rows: Sequence[Row], texts: Sequence[str], scored: Callable[[], Mapping[str, Values]]
    ) -> dict[str, Values]:
        return {**scored(), **metrics.per_row(self.catalog, self.households, rows, texts)}

    def spread(self, texts: Sequence[str]) -> dict[str, float]:
        return metrics.together(texts)

    def facts(self, floors: Mapping[str, float]) -> dict[str, Any]:
        return {"diversity_floor": floors.get("item_diversity", 0.0)}

    def example(self, row: Row, deployed: Mapping[str, str], sampled: Mapping[str, str]) -> dict[str, Any]:
        tags = self.catalog.tags
        return {
            "user": self.data.panel.users[row["user"]],
            "item": tags[row["item"][0]],
            "calendar": row["calendar"],
            "campaign": row["campaign"],
            "most frequent before": [tags[tag] for tag in row["history"][:6]],
            "answers": {
                name: {
                    "deployed": given,
                    "sampled": sampled[name],
                    "claims": [{"claim": claim, "true": true} for claim, true in self.grounds(row, given)],
                }
                for name, given in deployed.items()
            },
        }

    @classmethod
    def shown(cls, example: Mapping[str, Any]) -> list[str]:
        before = ", ".join(map(text, example["most frequent before"]))
        lines = [
            f"**{text(example['item'])}** for household {text(example['user'])} "
            f"({text(example['calendar'])})  ",
            f"most frequent before: {before}  ",
        ]
        for name, given in example["answers"].items():
            claims = [f"{text(one['claim'])} {'✓' if one['true'] else '✗'}" for one in given["claims"]]
            lines.append(f"{name}: {text(given['deployed'])} *({'; '.join(claims) or 'no claim'})*  ")
        return lines

    @classmethod
    def words(
        cls, settings: Mapping[str, Any], source: Mapping[str, Any], result: Mapping[str, Any]
    ) -> Words:
        return Words(
            data=NOTES.get(source["source"], f"Data: {text(Path(source['source']).name)}."),
            population="{name}, later weeks, items never explained in training "
            "({episodes:,} texts for {users:,} households)",
            unit="households",
            deployed="greedy texts, or the best of several under prices",
            subject="The deployed texts",
            remedy="greedy decoding shows only the likeliest words",
            spread=("distinct-2", "self-BLEU"),
            trade_off=TradeOff(
                x="item_diversity",
                y="specificity",
                label="diversity of the texts on an item (1 - mean ROUGE-L)",
                title="Deployed texts on the test split, 95 % intervals",
                caption="Specificity against diversity",
                floor=result.get("diversity_floor", 0.0),
            ),
            gallery="Gallery",
            examples="Deployed texts, each with what it claims of the household: ✓ true in the log, ✗ not.",
        )


def protected(profile: str | None) -> list[str]:
    """Values of a line about a household that no text may hold: ``age 45-54`` gives ``45-54``."""
    parts = (part.strip() for part in (profile or "").split(","))
    return [part.removeprefix("age ").removeprefix("income ") for part in parts if part]

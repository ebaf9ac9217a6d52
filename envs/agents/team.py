"""A team that answers: planner, experts and arbiter as one answerer.

``Budget``  personas, tags and tokens that a team may spend on a household
``Team``    rows -> lists of tags
``Passage`` one row's way through a team, for those who want to see it

A role that fails - raises, is late, or says nothing - is left out and counted; it never costs the answer.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..catalog import Catalog
from ..task import Answerer, Message, Row
from .arbiter import arbitrated, in_turn
from .experts import Asking
from .personas import Persona, Planner, shared_out, whole

logger = logging.getLogger(__name__)
Found = TypeVar("Found")

ROLES = ("planner", "expert", "arbiter")


@dataclass(frozen=True)
class Budget:
    """What a team may spend on a household.

    Attributes:
        personas: Experts at most.
        tags: Tags that all experts together may name.
        slots: Tags of the answer.
        tokens: Tokens that the experts may read; the lightest personas are left out until they do. None for
            no limit; one expert is always asked.
        by_weight: Whether a persona's share of the tags follows its weight; else all have as many.
    """

    personas: int = 4
    tags: int = 60
    slots: int = 10
    tokens: int | None = None
    by_weight: bool = False

    def __post_init__(self) -> None:
        if self.tags < self.personas:
            raise ValueError(
                f"Budget: tags={self.tags} leave some of personas={self.personas} without any; give at least "
                "one tag a persona"
            )

    def slots_of(self, personas: Sequence[Persona]) -> list[int]:
        """Tags that each persona's expert may name."""
        if self.by_weight:
            return shared_out(personas, self.tags)
        return [self.tags // len(personas)] * len(personas)


@dataclass
class Passage:
    """One row's way through a team.

    Attributes:
        row: The row.
        personas: Personas that were asked about.
        asked: Row of each expert.
        lists: Tags that each expert named; empty where it is left out.
        answer: Tags of the answer.
        read: Tokens that the experts read if each reads all of its prompt, and if the shared context is read
            once.
        seconds: Role -> seconds of the call that this row was part of.
        missing: Role -> why it is left out.
    """

    row: Row
    personas: list[Persona] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    lists: list[tuple[int, ...]] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)
    read: tuple[int, int] = (0, 0)
    seconds: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


class Team:
    """Planner, experts and arbiter as one answerer of rows of the tag task.

    Args:
        planner: Rows -> personas.
        expert: Answers rows of experts (:class:`recrl.envs.agents.experts.Asking`), all of them at once.
        arbiter: Answers rows with candidates (:func:`recrl.envs.agents.arbiter.arbitrated`).
        asking: How experts are asked.
        budget: What may be spent on a household.
        timeouts: Role -> seconds that one call of it may take; without end where it has none. What hangs
            within this process cannot be ended: its thread is left behind.
        tokens: Function that counts the tokens of messages; by default words.

    Attributes:
        answered: Number of rows so far.
        missing: ``"role: reason"`` -> number of times that a role was left out.
    """

    def __init__(
        self,
        planner: Planner,
        expert: Answerer,
        arbiter: Answerer,
        asking: Asking,
        budget: Budget | None = None,
        *,
        timeouts: Mapping[str, float] | None = None,
        tokens: Callable[[Sequence[Message]], int] | None = None,
    ) -> None:
        self.planner, self.expert, self.arbiter, self.asking = planner, expert, arbiter, asking
        self.budget, self.timeouts = budget or Budget(), dict(timeouts or {})
        self.tokens = tokens or _words
        self.answered = 0
        self.missing: Counter[str] = Counter()

    @property
    def catalog(self) -> Catalog:
        """Tags that may be named."""
        return self.asking.catalog

    def __call__(self, rows: Sequence[Row]) -> list[str]:
        return [self.catalog.render(passage.answer) for passage in self.passages(rows)]

    def passages(self, rows: Sequence[Row]) -> list[Passage]:
        """The way of each row through the team."""
        found = [Passage(row) for row in rows]
        self._plan(found)
        self._ask(found)
        self._arbitrate(found)
        self.answered += len(found)
        for passage in found:
            self.missing.update(f"{role}: {reason}" for role, reason in passage.missing.items())
        return found

    def _plan(self, passages: Sequence[Passage]) -> None:
        rows = [passage.row for passage in passages]
        plans = self._called("planner", passages, lambda: self.planner(rows), len(rows)) or [[] for _ in rows]
        for passage, personas in zip(passages, plans, strict=True):
            if not personas:
                passage.missing.setdefault("planner", "empty")
            kept = list(personas[: self.budget.personas]) or [whole(passage.row, len(self.catalog))]
            while True:
                slots = self.budget.slots_of(kept)
                passage.personas, passage.asked = kept, self.asking.rows(passage.row, kept, slots)
                passage.read = self._read(passage.asked)
                if len(kept) == 1 or self.budget.tokens is None or passage.read[1] <= self.budget.tokens:
                    break
                kept = kept[:-1]

    def _read(self, asked: Sequence[Row]) -> tuple[int, int]:
        """Tokens of all prompts, and of the shared context once and what each adds to it."""
        counts = [self.tokens(row["prompt"]) for row in asked]
        if len(counts) < 2:
            return sum(counts), sum(counts)
        shared = self.tokens(common(*(row["prompt"] for row in asked)))
        return sum(counts), sum(counts) - (len(counts) - 1) * shared

    def _ask(self, passages: Sequence[Passage]) -> None:
        asked = [row for passage in passages for row in passage.asked]
        said = self._called("expert", passages, lambda: self.expert(asked), len(asked))
        texts = iter(said or [""] * len(asked))
        for passage in passages:
            passage.lists = [self.catalog.parse(next(texts)).top(row["count"]) for row in passage.asked]
            if not all(passage.lists):
                passage.missing.setdefault("expert", "empty")

    def _arbitrate(self, passages: Sequence[Passage]) -> None:
        spoken = [passage for passage in passages if any(passage.lists)]
        rows = [
            arbitrated(
                passage.row,
                [tags for tags in passage.lists if tags],
                [p.weight for p, tags in zip(passage.personas, passage.lists, strict=True) if tags],
            )
            for passage in spoken
        ]
        texts = self._called("arbiter", spoken, lambda: self.arbiter(rows), len(rows)) if rows else []
        slots = self.budget.slots
        for passage, text in zip(spoken, texts or [""] * len(spoken), strict=True):
            candidates = in_turn(passage.lists, sum(map(len, passage.lists)))
            allowed = set(candidates)
            chosen = [tag for tag in self.catalog.parse(text).top(slots) if tag in allowed]
            if not chosen:
                passage.missing.setdefault("arbiter", "empty")
            passage.answer = list(dict.fromkeys([*chosen, *candidates]))[:slots]
        for passage in passages:
            if not any(passage.lists):  # nobody has named anything: what the household buys most
                passage.answer = list(passage.row["history"][:slots])

    def _called(
        self, role: str, passages: Sequence[Passage], call: Callable[[], list[Found]], count: int
    ) -> list[Found] | None:
        """What a role says, ``count`` answers; None where it failed, which is noted with every row."""
        begun, reason = time.perf_counter(), ""
        found: list[Found] | None = None
        try:
            said = _within(self.timeouts.get(role), call)
            if len(said) != count:
                raise ValueError(f"{len(said)} answers to {count} questions")
            found = said
        except Late:
            reason = "late"
        except Exception as error:  # whatever a role's fault is, the others answer
            reason = "raised"
            logger.warning("%s is left out: %s: %s", role, type(error).__name__, error)
        for passage in passages:
            passage.seconds[role] = time.perf_counter() - begun
            if reason:
                passage.missing[role] = reason
        return found


def common(*prompts: Sequence[Message]) -> list[Message]:
    """Messages with which all prompts begin; of the first that differs, the lines that are the same."""
    found: list[Message] = []
    for messages in zip(*prompts, strict=False):
        if all(message == messages[0] for message in messages):
            found.append(messages[0])
            continue
        lines: list[str] = []
        for several in zip(*(message["content"].split("\n") for message in messages), strict=False):
            if len(set(several)) > 1:
                break
            lines.append(several[0])
        return [*found, {**messages[0], "content": "\n".join(lines)}]
    return found


def _within(seconds: float | None, call: Callable[[], Found]) -> Found:
    """The result of a call, made in a thread of its own where it has only so many seconds."""
    if seconds is None:
        return call()
    future: Future[Found] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(seconds)


def _words(messages: Sequence[Message]) -> int:
    return sum(len(message["content"].split()) for message in messages)

"""What a policy is asked, and how its answers are read, taught and judged.

``Row``       one episode: ``prompt`` (chat messages), ``user``, ``unseen`` (whether the policy never trains
              on this user), and the task's columns
``Answerer``  whoever answers rows with one text each: a policy, a baseline, a draft, a user's function
``Lines``     the form of an answer that lists options out of a closed set, one a line
``Text``      the form of an answer in free words
``Task``      all that the rest of recrl knows of a problem (who is answered now: :mod:`recrl.envs.audience`)

A task is found by name (:func:`find`): one that ships with recrl, one that a package offers through the
entry-point group ``recrl.tasks``, or ``file.py:Class`` and ``package.module:Class``.
"""

import datetime as dt
import hashlib
import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import BaseModel, ValidationError

from .audience import Audience
from .faults import MendableError
from .lookup import Lookup
from .markdown import code, text
from .settings import MANY, Between
from .settings import Text as Plain
from .statistics import Values

if TYPE_CHECKING:
    import polars as pl

    from .data.prepared import Data
    from .data.settings import DataConfig

Row = Mapping[str, Any]
Message = dict[str, str]
Answerer = Callable[[Sequence[Row]], list[str]]

AWKWARD = (
    "",
    "\n\n\n",
    "something nobody sells 0",
    "I am sorry, I cannot help with that.",
    "1. 2. 3.",
    "汉字，絵文字 🛒 ünïcödé",
    "word " * 2000,
    '{"tags": ["milk"]}',
)
"""Odd answers, as they occur early in training; every reward has to bear them."""


PRICED = "priced"
"""Name of the baseline that ranks by :meth:`Task.ranker` under the run's bounds."""


class TaskError(MendableError, ValueError):
    """A task cannot be had, or not with these settings or data; the message names the fix."""


@dataclass(frozen=True)
class Lines:
    """An answer that lists options, one a line.

    Attributes:
        options: What a line may say.
        count: Number of lines that is asked for.
    """

    options: tuple[str, ...]
    count: int

    def render(self, chosen: Sequence[int]) -> str:
        """The answer that lists these options; every line ends with its break."""
        return "".join(f"{self.options[i]}\n" for i in chosen)


@dataclass(frozen=True)
class Text:
    """An answer in free words.

    Attributes:
        max_tokens: Tokens of the longest answer.
    """

    max_tokens: int


@dataclass(frozen=True)
class TradeOff:
    """Two metrics of deployed answers that a report plots against each other.

    Attributes:
        x: Name of the one metric; ``y``: name of the other.
        label: What ``x`` is, for its axis.
        title: Title of the plot; ``caption``: its alternative text.
        floor: Bound on ``x``; 0 for none.
    """

    x: str
    y: str
    label: str
    title: str
    caption: str
    floor: float = 0.0


@dataclass(frozen=True)
class Words:
    """Words of a report on a task, as Markdown.

    Attributes:
        data: A sentence about the data.
        population: Heading of a population, with ``{name}``, ``{episodes}`` and ``{users}``.
        unit: What intervals are drawn over.
        deployed: How deployed answers come about; ``subject``: what they are called in a sentence.
        remedy: Why deployed answers may miss a constraint that sampled ones hold.
        note: What the reference of the comparison is.
        hidden: Metrics that the table of deployed answers leaves out.
        headline: Metric by which deployed answers are ranked; empty for the run's objective.
        spread: Figures of all answers together that the table shows.
        trade_off: Metrics that are plotted; None for no plot.
        examples: What the examples show; ``gallery``: their heading.
    """

    data: str
    population: str = "{name} ({episodes:,})"
    unit: str = "prompts"
    deployed: str = "greedy answers"
    subject: str = "The deployed answers"
    remedy: str = "greedy decoding shows only the likeliest answer"
    note: str = ""
    hidden: tuple[str, ...] = ()
    headline: str = ""
    spread: tuple[str, ...] = ()
    trade_off: TradeOff | None = None
    examples: str = "Greedy answers to prompts that nothing was trained on."
    gallery: str = "Ten answers"


class TaskSettings(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Task of the policy."""

    use: Annotated[str, Plain(4000)] = "tags"
    """``tags``, ``prompts``, ``explanations``, ``guidelines``, ``expert``, ``arbiter``, a name that a package
    offers, ``file.py:Class`` or ``package.module:Class``."""
    max_train_episodes: Annotated[int, Between(1, MANY)] | None = None
    """Largest number of training episodes, spread evenly over all; their prompts are held in memory."""


class UnreadSettings(TaskSettings, extra="allow", frozen=True):
    """The section of a task whose class is not imported, since the command asks nothing of it."""


class Task(ABC):
    """A problem that a policy is trained for. Only ``load`` and a form have to be said.

    Attributes:
        Settings: The section ``task`` of a configuration.
        form: What an answer is.
        columns: Names of what rewards may read of a row, besides ``prompt``.
        outcomes: Those of the columns that are known only after an answer was shown.
        splits: Splits that :meth:`load` knows.
        headline: Metric by which deployed answers are ranked; None takes the run's objective.
        reference: Baseline that deployed answers are compared with; None takes the warm start.
        summary: Further metrics that a short table shows; ``details``: those that have a table of their own.
        populations: Name of the rows of unseen users together, and name of all rows.
        resources: What rewards may name besides columns; a run adds those that it makes.
        terms: Words that prompts and answers use as they stand, such as names of goods; the tiny policy has a
            token for each.
        answers: What an answer is, a sentence for those who are handed a policy.
        examples: Number of rows whose answers a report shows.
        data: Purchases and events behind the task; None for a task that reads its own files.
        entities: Entities that prompts may mark: ``title``, and a column for each attribute, empty where it
            is unknown; None for a task that marks none.
    """

    Settings: ClassVar[type[TaskSettings]] = TaskSettings
    form: Lines | Text
    columns: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("train", "test")
    headline: str | None = None
    reference: str | None = None
    summary: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    populations: tuple[str, str] = ("unseen users", "all users")
    terms: tuple[str, ...] = ()
    answers: str = ""
    examples: int = 10
    data: "Data | None" = None
    entities: "pl.DataFrame | None" = None

    def __init__(self, settings: Any, source: "DataConfig") -> None:
        """
        Args:
            settings: The section ``task``, an instance of :attr:`Settings`.
            source: The section ``data``.
        """
        self.settings, self.source = settings, source
        self.resources: dict[str, Any] = {}
        self._loaded: dict[str, list[dict[str, Any]]] = {}

    # What is asked.

    @abstractmethod
    def load(self, split: str) -> Sequence[Row]:
        """All rows of one of :attr:`splits`: ``prompt``, and :attr:`columns`; ``user`` and ``unseen`` where
        the data tell users apart."""

    def rows(self, split: str, limit: int | None = None, *, unseen: bool = False) -> list[dict[str, Any]]:
        """Rows of a split, ready to be asked.

        Args:
            limit: Largest number of rows, spread evenly over all.
            unseen: Only rows of users that the policy never trains on.
        """
        rows = self._rows(split)
        if unseen:
            rows = [row for row in rows if row["unseen"]]
        return [rows[i] for i in evenly(len(rows), limit)]

    def count(self, split: str, *, unseen: bool = False) -> int:
        """Number of rows."""
        return sum(row["unseen"] or not unseen for row in self._rows(split))

    def counts(self) -> Mapping[str, int]:
        """Counts of what was read, dropped and split."""
        return {f"{split} rows": self.count(split) for split in ("train", "test")}

    def values(self, name: str) -> Sequence[Any]:
        """Entries of a column over all training rows."""
        return [row[name] for row in self._rows("train")]

    @property
    def names(self) -> list[str]:
        """Columns of every row besides its prompt."""
        return list(dict.fromkeys([*self.columns, "user", "unseen"]))

    @cached_property
    def fingerprint(self) -> str:
        """Content hash of the data: a run goes on only with those that it began with."""
        told = json.dumps([self._rows(split) for split in ("train", "test")], default=repr)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def as_trained(self, folder: Path) -> Self:
        """The task as a finished run knows it, where the data have grown since; by default this one.

        Args:
            folder: Folder of the run, see :meth:`save`.

        Raises:
            TaskError: the data are others, to which answers of the run's policy do not fit.
        """
        return self

    def audience(self, at: dt.date | None = None, users: Path | None = None) -> Audience:
        """Users as they are now, whose outcome nobody knows yet: those that ``recrl recommend`` answers.

        Args:
            at: Day in place of today; only what lies before is read.
            users: File that names the users, or holds their rows; all by default.

        Raises:
            TaskError, AudienceError: the task cannot say, or nobody is left.
        """
        raise TaskError(
            f"task.use={self.settings.use} has rows of its splits alone; to recommend, give the class "
            f"{type(self).__name__} a method audience (docs/tasks.md)"
        )

    def asked(self, user: str, item: str, at: dt.date | None = None) -> Row:
        """The row of a user and an item, for ``recrl explain``.

        Args:
            at: Day in place of today; only what lies before is read.

        Raises:
            TaskError: the task explains no items, or does not know this one or the user.
        """
        raise TaskError(
            f"task.use={self.settings.use} explains no items; train a run of task.use=explanations, or give "
            f"the class {type(self).__name__} a method asked (docs/tasks.md)"
        )

    def grounds(self, row: Row, text: str) -> list[tuple[str, bool]]:
        """What an answer claims, in words, and whether each claim is true in the data; by default nothing."""
        return []

    def recommendation(self, row: Row, text: str) -> dict[str, Any]:
        """An answer to a row of :meth:`audience` as columns: ``items``, best first, or ``text``."""
        if isinstance(self.form, Lines):
            return {"items": [line.strip() for line in text.splitlines() if line.strip()]}
        return {"text": text}

    def _rows(self, split: str) -> list[dict[str, Any]]:
        if split not in self._loaded:
            rows = [{"user": i, "unseen": True, **row} for i, row in enumerate(self.load(split))]
            self._loaded[split] = rows
        return self._loaded[split]

    # How an answer is read and taught.

    def barred(self, row: Row) -> Collection[int]:
        """Options of :class:`Lines` that deployed answers to a row may not name; by default none. Where fewer
        are left than lines are asked for, an answer is shorter."""
        return ()

    def parse(self, texts: Sequence[str]) -> list[Any]:
        """Answers as rewards read them: the derived column ``answers``."""
        return list(texts)

    @property
    def teaches(self) -> bool:
        """Whether there are demonstrations for a warm start."""
        return type(self).demonstration is not Task.demonstration

    def demonstration(self, row: Row, rehearsing: bool, rng: np.random.Generator) -> str:
        """An answer that a warm start teaches.

        Args:
            rehearsing: Whether this is the first part of the training, which teaches the form.
        """
        raise TaskError(f"{type(self).__name__} has no demonstrations; set warm_start.steps=0")

    def corpus(self, rows: Sequence[Row]) -> list[str]:
        """Texts that the tiny policy's tokenizer learns its pieces from; by default the prompts."""
        # The first line of a message is its role, as in the chat template.
        return ["\n".join(f"{m['role']}\n{m['content']}" for m in row["prompt"]) for row in rows]

    def lesson(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Basis of the demonstrations as JSON: a warm start goes on only from a checkpoint of the same."""
        told = 0
        for row in rows:
            told = zlib.crc32(json.dumps(dict(row), default=repr, sort_keys=True).encode(), told)
        return {"task": type(self).__name__, "episodes": [len(rows), told]}

    def size(self, row: Row) -> int:
        """Approximate length of a prompt; a warm start batches similar ones."""
        return sum(len(message["content"]) for message in row["prompt"])

    def drafts(self, rows: Sequence[Row], copies: int, seed: int) -> list[str]:
        """Answers that a half-trained policy could write, ``copies`` a row, to try rewards on."""
        rng = np.random.default_rng(seed)
        return [self._draft(row, rng) for row in rows for _ in range(copies)]

    def _draft(self, row: Row, rng: np.random.Generator) -> str:
        if isinstance(self.form, Lines):
            count = min(len(self.form.options), max(1, self.form.count + int(rng.integers(-2, 3))))
            return self.form.render(rng.choice(len(self.form.options), count).tolist())
        source = self.demonstration(row, False, rng) if self.teaches else row["prompt"][-1]["content"]
        words = [word for word in source.split() if rng.random() > 0.2]
        if rng.random() < 0.3:
            rng.shuffle(words)
        return " ".join(words[: int(rng.integers(1, len(words) + 2))])

    # How answers are judged.

    def baselines(self, floors: Mapping[str, float]) -> Mapping[str, Answerer]:
        """Other answerers, by name.

        Args:
            floors: Reward -> bound that the run holds its mean above.
        """
        return {}

    def ranker(self) -> Callable[[Sequence[Row]], Values] | None:
        """What can be had without a language model: a function that scores the options of every row,
        ``[rows, options]``, in about the objective's units; None for none.

        Under the run's bounds it is the baseline ``priced``.
        """
        return None

    def metrics(
        self, rows: Sequence[Row], texts: Sequence[str], scored: Callable[[], Mapping[str, Values]]
    ) -> Mapping[str, Values]:
        """Metrics of deployed answers: name -> ``[row]``, NaN where undefined. By default the run's rewards.

        Args:
            scored: Scores the answers with the run's rewards.
        """
        return scored()

    def spread(self, texts: Sequence[str]) -> dict[str, float]:
        """Figures of all deployed answers together."""
        return {}

    def facts(self, floors: Mapping[str, float]) -> dict[str, Any]:
        """Facts of the task that an evaluation keeps, as JSON; :meth:`words` reads them."""
        return {}

    def save(self, folder: Path) -> None:  # noqa: B027  (few tasks have anything to write)
        """Write what a reader of the run folder needs to understand answers, below ``folder / "task"``; by
        default nothing."""

    def target(self, row: Row) -> str:
        """Outcome of the row, in words; empty where the data do not say."""
        return ""

    def example(self, row: Row, deployed: Mapping[str, str], sampled: Mapping[str, str]) -> dict[str, Any]:
        """One row and its answers as JSON for a report.

        Args:
            deployed: Policy -> its deployed answer; ``sampled``: its sampled one.
        """
        return {
            "prompt": row["prompt"][-1]["content"],
            "target": self.target(row),
            "answers": {
                name: {"deployed": answer, "sampled": sampled[name]} for name, answer in deployed.items()
            },
        }

    @classmethod
    def shown(cls, example: Mapping[str, Any]) -> list[str]:
        """An example as lines of Markdown."""
        asked = example["prompt"] if len(example["prompt"]) < 400 else example["prompt"][:400] + " ..."
        target = [f"(target: {text(example['target'])})  "] if example["target"] else []
        answers = [f"{name}: {text(given['deployed'])}  " for name, given in example["answers"].items()]
        return [f"**{text(asked)}**  ", *target, *answers]

    @classmethod
    def words(
        cls, settings: Mapping[str, Any], source: Mapping[str, Any], result: Mapping[str, Any]
    ) -> Words:
        """Words of a report on the task.

        Args:
            settings: The section ``task`` of the run's configuration; ``source``: its section ``data``.
            result: The evaluation, as JSON.
        """
        return Words(data=f"Task: {code(settings.get('use', 'tags'))}.")


TASKS = Lookup("task", "Class", "recrl.tasks", TaskError)

SHIPPED = {
    "tags": "recrl.envs.tags.task:Tags",
    "prompts": "recrl.envs.prompts.task:Prompts",
    "guidelines": "recrl.envs.agents.guidelines:Guidelines",
    "expert": "recrl.envs.agents.expert_task:Expert",
    "arbiter": "recrl.envs.agents.arbiter_task:Arbiter",
    "explanations": "recrl.envs.explanations.task:Explanations",
}
"""Shipped tasks: name -> where they are."""

_SETTINGS = {
    "tags": "recrl.envs.tags.settings:TagsConfig",
    "prompts": "recrl.envs.prompts.settings:PromptsConfig",
    "guidelines": "recrl.envs.agents.settings:GuidelinesConfig",
    "expert": "recrl.envs.agents.settings:ExpertConfig",
    "arbiter": "recrl.envs.agents.settings:ArbiterConfig",
    "explanations": "recrl.envs.explanations.settings:ExplanationsConfig",
}


def find(use: str) -> type[Task]:
    """The class of a task.

    Raises:
        TaskError: nothing has that name, or what has it is no task.
    """
    found = TASKS.named(SHIPPED.get(use, use)) if use in SHIPPED or ":" in use else TASKS.offer(use)
    if found is None:
        names = sorted({*SHIPPED, *(entry.name for entry in TASKS.offered())})
        raise TaskError(
            f"task.use={use!r} is unknown; known: {', '.join(names)}; a task of your own is "
            "'path/to/file.py:Class' or 'package.module:Class'"
        )
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise TaskError(
            f"task.use={use!r} must name a class that extends recrl.envs.task.Task, not {found!r}"
        )
    return found


def settings_class(use: str, *, imported: bool = True) -> type[TaskSettings]:
    """The settings of a task.

    Args:
        imported: Import a task that is not shipped; False takes its settings as they are.

    Raises:
        TaskError: as for :func:`find`.
    """
    if use in SHIPPED:  # without importing what reads data
        found: type[TaskSettings] = TASKS.named(_SETTINGS[use])
        return found
    return find(use).Settings if imported else UnreadSettings


def make(settings: TaskSettings, source: "DataConfig") -> Task:
    """The task of a run, its data prepared.

    Raises:
        TaskError: the task cannot be had with these settings or data.
    """
    kind = find(settings.use)
    if isinstance(settings, UnreadSettings):
        try:
            settings = kind.Settings.model_validate(settings.model_dump(exclude_unset=True))
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            place = ".".join(map(str, ("task", *fault["loc"])))
            raise TaskError(f"{place}={fault['input']!r:.100}: {fault['msg']}") from error
    return kind(settings, source)


def evenly(count: int, limit: int | None) -> list[int]:
    """Indices of ``limit`` of ``count`` rows, spread evenly; all where there are no more."""
    if limit is None or limit >= count:
        return list(range(count))
    return np.linspace(0, count - 1, limit).round().astype(int).tolist()

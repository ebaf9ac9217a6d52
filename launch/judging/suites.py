"""Texts of known grades out of a configuration's task.

``Rows``   rows of households that trained judges may learn from, and of others
``Suite``  pairs that test judges, and what is known of them
``suite``  makes them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...envs import task as tasks
from ...envs.explanations.prompts import messages
from ...envs.explanations.task import Explanations
from ...envs.tags.task import Tags
from ...envs.task import Row, Task
from ...rewards.judge.suite import blind, lists
from ...rewards.judge.suite.build import build, reprompted
from ...rewards.judge.suite.families import HELD_OUT
from ...rewards.judge.suite.pairs import Pair
from ..config.schema import ConfigError, RunConfig

# Rows for each pair, of households that trained judges learn from and of others; and the least.
_SEEN, _UNSEEN, _LEAST = 1.5, 0.75, 400


@dataclass(frozen=True)
class Rows:
    """Rows that texts are written for.

    Attributes:
        task: The task that they are of.
        seen: Rows of households that trained judges may learn from.
        unseen: Rows of other households.
    """

    task: Explanations
    seen: Sequence[Row]
    unseen: Sequence[Row]

    @classmethod
    def of(cls, config: RunConfig, task: Task, wanted: int) -> Rows:
        """Rows for so many pairs or contexts.

        Args:
            task: The configuration's task.

        Raises:
            ConfigError: the task is another one.
        """
        if not isinstance(task, Explanations):
            raise ConfigError(
                f"task.use={config.task.use}: texts of known grades are made of rows of the explanations "
                "task (and lists, for recrl judge bench, of the tags task); use --config explanations, or a "
                "configuration of your own with that task"
            )
        return cls(task, *_rows(task, wanted))

    def prompt(self, row: Row) -> Any:
        """Messages of a row whose day, facts or campaign were changed."""
        return messages({**row, "guideline": ""}, self.task.catalog, self.task.settings.prompt)


@dataclass(frozen=True)
class Suite:
    """Pairs of a task, and what is known of them.

    Attributes:
        task: The task of whose rows they are made.
        kind: Shipped rubric, and checkers, of such texts.
        pairs: The pairs.
        held_out: Families that trained judges do not learn from.
        blind: Family of lies -> how well a model that reads the text alone tells them.
    """

    task: Explanations | Tags
    kind: str
    pairs: Sequence[Pair]
    held_out: Sequence[str]
    blind: Mapping[str, float]


def suite(config: RunConfig, pairs: int, seed: int) -> Suite:
    """A suite of the rows of a configuration's task.

    Raises:
        ConfigError: no suite is made of such a task.
        SuiteError: the rows are too few, or the suite is refused.
    """
    task = tasks.make(config.task, config.data)
    if isinstance(task, Tags):
        seen, unseen = _rows(task, pairs)
        found = lists.build(seen, unseen, task.catalog, task.slots, pairs, seed)
        return Suite(task, "tags", found, lists.HELD_OUT, blind.check(found))
    rows = Rows.of(config, task, pairs)
    drawn = build(rows.seen, rows.unseen, rows.task.catalog, pairs, seed)
    found = list(reprompted(drawn, rows.prompt))
    return Suite(rows.task, "explanations", found, HELD_OUT, blind.check(found))


def _rows(task: Explanations | Tags, wanted: int) -> tuple[Sequence[Row], Sequence[Row]]:
    """Rows of households that trained judges may learn from, and of others, for so many pairs or contexts."""
    seen = task.rows("train", max(_LEAST, round(_SEEN * wanted)))
    return seen, task.rows("test", max(_LEAST, round(_UNSEEN * wanted)), unseen=True)

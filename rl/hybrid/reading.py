"""A small base model that reads histories spelled out: the ordinary warm start, on short ones first.

Rows are the task's, spelled out, and questions about one entity, spelled out too: a frozen model can only be
asked in vectors what it can answer in text.

``Lessons``  the task and its questions, as one task
``rows``     their rows
``read``     both trainings
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...envs.task import Row, Task
from ..policy.warmstart import warm_start
from .questions import questions, spelled
from .settings import AGAIN, ReadingConfig

OnStep = Callable[[str, int, float], None]


class Lessons(Task):
    """Demonstrations of a task, and answers to questions."""

    def __init__(self, task: Task) -> None:
        super().__init__(task.settings, task.source)
        self._task, self.form = task, task.form

    def load(self, split: str) -> Sequence[Row]:
        return self._task.load(split)

    def demonstration(self, row: Row, rehearsing: bool, rng: np.random.Generator) -> str:
        return row["answer"] if "answer" in row else self._task.demonstration(row, rehearsing, rng)


def rows(task_rows: Sequence[Row], entities: pl.DataFrame, share: float, seed: int) -> list[dict[str, Any]]:
    """Rows of a task and questions, all spelled out.

    Args:
        entities: Entities that are asked about.
        share: Share of the questions.
    """
    count = round(len(task_rows) * share / (1 - share)) if share < 1 else len(task_rows)
    asked = questions(entities, entities["title"].to_list(), count, seed)
    return [
        *({**row, "prompt": spelled(row["prompt"])} for row in task_rows),
        *({"prompt": spelled(one.messages), "answer": one.answer} for one in asked),
    ]


def read(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    short: Sequence[Row],
    long: Sequence[Row],
    config: ReadingConfig,
    seed: int,
    folder: Path,
    on_step: OnStep = lambda stage, step, loss: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train a model in place, on short rows and then on long ones; an interrupted training goes on.

    Args:
        short, long: Rows of :func:`rows`.
        folder: Folder of the checkpoints; the caller deletes it.
        on_step: Function that is called with the stage, the step and its loss.

    Raises:
        StoppedTraining: ``stop`` said so; a checkpoint of this step is written.
    """
    lessons = Lessons(task)
    stages = (("short histories", short, config.short), ("whole histories", long, config.long))
    for number, (name, some, settings) in enumerate(stages):
        if settings.steps:
            warm_start(
                model,
                tokenizer,
                some,
                lessons,
                settings,
                seed + number,
                partial(on_step, name),
                checkpoint=folder / name.partition(" ")[0],
                stop=stop,
                hint=AGAIN,
            )

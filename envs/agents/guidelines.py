"""Stage one of meta-prompting as a task: the style guideline for a row of another task."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError

from .. import task as tasks
from ..data.settings import DataConfig
from ..markdown import code
from ..task import Answerer, Lines, Row, Task, TaskError, Words
from .settings import GuidelinesConfig
from .style import GUIDELINES, Guideline
from .styled import guideline_prompt

PLAIN = Guideline(tone="plain", audience="regular", occasion="everyday", device="fact")


class Guidelines(Task):
    """Rows of another task, each asked for one of the 400 guidelines. ``answers`` are :class:`Guideline`.

    A warm start teaches the form alone: its demonstrations are drawn at random. Which guideline is a good one
    the rewards say; those that judge texts have the other task's columns.
    """

    Settings = GuidelinesConfig
    settings: GuidelinesConfig
    form = Lines(GUIDELINES, 1)

    def __init__(self, settings: GuidelinesConfig, source: DataConfig) -> None:
        super().__init__(settings, source)
        use = settings.of["use"]
        if use == "guidelines":
            raise TaskError("task.of.use=guidelines: guidelines are for texts; name the task of the texts")
        try:
            inner = tasks.settings_class(use).model_validate(settings.of)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            place = ".".join(map(str, ("task.of", *fault["loc"])))
            raise TaskError(f"{place}={fault['input']!r:.100}: {fault['msg']}") from error
        self.inner = tasks.make(inner, source)
        self.columns, self.outcomes = self.inner.columns, self.inner.outcomes
        self.resources = self.inner.resources
        self.splits, self.populations, self.data = self.inner.splits, self.inner.populations, self.inner.data

    def load(self, split: str) -> Sequence[Row]:
        return [{**row, "prompt": guideline_prompt(row)} for row in self.inner.rows(split)]

    def parse(self, texts: Sequence[str]) -> list[Any]:
        return [Guideline.of(text) for text in texts]

    def demonstration(self, row: Row, rehearsing: bool, rng: np.random.Generator) -> str:
        return self.form.render([int(rng.integers(len(GUIDELINES)))])

    def baselines(self, floors: Mapping[str, float]) -> Mapping[str, Answerer]:
        return {"plain": lambda rows: [f"{PLAIN.words}\n" for _ in rows]}

    @classmethod
    def words(
        cls, settings: Mapping[str, Any], source: Mapping[str, Any], result: Mapping[str, Any]
    ) -> Words:
        return Words(data=f"Style guidelines for texts of the task {code(settings['of']['use'])}.")

"""The judge: an evaluator for each dimension of a rubric, and the senior reviewer's grade."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...envs.chat.models import ChatModel
from ...envs.lookup import Lookup
from ...envs.task import Row
from .asked import Asked
from .checkers import CHECKERS, Checker
from .findings import Finding, Judgement, grade
from .rubric import Rubric, RubricError, load

if TYPE_CHECKING:
    from ...envs.catalog import Catalog

Evaluator = Callable[[Sequence[Row], Sequence[str]], list[Finding]]
"""Rows and a text to each -> a finding of each."""

_OWN = Lookup("checker", "function", "recrl.checkers", RubricError)


class Judge:
    """Judges texts.

    Args:
        rubric: A rubric, or its name or path.
        kind: Which shipped checkers ``by: grounded`` means: ``explanations`` or ``tags``.
        catalog: Catalogue of the tags, for checkers.
        model: Language model for dimensions with ``by: model``.
        by: Dimension -> who evaluates it, in place of what the rubric says.
        votes, seed: See :class:`recrl.rewards.judge.asked.Asked`.

    Raises:
        RubricError: a dimension has nobody who could evaluate it.
    """

    def __init__(
        self,
        rubric: Rubric | str = "explanations",
        *,
        kind: str | None = None,
        catalog: Catalog | None = None,
        model: ChatModel | None = None,
        by: Mapping[str, str] | None = None,
        votes: int = 1,
        seed: int = 0,
    ) -> None:
        named = rubric if isinstance(rubric, str) else "given"
        self.rubric = load(rubric) if isinstance(rubric, str) else rubric
        chosen = kind or (named if named in CHECKERS else "explanations")
        if chosen not in CHECKERS:
            raise RubricError(f"kind={chosen!r} is unknown; known: {', '.join(CHECKERS)}")
        for name in by or ():
            if name not in self.rubric.dimensions:
                raise RubricError(
                    f"by: {name!r} is no dimension of the rubric; it has {', '.join(self.rubric.dimensions)}"
                )
        self.evaluators: dict[str, Evaluator] = {}
        for name, dimension in self.rubric.dimensions.items():
            who = (by or {}).get(name, dimension.by)
            if who != "model":
                self.evaluators[name] = Grounded(name, _checker(who, name, chosen), catalog)
            elif model is None:
                raise RubricError(
                    f"rubric {named}: {name} is judged by a model, and none is given; set judge.url and "
                    "judge.model, or by: grounded"
                )
            else:
                self.evaluators[name] = Asked(name, dimension, model, catalog, votes, seed)

    def __call__(self, rows: Sequence[Row], texts: Sequence[str]) -> list[Judgement]:
        """A judgement of each text.

        Args:
            rows: The row that each text answers.
        """
        of_each = zip(*(ask(rows, texts) for ask in self.evaluators.values()), strict=True)
        return [Judgement(findings, grade(findings, self.rubric.superior)) for findings in of_each]


class Grounded:
    """Evaluates by a checker. One that raises says nothing about that text.

    Args:
        name: Name of the dimension.
        checker: Function of row, text and catalogue.
    """

    def __init__(self, name: str, checker: Checker, catalog: Catalog | None) -> None:
        self.name, self.checker, self.catalog = name, checker, catalog

    def __call__(self, rows: Sequence[Row], texts: Sequence[str]) -> list[Finding]:
        return [self._finding(row, text) for row, text in zip(rows, texts, strict=True)]

    def _finding(self, row: Row, text: str) -> Finding:
        began = time.perf_counter()
        try:
            verdict, evidence = self.checker(row, text, self.catalog)
        except Exception as error:  # a checker of the user's own may do anything
            why = f"{type(error).__name__}: {error}"
            return Finding(self.name, None, missing=" ".join(why.split())[:300])
        return Finding(self.name, verdict, evidence, seconds=time.perf_counter() - began)


def _checker(who: str, name: str, kind: str) -> Checker:
    if who == "grounded":
        if name not in CHECKERS[kind]:
            raise RubricError(
                f"dimensions.{name}.by=grounded: no shipped checker of {kind} has this name; they are "
                f"{', '.join(CHECKERS[kind])}; name a function of yours, file.py:function"
            )
        return CHECKERS[kind][name]
    if ":" not in who:
        raise RubricError(
            f"dimensions.{name}.by={who!r} is unknown; use model, grounded, file.py:function or "
            "package.module:function"
        )
    found: Any = _OWN.named(who)
    if not callable(found):
        raise RubricError(f"dimensions.{name}.by={who!r} names no function")
    return found

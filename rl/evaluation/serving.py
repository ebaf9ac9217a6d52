"""Answers as they are served: greedy, under the smallest prices that hold a run's bounds.

Constraints whose rewards have a value for a line are priced while lines are written. If there are others, one
of several candidates, written under those prices, is then chosen; that choice prices all constraints, so that
what it does to the first is made good.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...envs.task import Row, Task
from ...rewards import RewardEngine
from ..decoding.deploy import Bonuses
from ..optimizer.constraints import Constraint
from ..optimizer.problem import Problem
from .bounds import Bounds, Floats, mean
from .choice import Choice
from .hold import Hold, Priced, Scoring, by_line
from .prices import Found
from .settings import EvaluationConfig

# Rows and number of answers to each -> bonuses under the prices of lines; None for no bonus.
_Under = Callable[[Sequence[Row], int], Bonuses | None]


@dataclass(frozen=True)
class Drawn:
    """Candidates for the answers to some rows.

    Attributes:
        texts: Texts, those of a row next to each other.
        logprobs: Their log-probabilities ``[row, candidate]``, in nats.
    """

    texts: list[str]
    logprobs: Floats

    def chosen(self, numbers: Sequence[int]) -> "Drawn":
        """One candidate of each row."""
        each = self.logprobs.shape[1]
        texts = [self.texts[row * each + number] for row, number in enumerate(numbers)]
        return Drawn(texts, self.logprobs[np.arange(len(numbers)), np.array(numbers)][:, None])


def _unpriced(rows: Sequence[Row], copies: int) -> None:
    return None


def _bonused(hold: Hold, prices: Floats) -> _Under:
    """Bonuses under prices, the same for all answers to a row."""
    return lambda rows, copies: hold.bonuses(np.repeat(prices[None], copies, axis=0))


class Answering(Protocol):
    """Whoever answers: a policy, or a ranking of options."""

    def greedy(self, rows: Sequence[Row], bonuses: Bonuses | None, copies: int, stage: str) -> list[str]:
        """Best answers, ``copies`` to each row that differ by their bonuses.

        Args:
            stage: ``prices`` for answers that prices are fitted with, ``priced`` for those that are served.
        """
        ...

    def candidates(self, rows: Sequence[Row], bonuses: Bonuses | None, copies: int) -> Drawn:
        """The best answer to each row and ``copies`` - 1 random ones, under the same bonuses."""
        ...


@dataclass(frozen=True)
class Served:
    """Served answers.

    Attributes:
        texts: One to each row.
        priced: Price of each constraint, and what it attains.
        why_not: Constraints without a price, and the reason.
    """

    texts: list[str]
    priced: list[Priced]
    why_not: dict[str, str]


class Serving:
    """Answers of one policy to some rows, under prices that are fitted on these or on others.

    Args:
        answering: Who answers.
        scored: Function that scores answers by the constrained rewards, ``[answer, reward]``.
        rows: Rows that are served.
        fitted_on: Rows that prices are fitted on; may be the very same list.
    """

    def __init__(
        self,
        answering: Answering,
        scored: Scoring,
        task: Task,
        engine: RewardEngine,
        problem: Problem,
        config: EvaluationConfig,
        rows: Sequence[Row],
        fitted_on: Sequence[Row],
    ) -> None:
        self._answering, self._scored, self._rows = answering, scored, rows
        self._task, self._engine, self._problem, self._config = task, engine, problem, config
        self._fitted_on = fitted_on

    def answers(self, constraints: Sequence[Constraint], unpriced: list[str] | None = None) -> Served:
        """Fit prices and answer.

        Args:
            constraints: Constraints that can be held, see :func:`recrl.rl.evaluation.hold.holdable`.
            unpriced: Best answers to the rows without prices, where they are known.
        """
        rewards = {reward.name: reward for reward in self._engine.rewards}
        texts = unpriced if unpriced is not None else self._answering.greedy(self._rows, None, 1, "priced")
        own = texts
        if self._fitted_on is not self._rows:
            own = self._answering.greedy(self._fitted_on, None, 1, "prices")
        values = self._values(self._bounds(constraints, self._fitted_on), own)
        seen = [bool(np.isfinite(column).any()) for column in values.T]
        why_not = {c.name: "no answer has a score" for c, s in zip(constraints, seen, strict=True) if not s}
        constraints = [c for c in constraints if c.name not in why_not]
        lines = [c for c in constraints if by_line(self._task, rewards[c.reward], self._config)]
        priced: list[Priced] = []
        under: _Under = _unpriced
        if lines:
            priced, under = self._priced_lines(lines, own)
            if under is not _unpriced:
                texts = self._answering.greedy(self._rows, under(self._rows, 1), 1, "priced")
        if len(lines) < len(constraints):
            texts, priced = self._chosen(constraints, texts, priced, values[:, seen], under)
        return Served(texts, priced, why_not)

    def under(self, priced: Sequence[Priced]) -> Drawn:
        """Answers under prices that were fitted before, one to each row, log-probabilities ``[row, 1]``: the
        model's over the tokens that are allowed, bonuses of lines included.

        Args:
            priced: Prices of some of the problem's constraints.
        """
        bonused = self._under_lines(priced)
        choices = np.array([one.choice or 0.0 for one in priced])
        if not choices.any():
            return self._answering.candidates(self._rows, bonused(self._rows, 1), 1)
        drawn, choice = self._choice(self._constraints(priced), self._rows, bonused)
        return drawn.chosen(choice.chosen(choices[None])[0])

    def favours(self, priced: Sequence[Priced]) -> Bonuses | None:
        """What prices of lines that were fitted before add to each option of the served rows, one copy each;
        None for nothing."""
        return self._under_lines(priced)(self._rows, 1)

    def _under_lines(self, priced: Sequence[Priced]) -> _Under:
        lines = [one for one in priced if one.price is not None]
        prices = np.array([one.price for one in lines], dtype=float)
        if not prices.any():
            return _unpriced
        held = self._constraints(lines)
        return _bonused(Hold(self._task, self._engine, self._problem, held, self._rows), prices)

    def _constraints(self, priced: Sequence[Priced]) -> list[Constraint]:
        of = {constraint.name: constraint for constraint in self._problem.constraints}
        return [of[one.name] for one in priced]

    def _priced_lines(self, constraints: Sequence[Constraint], own: list[str]) -> tuple[list[Priced], _Under]:
        """Prices of lines with what they attain, and the bonuses under them."""
        fitted, served = (
            Hold(self._task, self._engine, self._problem, constraints, rows)
            for rows in (self._fitted_on, self._rows)
        )
        prices, priced = fitted.fit(
            lambda rows, bonuses, copies: self._answering.greedy(rows, bonuses, copies, "prices"),
            self._scored,
            unpriced=own,
            margin=self._config.fit == "validation",
        )
        if not prices.any():
            return priced, _unpriced

        def under(rows: Sequence[Row], copies: int) -> Bonuses | None:
            return _bonused(fitted if rows is self._fitted_on else served, prices)(rows, copies)

        return priced, under

    def _chosen(
        self,
        constraints: Sequence[Constraint],
        texts: list[str],
        priced: Sequence[Priced],
        free: Floats,
        under: _Under,
    ) -> tuple[list[str], list[Priced]]:
        """Answers that are chosen among candidates where the best ones miss a bound, and all prices.

        Args:
            texts: Best answers to the served rows under the prices of lines.
            priced: Those prices.
            free: Constrained rewards without any price, ``[fitted row, constraint]``.
        """
        bounds, shown = self._bounds(constraints, self._fitted_on), free
        if under is not _unpriced:
            own = texts
            if self._fitted_on is not self._rows:
                own = self._answering.greedy(self._fitted_on, under(self._fitted_on, 1), 1, "prices")
            shown = self._values(bounds, own)
        margins: Floats = np.zeros(len(constraints))
        if self._config.fit == "validation":
            margins = bounds.margins(shown)
        found = Found(np.zeros(len(constraints)), bounds.slacks(mean(shown, axis=0), margins))
        if (found.slacks < 0).any():
            drawn, choice = self._choice(constraints, self._fitted_on, under)
            found = choice.fit(found.slacks, margins)
            if found.prices.any():
                if self._fitted_on is not self._rows:
                    drawn, choice = self._choice(constraints, self._rows, under)
                texts = drawn.chosen(choice.chosen(found.prices[None])[0]).texts
        free_means = mean(free, axis=0)
        of_lines = {one.name: one.price for one in priced}
        held = bounds.means(found.slacks, margins)
        return texts, [
            Priced(
                name=c.name,
                price=of_lines.get(c.name),
                free=float(free_means[k]),
                held=float(held[k]),
                bound=c.bound,
                met=bool(found.slacks[k] >= 0),
                choice=float(found.prices[k]),
            )
            for k, c in enumerate(constraints)
        ]

    def _choice(
        self, constraints: Sequence[Constraint], rows: Sequence[Row], under: _Under
    ) -> tuple[Drawn, Choice]:
        copies, bounds = self._config.candidates, self._bounds(constraints, rows)
        drawn = self._answering.candidates(rows, under(rows, copies), copies)
        values = bounds.values(self._scored(rows, drawn.texts, copies), copies)
        return drawn, Choice(bounds, drawn.logprobs, values)

    def _bounds(self, constraints: Sequence[Constraint], rows: Sequence[Row]) -> Bounds:
        return Bounds(self._engine.names, self._problem, constraints, rows)

    def _values(self, bounds: Bounds, texts: Sequence[str]) -> Floats:
        """Constrained rewards of one answer to each row, ``[row, constraint]``."""
        return bounds.values(self._scored(bounds.rows, texts, 1))[:, 0]

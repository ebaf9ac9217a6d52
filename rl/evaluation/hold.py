"""Bounds that deployed answers hold: prices on what a policy may choose, fitted on the users that are served.

A policy that meets a bound in its sampled answers may miss it in those that are shown, since greedy decoding
shows its likeliest answer alone. So every constraint that can be judged without the outcome gets a price, in
nats per unit of its reward. Where a line has a value, what it adds to the reward, times the price, is added
to the line's log-probability while the list is written (:class:`Hold`); what judges whole answers is priced
in a choice among several (:mod:`recrl.rl.evaluation.choice`). The smallest prices that meet the bounds
interfere least.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from ...envs.task import Lines, Row, Task, evenly
from ...rewards import Reward, RewardEngine
from ...rewards.base import PER_TAG
from ..decoding.deploy import Bonuses
from ..optimizer.constraints import Constraint
from ..optimizer.problem import Problem
from .bounds import Bounds, Floats
from .prices import Slacks, smallest_prices
from .settings import EvaluationConfig

# Rows, bonuses and copies -> answers; rows, answers and copies -> scores.
Answering = Callable[[Sequence[Row], Bonuses, int], Sequence[str]]
Scoring = Callable[[Sequence[Row], Sequence[str], int], npt.NDArray[np.floating]]

# Rows of the first search, spread evenly.
_SOME = 256
# Rows of a table of gains that are scored together.
_AT_ONCE = 128


@dataclass(frozen=True)
class Priced:
    """Price of one constraint.

    Attributes:
        name: Name of the constraint.
        price: Nats per unit of its reward, while lines are written; None where no line has a value.
        free, held: Mean of the constrained value without any price, and with all of them.
        bound: Bound on that mean.
        met: Whether the bound holds on the rows that the price was fitted on.
        choice: Nats per unit of its reward in the choice among candidates; None without such a choice.
    """

    name: str
    price: float | None
    free: float
    held: float
    bound: float
    met: bool
    choice: float | None = None


def holdable(
    task: Task,
    engine: RewardEngine,
    problem: Problem,
    config: EvaluationConfig,
    rows: Sequence[Row],
    outcomes: Collection[str] | None = None,
) -> tuple[list[Constraint], dict[str, str]]:
    """Constraints that prices can hold in deployed answers, and for each other one why not.

    Args:
        rows: Rows that are answered.
        outcomes: Columns that are not known when answers are served; by default those of the task.
    """
    outcomes = task.outcomes if outcomes is None else outcomes
    able, why_not = [], {}
    rewards = {reward.name: reward for reward in engine.rewards}
    for constraint in problem.constraints:
        reward = rewards[constraint.reward]
        why = None
        if constraint.kind != "mean":
            why = f"it is a {constraint.kind}, not a mean"
        elif config.fit == "validation" and "validation" not in task.splits:
            why = "evaluation.fit=validation, but the task has no such split; set it to population"
        elif reason := engine.unheld(reward.name, outcomes):
            why = f"{reward.name} {reason}"
        elif config.candidates == 1 and not by_line(task, reward, config):
            why = f"no line has a value for {reward.name} here; set evaluation.candidates to 2 or more"
        elif constraint.segment is not None and constraint.segment.column in outcomes:
            why = f"the column {constraint.segment.column} is not known yet"
        elif constraint.segment is not None and not any(
            str(row[constraint.segment.column]) == constraint.segment.value for row in rows
        ):
            why = f"no prompt is of {constraint.segment}"
        if why is None:
            able.append(constraint)
        else:
            why_not[constraint.name] = why
    return able, why_not


def by_line(task: Task, reward: Reward, config: EvaluationConfig) -> bool:
    """Whether a reward has a value for a line, and answers are lists of different options."""
    return isinstance(task.form, Lines) and config.decoding == "distinct" and reward.per in PER_TAG


class Hold:
    """Prices on the lines of answers, of some constraints over some rows.

    Args:
        constraints: Constraints of :func:`holdable` that :func:`by_line` lets price.
        rows: Rows that are answered.
    """

    def __init__(
        self,
        task: Task,
        engine: RewardEngine,
        problem: Problem,
        constraints: Sequence[Constraint],
        rows: Sequence[Row],
    ) -> None:
        self._engine, self._constraints = engine, list(constraints)
        self._rows, self._form = rows, cast(Lines, task.form)
        self._bounds = Bounds(engine.names, problem, constraints, rows)
        self._gains: dict[int, npt.NDArray[np.float32]] = {}

    def fit(
        self,
        answer: Answering,
        scored: Scoring,
        *,
        unpriced: Sequence[str] | None = None,
        margin: bool = False,
    ) -> tuple[Floats, list[Priced]]:
        """The smallest prices that meet the bounds: on some rows first, then on all.

        Args:
            answer: Function that lets the policy answer some rows, so many times each, under bonuses.
            scored: Function that scores such answers, ``[answer, reward]``.
            unpriced: Answers without prices, where they are known.
            margin: Whether the lower end of the slack's interval must reach 0, not its mean alone.

        Returns:
            Prices ``[constraint]``, and what they attain.
        """
        bounds, tolerance = self._bounds, self._bounds.tolerance
        # A line's gain times such a price is about a nat.
        steps = [1 / self._span(k) for k in range(len(self._constraints))]

        def values(prices: Floats, chosen: Sequence[int], texts: Sequence[str] | None = None) -> Floats:
            """``[row, copy, constraint]``; NaN in rows outside of a constraint's segment."""
            rows, copies = [self._rows[i] for i in chosen], len(prices)
            if texts is None:
                texts = answer(rows, self.bonuses(prices, chosen), copies)
            return bounds.values(scored(rows, texts, copies), copies, chosen)

        every = list(range(len(self._rows)))
        own = values(np.zeros((1, len(steps))), every, unpriced)[:, 0]
        free = np.nanmean(own, axis=0)
        margins = bounds.margins(own) if margin else np.zeros(len(steps))

        def slacks(chosen: Sequence[int]) -> Slacks:
            def at(prices: Floats) -> Floats:
                return bounds.slacks(np.nanmean(values(prices, chosen), axis=0), margins)

            return at

        slack = bounds.slacks(free, margins)
        prices: Floats = np.zeros(len(steps))
        if (slack < 0).any():
            some = evenly(len(every), _SOME)
            if len(some) < len(every) and bounds.inside[some].any(axis=0).all():
                prices = smallest_prices(slacks(some), steps, tolerance).prices
            known = None if prices.any() else slack
            found = smallest_prices(slacks(every), steps, tolerance, prices, known)
            slack, prices = found.slacks, found.prices
        held = bounds.means(slack, margins)
        return prices, [
            Priced(c.name, float(prices[k]), float(free[k]), float(held[k]), c.bound, bool(slack[k] >= 0))
            for k, c in enumerate(self._constraints)
        ]

    def bonuses(self, prices: Floats, chosen: Sequence[int] | None = None) -> Bonuses:
        """Additions to the log-probability of each option.

        Args:
            prices: ``[copies, constraint]``.
            chosen: Numbers of the rows that are answered; all by default.
        """
        numbers = range(len(self._rows)) if chosen is None else chosen
        weights = torch.from_numpy((prices * self._bounds.signs).astype(np.float32))

        def found(first: int, end: int) -> torch.Tensor:
            rows = list(numbers[first:end])
            gains = np.stack([self._gain(row) for row in rows])
            inside = self._bounds.inside[rows, None, :]
            return torch.einsum("rok,ck->rco", torch.from_numpy(gains * inside), weights)

        return found

    def _gain(self, row: int) -> npt.NDArray[np.float32]:
        """What each option adds to each constrained reward in a row, ``[option, constraint]``."""
        if row not in self._gains:
            numbers = range(row, min(row + _AT_ONCE, len(self._rows)))
            rows = [self._rows[i] for i in numbers]
            names = [key for key in rows[0] if key != "prompt"]
            found = self._engine.score_lines(
                [row["prompt"] for row in rows],
                {name: [row[name] for row in rows] for name in names},
                [self._form.render([i]) for i in range(len(self._form.options))],
                {c.reward for c in self._constraints},
            )[:, :, self._bounds.columns]
            self._gains |= dict(zip(numbers, found, strict=True))
        return self._gains[row]

    def _span(self, k: int) -> float:
        """Typical distance between the options that add most and least to a constraint's reward."""
        gains = np.stack([self._gain(row)[:, k] for row in range(min(_AT_ONCE, len(self._rows)))])
        return float(np.median(gains.max(axis=1) - gains.min(axis=1))) or 1.0


def as_json(priced: Sequence[Priced], why_not: Mapping[str, str], config: EvaluationConfig) -> dict[str, Any]:
    """What an evaluation keeps of the prices of one policy."""
    chosen = {"candidates": config.candidates} if any(one.choice is not None for one in priced) else {}
    prices = [asdict(one) for one in priced]
    return {"fit": config.fit, **chosen, "prices": prices, "not held": dict(why_not)}

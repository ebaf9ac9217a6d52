"""Bounds on the means of rewards over some rows, and how far answers are from them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...envs.statistics import Estimate, Values, estimate
from ...envs.task import Row
from ..optimizer.constraints import Constraint
from ..optimizer.problem import Problem, segment_indicators

Floats = npt.NDArray[np.floating]

# Slack that is as good as none, as a share of what a reward's values span.
_TOLERANCE = 1e-3


class Bounds:
    """Constraints on means over some rows.

    Args:
        names: Rewards, in the order of the columns of scores.
        constraints: Constraints of kind ``mean``.

    Attributes:
        columns: Column of each constraint's reward, ``[constraint]``.
        signs: 1 where more of the reward is better, else -1.
        tolerance: Slack of each that is as good as none.
        inside: Rows that each constraint speaks of, ``[row, constraint]``.
    """

    def __init__(
        self, names: Sequence[str], problem: Problem, constraints: Sequence[Constraint], rows: Sequence[Row]
    ) -> None:
        self.constraints, self.rows = list(constraints), rows
        self.columns = [names.index(c.reward) for c in self.constraints]
        self.signs = np.array([c.sign for c in self.constraints], dtype=float)
        self._levels = np.array([c.bound for c in self.constraints], dtype=float)
        ranges = [problem.ranges[c.reward] for c in self.constraints]
        self.tolerance = [_TOLERANCE * min(1.0, high - low) for low, high in ranges]
        self.inside = rows_inside(problem, self.constraints, rows)

    def values(self, scores: Floats, copies: int = 1, chosen: Sequence[int] | None = None) -> Floats:
        """Constrained rewards of answers, ``[row, copy, constraint]``; NaN outside of a segment.

        Args:
            scores: Scores of ``copies`` answers to each row, ``[answer, reward]``.
            chosen: Numbers of the rows that were answered; all by default.
        """
        inside = self.inside if chosen is None else self.inside[chosen]
        found = scores[:, self.columns].reshape(len(inside), copies, -1).astype(float)
        return np.where(inside[:, None, :], found, np.nan)

    def slacks(self, means: Floats, margins: Floats) -> Floats:
        """Distance of means from the bounds, ``[..., constraint]``, 0 or more where met with the margin."""
        return self.signs * (means - self._levels) - margins

    def means(self, slacks: Floats, margins: Floats) -> Floats:
        """Means that have these slacks."""
        return self._levels + self.signs * (slacks + margins)

    def margins(self, values: Floats) -> Floats:
        """Distance of each mean from the lower end of its interval.

        Args:
            values: ``[row, constraint]``.
        """
        users = np.array([row["user"] for row in self.rows])
        found = [estimate(column, users) for column in values.T]
        return np.array([one.mean - one.low for one in found])


def mean(values: Floats, axis: int) -> Floats:
    """Mean of the values that are there; NaN where none is."""
    present = ~np.isnan(values)
    counts = present.sum(axis=axis)
    return np.where(counts, np.where(present, values, 0.0).sum(axis=axis) / np.maximum(counts, 1), np.nan)


def slack_of(
    constraint: Constraint,
    inside: npt.NDArray[np.bool_],
    values: Values,
    users: npt.NDArray[Any],
) -> Estimate | None:
    """Slack of a mean over the rows that it speaks of; None where none of them has a value.

    Args:
        inside: ``[row]``, see :func:`rows_inside`.
        values: ``[row]``, the constrained reward.
        users: ``[row]``, over which the interval is bootstrapped.
    """
    values = np.where(inside, values, np.nan)
    if np.isnan(values).all():
        return None
    return estimate(constraint.sign * (values - constraint.bound), users)


def rows_inside(
    problem: Problem, constraints: Sequence[Constraint], rows: Sequence[Row]
) -> npt.NDArray[np.bool_]:
    """``[row, constraint]``: rows that a constraint speaks of, all but for one of a segment."""
    inside = np.ones((len(rows), len(constraints)), dtype=bool)
    columns = {name: [row[name] for row in rows] for name, _ in problem.segments}
    members = segment_indicators(problem, columns, len(rows)).numpy() == 1
    for k, constraint in enumerate(constraints):
        if constraint.segment is not None:
            inside[:, k] = members[:, problem.segments.index(constraint.segment)]
    return inside

"""Units measured from the data, where none is declared."""

import logging

import torch
from torch import Tensor

from .groups import within_group
from .problem import Problem

logger = logging.getLogger(__name__)


class UnitCalibration:
    """Pooled within-group std of objective and constrained values over the first batches, then frozen.

    Until a column is frozen its estimate so far is used. Declared units are measured too, to warn when one is
    far from what the data show. Column 0 is the objective, column 1 + k constraint k.

    Checkpoint behaviour: `Duals` owns it, steps it and saves `squares`, `freedom` and `batches`.
    """

    def __init__(self, problem: Problem, limit: int) -> None:
        objective, constraints, _ = problem.declared_units()
        self.problem, self.limit = problem, limit
        self.declared = torch.cat([torch.tensor([objective], dtype=torch.float64), constraints])
        self.squares = torch.zeros_like(self.declared)
        self.freedom = torch.zeros_like(self.declared)
        self.batches = torch.zeros_like(self.declared)

    def observe(self, values: Tensor) -> None:
        """Add one batch, `[group, sample, column]`."""
        if (self.batches >= self.limit).all():
            return
        deviations, counts = within_group(values)
        squares = deviations.square().sum(dim=(0, 1))
        # A batch without variation says nothing about the unit, so it does not use up the limit.
        counted = (self.batches < self.limit) & (squares > 0)
        self.squares += squares.where(counted, 0.0)
        self.freedom += (counts - 1).clamp(min=0).sum(dim=(0, 1)).where(counted, 0)
        self.batches += counted
        done = counted & (self.batches == self.limit)
        ratios = (self.spread / self.declared).where(done, torch.nan).tolist()
        self._warn(self.problem.objective, ratios[0])
        for constraint, ratio in zip(self.problem.constraints, ratios[1:], strict=True):
            if constraint.kind == "mean":  # an indicator's spread follows from its share: nothing to correct
                self._warn(constraint.name, ratio)

    def _warn(self, name: str, ratio: float) -> None:
        if ratio < 0.25 or ratio > 4:
            logger.warning(
                "%s: the spread within groups is %.3g times its unit, expected 0.25 to 4; declare a "
                "unit near the spread, or check the declared range",
                *(name, ratio),
            )

    @property
    def spread(self) -> Tensor:
        """Pooled within-group standard deviation so far, `[column]`; NaN before any variation."""
        return (self.squares / self.freedom).sqrt()

    @property
    def units(self) -> Tensor:
        """Units `[column]`: declared, else measured; NaN where neither is known yet."""
        return self.declared.where(~self.declared.isnan(), self.spread)

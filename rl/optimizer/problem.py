"""The constrained problem: objective, constraints, and their values in a batch of rewards.

Torch is imported where tensors are made: a configuration states and checks its problem without it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

from ...envs.settings import SMALLEST_UNIT, nearest
from .constraints import Constraint, Segment, parse_constraint

if TYPE_CHECKING:
    from torch import Tensor


class Units(NamedTuple):
    """Constants that divide rewards, the same for all prompts; NaN = still to be calibrated."""

    objective: float
    constraints: Tensor  # [constraint] float64
    coverage: Tensor | None = None
    """Share of the samples on which objective and constraints have a value, `[1 + constraint]`; None: all."""


@dataclass(frozen=True)
class Problem:
    """One objective, constraints on other rewards, and the declared range of every reward.

    Args:
        objective: Name of the reward to maximise.
        constraints: Constraints; their order is that of multipliers and of `constraint_values`.
        ranges: Declared (low, high) of every reward, metrics included, in the order of the reward columns.
        objective_unit: u_R; None takes half of the declared range, or calibration if that is infinite.
        weights: Weight of each reward, for rules that add rewards up; a missing name weighs 0. See
            `sum_weights`.

    Raises:
        ValueError: A name, range, bound or pair of constraints cannot be right; the message says the fix.
    """

    objective: str
    constraints: tuple[Constraint, ...]
    ranges: Mapping[str, tuple[float, float]]
    objective_unit: float | None = None
    weights: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        objective: str,
        constraints: Sequence[str | Constraint],
        ranges: Mapping[str, tuple[float, float]],
        objective_unit: float | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> Self:
        """Build a problem as the constructor does, but constraints may be text for `parse_constraint`."""
        parsed = [parse_constraint(item) if isinstance(item, str) else (item,) for item in constraints]
        return cls(objective, sum(parsed, ()), dict(ranges), objective_unit, dict(weights or {}))

    def __post_init__(self) -> None:
        _check_known("objective", [self.objective], self.names)
        _check_known("constraint", [c.reward for c in self.constraints], self.names)
        _check_known("weights", self.weights, self.names)
        for name, (low, high) in self.ranges.items():
            if not low < high or high - low < 2 * SMALLEST_UNIT:
                raise ValueError(f"range of {name!r} is ({low}, {high}); write (low, high) with low < high")
        if self.objective_unit is not None and not SMALLEST_UNIT <= self.objective_unit < math.inf:
            raise ValueError(
                f"objective_unit={self.objective_unit} must be at least {SMALLEST_UNIT:g}; or drop it"
            )
        for i, constraint in enumerate(self.constraints):
            self._check_bound(constraint)
            for earlier in self.constraints[:i]:
                _check_pair(earlier, constraint)

    def _check_bound(self, constraint: Constraint) -> None:
        low, high = self.ranges[constraint.reward]
        levels = [constraint.cut]
        if constraint.kind != "rate":
            levels = [constraint.cut if constraint.start is None else constraint.start, constraint.target]
        outside = [level for level in levels if not low <= level <= high]
        if outside:
            raise ValueError(
                f"constraint {constraint.name!r}: {outside[-1]:g} is outside [{low:g}, {high:g}], the "
                f"range of {constraint.reward}; change the bound, the margin, or the declared range"
            )
        lowest = self.ranges[self.objective][0]
        if constraint.kind == "gate" and lowest < 0:
            raise ValueError(
                f"gate {constraint.name!r}: a violation sets the objective to 0, which beats negative "
                f"values of {self.objective} (range from {lowest:g}); let it start at 0, or use "
                f"'{constraint.reward} {constraint.sense} {constraint.bound:g} for 0.99 (rate)'"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Reward names in the order of the reward columns."""
        return tuple(self.ranges)

    @property
    def directions(self) -> dict[str, float]:
        """Direction of each reward: +1 if more is better, -1 if less is, 0 for a metric or a band, whose
        better side varies."""
        wanted: dict[str, set[float]] = {name: set() for name in self.names}
        wanted[self.objective].add(1.0)
        for constraint in self.constraints:
            wanted[constraint.reward].add(1.0 if constraint.sense == ">=" else -1.0)
        return {name: sum(signs) for name, signs in wanted.items()}

    @property
    def sum_weights(self) -> Mapping[str, float]:
        """Weights for rules that add rewards up: as declared, else the same for all, in their direction."""
        return self.weights if any(self.weights.values()) else self.directions

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Segments that constraints name, each once; see `segment_indicators`."""
        return tuple(dict.fromkeys(c.segment for c in self.constraints if c.segment is not None))

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of a score matrix: the rewards, then one 0/1 indicator per segment."""
        return (*self.names, *map(str, self.segments))

    def declared_units(self) -> Units:
        """Declared units, else half of the declared range (0.5 for an indicator), NaN where infinite."""
        import torch

        def unit(declared: float | None, low: float, high: float) -> float:
            half_range = (high - low) / 2
            return declared if declared is not None else half_range if math.isfinite(half_range) else math.nan

        ranges = [self.ranges[c.reward] if c.kind == "mean" else (0.0, 1.0) for c in self.constraints]
        units = [unit(c.unit, *span) for c, span in zip(self.constraints, ranges, strict=True)]
        objective = unit(self.objective_unit, *self.ranges[self.objective])
        return Units(objective, torch.tensor(units, dtype=torch.float64))

    def spec_hash(self) -> str:
        """SHA-256 of all that decides what is optimised; adding or reordering metrics leaves it unchanged."""
        objective_unit, units, _ = self.declared_units()
        parts = zip(self.constraints, units.tolist(), strict=True)
        rows = sorted(
            [c.key, float(c.bound), float(c.margin), unit, str(c.start), c.over] for c, unit in parts
        )
        weights = sorted((name, float(weight)) for name, weight in self.weights.items() if weight)
        spec = [self.objective, float(objective_unit), rows, weights]
        return hashlib.sha256(json.dumps(spec).encode()).hexdigest()


def _check_known(setting: str, names: Iterable[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{setting}: unknown reward {name!r}{nearest(name, known, cutoff=0.0)}")


def _check_pair(one: Constraint, other: Constraint) -> None:
    if one.name == other.name or one.key == other.key:
        raise ValueError(f"constraints {one.name!r} and {other.name!r} are duplicates; keep the stricter one")
    if (one.reward, one.segment) != (other.reward, other.segment) or one.sense == other.sense:
        return
    lower, upper = (one, other) if one.sense == ">=" else (other, one)
    kinds = {one.kind, other.kind}
    if "rate" in kinds:  # disjoint sets of responses hold at most everything; a mean may mix them
        shares = [c.bound if c.kind == "rate" else 1.0 for c in (one, other)]
        crossed = lower.cut > upper.cut and sum(shares) > 1 and "mean" not in kinds
    else:
        crossed = lower.target > upper.target
    if crossed:
        fix = "lower the first or raise the second (margins count)"
        raise ValueError(f"constraints {lower.name!r} and {upper.name!r} contradict each other; {fix}")


def constraint_values(problem: Problem, rewards: Tensor) -> Tensor:
    """Constrained values: the reward for kind mean, the indicator of compliance for rate and gate.

    Args:
        problem: Problem that names the columns.
        rewards: Scores, `[..., column]`, see `Problem.columns`; NaN or infinite = missing.

    Returns:
        Values `[..., constraint]`, float64 on the same device; NaN = missing, or outside of the segment.
    """
    import torch

    values = rewards.new_empty((*rewards.shape[:-1], len(problem.constraints)), dtype=torch.float64)
    for k, constraint in enumerate(problem.constraints):
        reward = rewards[..., problem.names.index(constraint.reward)]
        value = reward
        if constraint.kind != "mean":
            # The comparison is in the rewards' own precision: as float64, float32(0.9) would fail 0.9.
            cut = constraint.cut
            value = (reward >= cut if constraint.sense == ">=" else reward <= cut).to(reward.dtype)
        seen = reward.isfinite()
        if constraint.segment is not None:
            seen = seen & (rewards[..., problem.columns.index(str(constraint.segment))] == 1)
        values[..., k] = torch.where(seen, value, torch.nan)
    return values


def segment_indicators(problem: Problem, columns: Mapping[str, Iterable[object]], samples: int) -> Tensor:
    """Membership of samples in segments: `[sample, segment]` float32 of 0 and 1.

    Args:
        problem: Problem that names the segments.
        columns: Dataset columns, one entry a sample.
        samples: Number of samples, for a problem without segments.

    Raises:
        ValueError: a column is missing.
    """
    import torch

    indicators = torch.zeros(samples, len(problem.segments))
    for j, (column, value) in enumerate(problem.segments):
        if column not in columns:
            raise ValueError(
                f"a constraint holds where {column}={value}, but the data have no column {column!r}; they "
                f"have: {', '.join(columns)}"
            )
        indicators[:, j] = torch.tensor([float(str(entry) == value) for entry in columns[column]])
    return indicators


def objective_values(problem: Problem, rewards: Tensor) -> Tensor:
    """Objective times the indicator of every gate: `[..., column]` -> `[...]` float64, NaN = missing.

    A gate that is missing on a sample makes the objective missing there: not knowing is not complying.
    """
    import torch

    reward = rewards[..., problem.names.index(problem.objective)]
    gates = [k for k, constraint in enumerate(problem.constraints) if constraint.kind == "gate"]
    indicators = constraint_values(problem, rewards)[..., gates]
    return torch.where(reward.isfinite(), reward, torch.nan).double() * indicators.prod(dim=-1)

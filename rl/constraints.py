"""The constrained problem: what is maximised, what is held at a target, and in which units.

    max E[R] - beta KL(pi || pi_ref)   subject to   E[r_k] >= b_k  (or <=; a band is two constraints)

`parse_constraint` reads a constraint from text and `Problem` validates the whole. `objective_values` and
`constraint_values` turn named rewards into the columns that are optimised; `Units` are what those columns are
divided by. Nothing here changes in training: multipliers live in `duals`, their use in `advantages`.
"""

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import torch
from torch import Tensor

KINDS = {
    "mean": "the average of the reward over responses meets the bound, as in 'novelty >= 0.3 (mean)'",
    "rate": "a share of the responses meets the bound, as in 'diversity >= 0.55 for 0.9 (rate)'",
    "gate": "every single response must meet the bound, as in 'validity >= 1 (gate)'",
}
_KINDS = "kinds: " + "; ".join(f"({kind}) {meaning}" for kind, meaning in KINDS.items())

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_CONSTRAINT = re.compile(
    rf"\s*(?P<reward>[A-Za-z_][\w./-]*)\s*"
    rf"(?:(?P<sense>>=|<=)\s*(?P<cut>{_NUMBER})|in\s*\[\s*(?P<low>{_NUMBER})\s*,\s*(?P<high>{_NUMBER})\s*\])"
    rf"(?:\s+for\s+(?P<share>{_NUMBER}))?\s*"
    rf"(?:\(\s*(?P<kind>\w*)\s*(?:,\s*margin\s*=\s*(?P<margin>{_NUMBER})\s*)?"
    rf"(?:,\s*unit\s*=\s*(?P<unit>{_NUMBER})\s*)?\))?\s*"
)


class Units(NamedTuple):
    """Constants that rewards are divided by, the same for all prompts; NaN = still to be calibrated."""

    objective: float
    constraints: Tensor  # [constraint] float64


@dataclass(frozen=True)
class Constraint:
    """One requirement on one reward; `parse_constraint` writes it from text.

    The constrained *value* is the reward itself for kind mean; for rate and gate it is the indicator that a
    response complies, so a rate always asks for more of its value, whichever way its threshold points.
    """

    reward: str
    sense: str
    """'>=' or '<=': direction of the bound (mean, gate) or of the per-sample threshold (rate)."""
    bound: float
    """Bound on the reward (mean, gate), or the least share of complying responses (rate)."""
    kind: str
    """'mean', 'rate' or 'gate'; see `KINDS`."""
    threshold: float | None = None
    """Per-sample threshold; for kind rate only."""
    margin: float = 0.0
    """Distance kept from the bound while training, in the units of the constrained value, >= 0."""
    unit: float | None = None
    """How much of the value counts as one step of violation; None leaves the choice to `Problem`."""
    name: str = ""
    """Unique name and metric key; derived from the other fields when empty."""

    def __post_init__(self) -> None:
        def refuse(failed: bool, message: str) -> None:
            if failed:
                raise ValueError(f"constraint on {self.reward!r}: {message}")

        rate, threshold, unit = self.kind == "rate", self.threshold, self.unit
        refuse(self.kind not in KINDS, f"unknown kind {self.kind!r}; {_KINDS}")
        refuse(self.sense not in (">=", "<="), f"unknown sense {self.sense!r}; use '>=' or '<='")
        refuse(rate != (threshold is not None), f"{threshold=} with kind {self.kind}; a rate alone needs one")
        refuse(not math.isfinite(self.bound + self.cut), f"bound {self.bound} or {threshold=} is not finite")
        refuse(not 0 <= self.margin < math.inf, f"margin={self.margin} must be >= 0: it tightens the bound")
        refuse(rate and not 0 < self.bound <= self.target <= 1, f"share {self.target:g} must be in (0, 1]")
        refuse(
            unit is not None and not 0 < unit < math.inf, f"{unit=} must be positive; drop it for the default"
        )
        refuse(self.kind == "gate" and (self.margin, unit) != (0, None), "a gate has no margin and no unit")
        if not self.name:
            suffix = {"mean": "", "rate": f" for {self.bound:g}", "gate": " (gate)"}[self.kind]
            object.__setattr__(self, "name", f"{self.reward} {self.sense} {self.cut:g}{suffix}")

    @property
    def sign(self) -> int:
        """+1 when the constrained value has to be raised, -1 when it has to be lowered."""
        return -1 if self.kind == "mean" and self.sense == "<=" else 1

    @property
    def target(self) -> float:
        """What training aims at: the bound, tightened by the margin."""
        return self.bound + self.sign * self.margin

    @property
    def cut(self) -> float:
        """The level that the reward is compared with: threshold for a rate, bound otherwise."""
        return self.bound if self.threshold is None else self.threshold

    @property
    def key(self) -> str:
        """What is constrained, without how far: identifies a constraint whose bound was edited."""
        threshold = "" if self.threshold is None else float(self.threshold)
        return f"{self.reward} {self.sense} {threshold} ({self.kind})"


def parse_constraint(text: str) -> tuple[Constraint, ...]:
    """Read one constraint from text; a band gives two constraints.

    Args:
        text: `novelty >= 0.30 (mean)`, `length in [6, 11] (mean)`, `diversity >= 0.55 for 0.9 (rate)` or
            `validity >= 1.0 (gate)`. Options follow the kind: `(mean, margin=0.02, unit=0.1)`.

    Raises:
        ValueError: The text does not parse, or does not name its kind.

    Example:
        >>> [c.name for c in parse_constraint("length in [6, 11] (mean)")]
        ['length >= 6', 'length <= 11']
    """
    match = _CONSTRAINT.fullmatch(text)
    if match is None:
        forms = "'REWARD >= X (KIND)', 'REWARD in [LOW, HIGH] (KIND)' or 'REWARD >= X for SHARE (rate)'"
        options = "after the kind may follow ', margin=X' and then ', unit=X'"
        raise ValueError(f"constraint {text!r} does not parse; write {forms}, <= too; {options}; {_KINDS}")
    reward, sense, share, kind = match["reward"], match["sense"], match["share"], match["kind"]
    if kind not in KINDS:
        found = f"the unknown kind {kind!r}" if kind else "no kind"
        raise ValueError(f"constraint {text!r} has {found}; end it with its kind; {_KINDS}")
    if (kind == "rate") != (share is not None):
        fix = f"write '{reward} >= X for SHARE (rate)', or drop 'for SHARE' with another kind"
        raise ValueError(f"constraint {text!r}: kind rate and 'for SHARE' belong together; {fix}")
    margin, unit = float(match["margin"] or 0), float(match["unit"]) if match["unit"] else None

    if sense is not None:
        cut = float(match["cut"])
        bound, threshold = (cut, None) if share is None else (float(share), cut)
        return (Constraint(reward, sense, bound, kind, threshold, margin, unit),)
    low, high = float(match["low"]), float(match["high"])
    if kind == "rate" or not low < high:
        fix = "a band needs LOW < HIGH and kind mean or gate; write one rate per side"
        raise ValueError(f"constraint {text!r}: {fix}")
    if kind == "mean" and unit is None:
        unit = (high - low) / 2  # to be off by the half-width is one step of violation
    sides = ((">=", low), ("<=", high))
    return tuple(Constraint(reward, side, end, kind, None, margin, unit) for side, end in sides)


@dataclass(frozen=True)
class Problem:
    """One objective, constraints on other rewards, and the declared range of every reward.

    Args:
        objective: Name of the reward to maximise.
        constraints: What has to hold; its order is that of multipliers and of `constraint_values`.
        ranges: Declared (low, high) of every reward, metrics included, in the order of the reward columns.
        objective_unit: u_R; None takes half of the declared range, or calibration when that is infinite.
        weights: Weight of each reward, for the rule `weighted_sum` only; a missing name weighs 0.

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
        """Like the constructor, but constraints may be text for `parse_constraint`."""
        parsed = [parse_constraint(item) if isinstance(item, str) else (item,) for item in constraints]
        return cls(objective, sum(parsed, ()), dict(ranges), objective_unit, dict(weights or {}))

    def __post_init__(self) -> None:
        _check_known("objective", [self.objective], self.names)
        _check_known("constraint", [c.reward for c in self.constraints], self.names)
        _check_known("weights", self.weights, self.names)
        for name, (low, high) in self.ranges.items():
            if not low < high:
                raise ValueError(f"range of {name!r} is ({low}, {high}); write (low, high) with low < high")
        if self.objective_unit is not None and not 0 < self.objective_unit < math.inf:
            raise ValueError(f"objective_unit={self.objective_unit} must be positive; or drop it")
        for i, constraint in enumerate(self.constraints):
            self._check_bound(constraint)
            for earlier in self.constraints[:i]:
                _check_pair(earlier, constraint)

    def _check_bound(self, constraint: Constraint) -> None:
        low, high = self.ranges[constraint.reward]
        levels = (constraint.cut, constraint.cut if constraint.kind == "rate" else constraint.target)
        if not low <= min(levels) <= max(levels) <= high:
            raise ValueError(
                f"constraint {constraint.name!r}: {levels[1]:g} is outside [{low:g}, {high:g}], the "
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

    def declared_units(self) -> Units:
        """Declared units, else half of the declared range (0.5 for an indicator), NaN where infinite."""

        def unit(declared: float | None, low: float, high: float) -> float:
            half_range = (high - low) / 2
            return declared if declared is not None else half_range if math.isfinite(half_range) else math.nan

        ranges = [self.ranges[c.reward] if c.kind == "mean" else (0.0, 1.0) for c in self.constraints]
        units = [unit(c.unit, *span) for c, span in zip(self.constraints, ranges, strict=True)]
        objective = unit(self.objective_unit, *self.ranges[self.objective])
        return Units(objective, torch.tensor(units, dtype=torch.float64))

    def spec_hash(self) -> str:
        """SHA-256 of all that decides what is optimised; adding or reordering metrics leaves it unchanged."""
        objective_unit, units = self.declared_units()
        parts = zip(self.constraints, units.tolist(), strict=True)
        rows = sorted([c.key, float(c.bound), float(c.margin), unit] for c, unit in parts)
        weights = sorted((name, float(weight)) for name, weight in self.weights.items())
        spec = [self.objective, float(objective_unit), rows, weights]
        return hashlib.sha256(json.dumps(spec).encode()).hexdigest()


def _check_known(setting: str, names: Iterable[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            near = "".join(f"did you mean {n!r}? " for n in difflib.get_close_matches(name, known, 1, 0.0))
            raise ValueError(f"{setting}: unknown reward {name!r}; {near}Known: {', '.join(known)}")


def _check_pair(one: Constraint, other: Constraint) -> None:
    if one.name == other.name or one.key == other.key:
        raise ValueError(f"constraints {one.name!r} and {other.name!r} are duplicates; keep the stricter one")
    if one.reward != other.reward or one.sense == other.sense:
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
        problem: Names the columns.
        rewards: `[..., reward]`; NaN or infinite = missing.

    Returns:
        `[..., constraint]` float64 on the same device; NaN = missing.
    """
    values = rewards.new_empty((*rewards.shape[:-1], len(problem.constraints)), dtype=torch.float64)
    for k, constraint in enumerate(problem.constraints):
        reward = rewards[..., problem.names.index(constraint.reward)]
        value = reward
        if constraint.kind != "mean":
            # Compared in the rewards' own precision: as float64, float32(0.9) would fail a threshold of 0.9.
            cut = constraint.cut
            value = (reward >= cut if constraint.sense == ">=" else reward <= cut).to(reward.dtype)
        values[..., k] = torch.where(reward.isfinite(), value, torch.nan)
    return values


def objective_values(problem: Problem, rewards: Tensor) -> Tensor:
    """Objective times the indicator of every gate: `[..., reward]` -> `[...]` float64, NaN = missing.

    A gate that is missing on a sample makes the objective missing there: not knowing is not complying.
    """
    reward = rewards[..., problem.names.index(problem.objective)]
    gates = [k for k, constraint in enumerate(problem.constraints) if constraint.kind == "gate"]
    indicators = constraint_values(problem, rewards)[..., gates]
    return torch.where(reward.isfinite(), reward, torch.nan).double() * indicators.prod(dim=-1)

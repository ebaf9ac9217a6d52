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

from ..envs.settings import MANY, SMALLEST_UNIT

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
    rf"(?:\s+for\s+(?P<share>{_NUMBER}))?"
    rf"(?:\s*->\s*(?P<end>{_NUMBER})\s+over\s+(?P<over>\d+))?"
    rf"(?:\s+where\s+(?P<column>[A-Za-z_]\w*)\s*=\s*(?P<value>[\w.+-]+))?\s*"
    rf"(?:\(\s*(?P<kind>\w*)\s*(?:,\s*margin\s*=\s*(?P<margin>{_NUMBER})\s*)?"
    rf"(?:,\s*unit\s*=\s*(?P<unit>{_NUMBER})\s*)?\))?\s*"
)


class Units(NamedTuple):
    """Constants that rewards are divided by, the same for all prompts; NaN = still to be calibrated."""

    objective: float
    constraints: Tensor  # [constraint] float64
    coverage: Tensor | None = None
    """Share of the samples on which objective and constraints have a value, `[1 + constraint]`; None: all."""


class Segment(NamedTuple):
    """The prompts of which a dataset column has one value, such as cold users."""

    column: str
    value: str

    def __str__(self) -> str:
        return f"{self.column}={self.value}"


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
    segment: Segment | None = None
    """Hold it among these prompts only, with a multiplier of their own; None: among all."""
    start: float | None = None
    """Bound of the first generation batch, from where it moves to `bound` in equal steps; None: no
    schedule."""
    over: int = 0
    """Generation batches that the move takes; with `start` only."""
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
        numbers = (self.bound, self.cut, self.bound if self.start is None else self.start)
        refuse(not all(map(math.isfinite, numbers)), f"bound {self.bound} or {threshold=} is not finite")
        refuse(not 0 <= self.margin < math.inf, f"margin={self.margin} must be >= 0: it tightens the bound")
        refuse(rate and not 0 < self.bound <= self.target <= 1, f"share {self.target:g} must be in (0, 1]")
        refuse(
            unit is not None and not SMALLEST_UNIT <= unit < math.inf,
            f"{unit=} must be positive, {SMALLEST_UNIT:g} at least; drop it for the default",
        )
        refuse(self.kind == "gate" and (self.margin, unit) != (0, None), "a gate has no margin and no unit")
        refuse(
            (self.start is None) != (self.over < 1), f"a schedule needs its start and over={self.over} >= 1"
        )
        refuse(self.over > MANY, f"a schedule takes at most {MANY:,} generation batches")
        refuse(
            self.kind == "gate" and not (self.start is None and self.segment is None),
            "a gate holds for every answer at all times; drop the schedule and the segment",
        )
        refuse(
            rate and self.start is not None and not 0 <= self.start <= 1, f"share {self.start} is no share"
        )
        if not self.name:
            suffix = {"mean": "", "rate": f" for {self.bound:g}", "gate": " (gate)"}[self.kind]
            where = "" if self.segment is None else f" where {self.segment}"
            object.__setattr__(self, "name", f"{self.reward} {self.sense} {self.cut:g}{suffix}{where}")

    @property
    def sign(self) -> int:
        """+1 when the constrained value has to be raised, -1 when it has to be lowered."""
        return -1 if self.kind == "mean" and self.sense == "<=" else 1

    @property
    def target(self) -> float:
        """What training aims at: the bound, tightened by the margin."""
        return self.bound + self.sign * self.margin

    def bound_at(self, generation: int) -> float:
        """The bound that holds at a generation batch, margin aside: `bound` once a schedule has ended."""
        if self.start is None:
            return self.bound
        return self.start + (self.bound - self.start) * min(1.0, generation / self.over)

    @property
    def cut(self) -> float:
        """The level that the reward is compared with: threshold for a rate, bound otherwise."""
        return self.bound if self.threshold is None else self.threshold

    @property
    def key(self) -> str:
        """What is constrained, without how far: identifies a constraint whose bound was edited."""
        threshold = "" if self.threshold is None else float(self.threshold)
        where = "" if self.segment is None else f" where {self.segment}"
        return f"{self.reward} {self.sense} {threshold}{where} ({self.kind})"


def parse_constraint(text: str) -> tuple[Constraint, ...]:
    """Read one constraint from text; a band gives two constraints.

    Args:
        text: `novelty >= 0.30 (mean)`, `length in [6, 11] (mean)`, `diversity >= 0.55 for 0.9 (rate)` or
            `validity >= 1.0 (gate)`. Options follow the kind: `(mean, margin=0.02, unit=0.1)`. A bound, or
            the share of a rate, may move: `novelty >= 0.1 -> 0.3 over 100 (mean)`, in generation batches. A
            segment of the prompts may have its own: `novelty >= 0.3 where segment=cold (mean)`.

    Raises:
        ValueError: The text does not parse, or does not name its kind.

    Example:
        >>> [c.name for c in parse_constraint("length in [6, 11] (mean)")]
        ['length >= 6', 'length <= 11']
    """
    match = _CONSTRAINT.fullmatch(text)
    if match is None:
        forms = "'REWARD >= X (KIND)', 'REWARD in [LOW, HIGH] (KIND)' or 'REWARD >= X for SHARE (rate)'"
        options = (
            "before the kind may stand '-> X over N' and then 'where COLUMN=VALUE'; after it "
            "', margin=X' and then ', unit=X'"
        )
        raise ValueError(f"constraint {text!r} does not parse; write {forms}, <= too; {options}; {_KINDS}")
    reward, sense, share, kind = match["reward"], match["sense"], match["share"], match["kind"]
    if kind not in KINDS:
        found = f"the unknown kind {kind!r}" if kind else "no kind"
        raise ValueError(f"constraint {text!r} has {found}; end it with its kind; {_KINDS}")
    if (kind == "rate") != (share is not None):
        fix = f"write '{reward} >= X for SHARE (rate)', or drop 'for SHARE' with another kind"
        raise ValueError(f"constraint {text!r}: kind rate and 'for SHARE' belong together; {fix}")
    margin, unit = float(match["margin"] or 0), float(match["unit"]) if match["unit"] else None
    segment = Segment(match["column"], match["value"]) if match["column"] else None

    if sense is not None:
        cut = float(match["cut"])
        bound, threshold = (cut, None) if share is None else (float(share), cut)
        start, over = None, 0
        if match["end"]:
            start, bound, over = bound, float(match["end"]), int(match["over"])
        return (Constraint(reward, sense, bound, kind, threshold, margin, unit, segment, start, over),)
    low, high = float(match["low"]), float(match["high"])
    if kind == "rate" or not low < high or match["end"]:
        fix = "a band needs LOW < HIGH, kind mean or gate, and no schedule; write its two sides apart"
        raise ValueError(f"constraint {text!r}: {fix}")
    if kind == "mean" and unit is None:
        unit = (high - low) / 2  # to be off by the half-width is one step of violation
    sides = ((">=", low), ("<=", high))
    return tuple(Constraint(reward, side, end, kind, None, margin, unit, segment) for side, end in sides)


@dataclass(frozen=True)
class Problem:
    """One objective, constraints on other rewards, and the declared range of every reward.

    Args:
        objective: Name of the reward to maximise.
        constraints: What has to hold; its order is that of multipliers and of `constraint_values`.
        ranges: Declared (low, high) of every reward, metrics included, in the order of the reward columns.
        objective_unit: u_R; None takes half of the declared range, or calibration when that is infinite.
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
        """Like the constructor, but constraints may be text for `parse_constraint`."""
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
                f"objective_unit={self.objective_unit} must be positive, {SMALLEST_UNIT:g} at least; or drop "
                "it"
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
        """Per reward: +1 if more is better, -1 if less is, 0 for a metric or a band, whose better side
        varies."""
        wanted: dict[str, set[float]] = {name: set() for name in self.names}
        wanted[self.objective].add(1.0)
        for constraint in self.constraints:
            wanted[constraint.reward].add(1.0 if constraint.sense == ">=" else -1.0)
        return {name: sum(signs) for name, signs in wanted.items()}

    @property
    def sum_weights(self) -> Mapping[str, float]:
        """Weights of the rules that add rewards up: as declared, else the same for all, in their
        direction."""
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
            near = "".join(f"did you mean {n!r}? " for n in difflib.get_close_matches(name, known, 1, 0.0))
            raise ValueError(f"{setting}: unknown reward {name!r}; {near}Known: {', '.join(known)}")


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
        problem: Names the columns.
        rewards: `[..., column]`, see `Problem.columns`; NaN or infinite = missing.

    Returns:
        `[..., constraint]` float64 on the same device; NaN = missing, or outside of the segment.
    """
    values = rewards.new_empty((*rewards.shape[:-1], len(problem.constraints)), dtype=torch.float64)
    for k, constraint in enumerate(problem.constraints):
        reward = rewards[..., problem.names.index(constraint.reward)]
        value = reward
        if constraint.kind != "mean":
            # Compared in the rewards' own precision: as float64, float32(0.9) would fail a threshold of 0.9.
            cut = constraint.cut
            value = (reward >= cut if constraint.sense == ">=" else reward <= cut).to(reward.dtype)
        seen = reward.isfinite()
        if constraint.segment is not None:
            seen = seen & (rewards[..., problem.columns.index(str(constraint.segment))] == 1)
        values[..., k] = torch.where(seen, value, torch.nan)
    return values


def segment_indicators(problem: Problem, columns: Mapping[str, Iterable[object]], samples: int) -> Tensor:
    """Who belongs to which segment: `[sample, segment]` float32 of 0 and 1.

    Args:
        problem: Names the segments.
        columns: Dataset columns, one entry a sample.
        samples: Number of samples, for a problem without segments.

    Raises:
        ValueError: a column is missing.
    """
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
    reward = rewards[..., problem.names.index(problem.objective)]
    gates = [k for k, constraint in enumerate(problem.constraints) if constraint.kind == "gate"]
    indicators = constraint_values(problem, rewards)[..., gates]
    return torch.where(reward.isfinite(), reward, torch.nan).double() * indicators.prod(dim=-1)

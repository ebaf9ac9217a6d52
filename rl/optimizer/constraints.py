"""The constrained problem: what is maximised, what is held at a target, and their units.

    max E[R] - beta KL(pi || pi_ref)   subject to   E[r_k] >= b_k  (or <=; a band is two constraints)

`parse_constraint` reads a constraint from text and `Problem` validates the whole. `objective_values` and
`constraint_values` turn named rewards into the columns that are optimised; `Units` are what those columns are
divided by. Nothing here changes in training: multipliers live in `duals`, their use in `advantages`.
"""

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

from ...envs.settings import MANY, SMALLEST_UNIT

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


class Segment(NamedTuple):
    """The prompts for which a dataset column has one value, such as cold users."""

    column: str
    value: str

    def __str__(self) -> str:
        return f"{self.column}={self.value}"


@dataclass(frozen=True)
class Constraint:
    """One requirement on one reward; `parse_constraint` reads it from text.

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
    """Amount of the value that counts as one step of violation; None leaves the choice to `Problem`."""
    segment: Segment | None = None
    """Prompts among which alone it holds, with a multiplier of their own; None: all."""
    start: float | None = None
    """Bound of the first generation batch, which moves to `bound` in equal steps; None: no schedule."""
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
        """Target of the training: the bound, tightened by the margin."""
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
        """Identity of the constraint without its bound: the same if the bound was edited."""
        threshold = "" if self.threshold is None else float(self.threshold)
        where = "" if self.segment is None else f" where {self.segment}"
        return f"{self.reward} {self.sense} {threshold}{where} ({self.kind})"


def parse_constraint(text: str) -> tuple[Constraint, ...]:
    """Read one constraint from text; a band gives two constraints.

    Args:
        text: Text such as `novelty >= 0.30 (mean)`, `length in [6, 11] (mean)`, `diversity >= 0.55 for 0.9
            (rate)` or `validity >= 1.0 (gate)`. Options follow the kind: `(mean, margin=0.02, unit=0.1)`. A
            bound, or the share of a rate, may move: `novelty >= 0.1 -> 0.3 over 100 (mean)`, in generation
            batches. A segment of the prompts may have its own: `novelty >= 0.3 where segment=cold (mean)`.

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

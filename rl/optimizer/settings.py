"""The section ``optimizer`` of a configuration.

``OptimizerConfig``  what is maximised and what is held at a target
``DualConfig``       controller of the multipliers
``ReferenceConfig``  where the multipliers start
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, field_validator

from ...envs.settings import LARGEST, MANY, SMALLEST_UNIT, Between, Each, Text
from .constraints import parse_constraint
from .rules import find_rule

Credit = Literal["sequence", "tag"]
"""Part that answers for a reward: the whole answer, or each of its tags."""


class DualConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Settings of the dual controller; violations are in units, so the defaults fit every problem."""

    kp: Annotated[float, Between(0, 1000)] = 1.0
    """Gain on the smoothed violation; damps overshoot, from which a collapsed policy does not come back."""
    ki: Annotated[float, Between(1e-6, 100)] | None = None
    """Gain of the integrator; None: (1 + kp)^2 / (4 tau), tau = max(20, steps/10), within [0.005, 0.05]."""
    nu: Annotated[float, Between(0, 0.9999)] = 0.9
    """Smoothing of the violation for the P term."""
    lam_max: Annotated[float, Between(1e-6, 1e6)] = 20.0
    """Ceiling of a multiplier, at which a constraint outweighs the objective `lam_max` to 1."""
    clip: Annotated[float, Between(1e-6, 1e6)] = 3.0
    """Largest violation, in units, that one batch may report to the controller."""
    window: Annotated[int, Between(2, 1_000_000)] | None = None
    """Generations that the infeasibility rule looks back on; None takes tau."""
    tolerance: Annotated[float, Between(0, 1e6)] = 0.02
    """Violation, in units, that counts as met, and improvement over the window that counts as none."""
    pressure: Annotated[float, Between(0, 1)] = 0.8
    """Share sum lam / (1 + sum lam) that constraints take up before infeasibility is suspected."""
    calibration_batches: Annotated[int, Between(1, MANY)] = 20
    """Batches with within-group variation that measure a unit before it is frozen."""

    def resolved(self, total_steps: int) -> tuple[float, int]:
        """`ki` and `window` with their defaults derived from the planned number of dual steps."""
        tau = max(20.0, total_steps / 10)
        ki = min(max((1 + self.kp) ** 2 / (4 * tau), 0.005), 0.05)
        return self.ki or ki, self.window or round(tau)


class ReferenceConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Start of the multipliers."""

    prompts: Annotated[int, Between(0, 1_000_000)] = 0
    """Training prompts to sample answers to; 0 starts the multipliers at zero."""
    answers: Annotated[int, Between(1, 100_000)] = 64
    """Answers to each prompt."""
    kl: Annotated[float, Between(0, 1e6)] | None = None
    """KL weight that the multipliers are right for; None takes that of the training."""


class OptimizerConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """What is maximised and what is held at a target."""

    objective: Annotated[str, Text(100)]
    """Name of the reward to maximise."""
    constraints: Annotated[tuple[Annotated[str, Text()], ...], Each()] = ()
    """Constraints: ``novelty >= 0.30 (mean)``, ``length in [6, 11] (mean)``, ``diversity >= 0.5 for 0.9
    (rate)``, ``validity >= 1 (gate)``; for a part of the prompts ``novelty >= 0.3 where segment=cold
    (mean)``; moving ``novelty >= 0.1 -> 0.3 over 100 (mean)``."""
    rule: Annotated[str, Text(100)] = "lagrangian"
    """Rule by which rewards become advantages."""
    credit: Credit = "sequence"
    """``tag``: each tag of an answer gets the credit for what it adds; ``sequence``: all get the answer's."""
    gradient_conflict_every: Annotated[int, Between(0, MANY)] = 0
    """Compare the rewards' gradients in the last layer once in so many generation batches; 0 = never."""
    objective_unit: Annotated[float, Between(SMALLEST_UNIT, LARGEST)] | None = None
    """Amount that counts as one step of the objective; by default half of its declared range."""
    duals: DualConfig = DualConfig()
    """Controller of the multipliers."""
    reference: ReferenceConfig = ReferenceConfig()
    """Start of the multipliers: zero, or what samples of the warm start suggest."""

    @field_validator("rule")
    @classmethod
    def _known(cls, rule: str) -> str:
        find_rule(rule)
        return rule

    @field_validator("constraints", mode="before")
    @classmethod
    def _joined(cls, given: Any) -> Any:
        """Join what YAML cut: in a list in brackets a comma parts, also one in ``(mean, margin=0.01)``."""
        if not isinstance(given, list | tuple):
            return given
        joined: list[Any] = []
        for entry in given:
            last = joined[-1] if joined else None
            if isinstance(last, str) and last.count("(") > last.count(")") and not isinstance(entry, dict):
                joined[-1] = f"{last}, {entry}"
            else:
                joined.append(entry)
        return joined

    @field_validator("constraints")
    @classmethod
    def _written(cls, constraints: tuple[str, ...]) -> tuple[str, ...]:
        for text in constraints:
            parse_constraint(text)
        return constraints

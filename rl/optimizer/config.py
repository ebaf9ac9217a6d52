"""The section ``optimizer`` of a configuration."""

from typing import Annotated

from pydantic import BaseModel, field_validator

from ...envs.settings import LARGEST, MANY, SMALLEST_UNIT, Between, Each, Text
from .advantages import find_rule
from .constraints import parse_constraint
from .credit import Credit
from .duals import DualConfig
from .start import ReferenceConfig


class OptimizerConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """What is maximised and what is held at a target."""

    objective: Annotated[str, Text(100)]
    """Name of the reward to maximise."""
    constraints: Annotated[tuple[Annotated[str, Text()], ...], Each()] = ()
    """``novelty >= 0.30 (mean)``, ``length in [6, 11] (mean)``, ``diversity >= 0.5 for 0.9 (rate)``,
    ``validity >= 1 (gate)``; for a part of the prompts ``novelty >= 0.3 where segment=cold (mean)``; moving
    ``novelty >= 0.1 -> 0.3 over 100 (mean)``."""
    rule: Annotated[str, Text(100)] = "lagrangian"
    """How rewards become advantages."""
    credit: Credit = "sequence"
    """``tag``: each tag of an answer gets the credit for what it adds; ``sequence``: all share the
    answer's."""
    gradient_conflict_every: Annotated[int, Between(0, MANY)] = 0
    """Compare the rewards' gradients in the last layer once in so many generation batches; 0 = never."""
    objective_unit: Annotated[float, Between(SMALLEST_UNIT, LARGEST)] | None = None
    """What counts as one step of the objective; by default half of its declared range."""
    duals: DualConfig = DualConfig()
    """Controller of the multipliers."""
    reference: ReferenceConfig = ReferenceConfig()
    """Where the multipliers start: at zero, or as samples of the warm start suggest."""

    @field_validator("rule")
    @classmethod
    def _known(cls, rule: str) -> str:
        find_rule(rule)
        return rule

    @field_validator("constraints")
    @classmethod
    def _written(cls, constraints: tuple[str, ...]) -> tuple[str, ...]:
        for text in constraints:
            parse_constraint(text)
        return constraints

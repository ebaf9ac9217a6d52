"""Advantage rules by name, and what a configuration has to know of one; their formulas are in `advantages`.

Torch is imported with the formulas, when a rule is called: a configuration is checked without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...envs.settings import nearest

if TYPE_CHECKING:
    from .advantages import AdvantageBatch, Advantages
    from .problem import Problem


@dataclass(frozen=True)
class Rule:
    """A named rule; calling it computes the advantages."""

    name: str
    uses_duals: bool
    """Whether multipliers enter; otherwise a run reports slacks but no prices."""
    controller: str = "pi"
    """Way in which the multipliers are stepped, see `duals.CONTROLLERS`."""
    per_tag: bool = False
    """Whether it can credit tags: it must be linear in the rewards of a batch."""
    function: Callable[[AdvantageBatch], Advantages] | None = None
    """The formula; None: the function of that name in `advantages`."""
    from_zero: bool = False
    """Whether it sets the objective to 0 as a punishment, so that no value of it may be lower."""

    def __call__(self, batch: AdvantageBatch) -> Advantages:
        if batch.running is not None and not self.per_tag:
            able = ", ".join(rule.name for rule in RULES.values() if rule.per_tag)
            raise ValueError(f"rule {self.name!r} cannot credit tags; use credit: sequence, or one of {able}")
        self.check(batch.problem)
        if self.function is not None:
            return self.function(batch)
        from . import advantages

        formula: Callable[[AdvantageBatch], Advantages] = getattr(advantages, self.name)
        return formula(batch)

    def check(self, problem: Problem) -> None:
        """Refuse a problem on which the rule cannot be used.

        Raises:
            ValueError: it cannot; the message says the fix.
        """
        lowest = problem.ranges[problem.objective][0]
        if self.from_zero and lowest < 0:
            raise ValueError(
                f"rule {self.name}: a violation sets the objective to 0, which beats negative values of "
                f"{problem.objective} (range from {lowest:g}); let it start at 0, or use another rule"
            )


RULES = {
    rule.name: rule
    for rule in (
        Rule("lagrangian", uses_duals=True, per_tag=True),
        Rule("log_lambda", uses_duals=True, controller="log", per_tag=True),
        Rule("scalarized_reward", uses_duals=True),
        Rule("scalarized_advantage", uses_duals=True),
        Rule("weighted_sum", uses_duals=False),
        Rule("gdpo", uses_duals=False),
        Rule("gd2po", uses_duals=False),
        Rule("dvao", uses_duals=False),
        Rule("gate", uses_duals=False, from_zero=True),
        Rule("tchebycheff", uses_duals=False, per_tag=True),
        Rule("single_reward", uses_duals=False),
    )
}


def find_rule(name: str) -> Rule:
    """The rule of that name; ValueError with the nearest name if there is none."""
    if name not in RULES:
        raise ValueError(f"unknown advantage rule {name!r}{nearest(name, RULES, cutoff=0.0)}")
    return RULES[name]

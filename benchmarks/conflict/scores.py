"""Distance of a policy from the known optimum: certificate, violation, complementary slackness, score.

All are computed from exact expectations. Violating gains nothing in the certificate or the score.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recrl.rl.optimizer.problem import Problem

from .oracles import Oracle

# Violation, in raw units, that still counts as feasible.
TOLERANCE = 0.01


@dataclass(frozen=True)
class Score:
    """Distance from the optimum; None where there is no optimum because no policy is feasible."""

    violation: float
    """Largest violation, max_k max(0, -slack_k), raw units."""
    feasible: bool
    """Whether violation < `TOLERANCE`."""
    certificate: float | None
    """Gap G_L = J* - [J_R + sum_k lambda*_k slack_k], >= 0 for every policy and 0 at an optimum."""
    complementary: float | None
    """Sum sum_k lambda*_k |slack_k|: priced constraints that are not tight."""
    score: float | None
    """Score (J_R - sum_k (lambda*_k + max(lambda*_k, u_R/u_k)) max(0, -slack_k)) / J*, at least 0.

    The penalty is exact: the first lambda*_k takes back what a violation can gain, the rest makes it cost. So
    the score is at most 1, and 1 only at a feasible optimum.
    """


def score_policy(
    problem: Problem, oracle: Oracle | None, objective: float, slacks: NDArray[np.float64]
) -> Score:
    """Score a policy by its exact expectations.

    Args:
        problem: Problem, which gives the units.
        oracle: Optimum; None when no policy is feasible.
        objective: J_R, the KL term included if the problem has one.
        slacks: Slacks s_k (J_k - b_k), `[constraint]`, raw units.
    """
    short = np.maximum(-slacks, 0.0)
    violation = float(short.max(initial=0.0))
    feasible = violation < TOLERANCE
    if oracle is None:
        return Score(violation, feasible, None, None, None)
    units = problem.declared_units()
    exchange = units.objective / units.constraints.numpy()
    penalty = (oracle.prices + np.maximum(oracle.prices, exchange)) @ short
    certificate = oracle.objective - objective - oracle.prices @ slacks
    complementary = oracle.prices @ np.abs(slacks)
    score = max(float((objective - penalty) / oracle.objective), 0.0)
    return Score(violation, feasible, float(certificate), float(complementary), score)

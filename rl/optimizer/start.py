"""Multipliers from reference samples, from which the duals may start before the first step of training.

`reference_multipliers` solves the convex dual of the KL-regularised problem on answers that were sampled from
the reference policy, and refuses when the samples cannot carry the answer; `dual` is the function that it
minimises, `describe` a table for the run log. Nothing here samples or trains.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from .constraints import Constraint
from .problem import Problem, Units, constraint_values, objective_values


@dataclass(frozen=True)
class ReferenceStart:
    """The optimal policy's multipliers as the reference samples show them; use them only if `accepted`."""

    multipliers: Tensor
    """lam_k, `[constraint]` float64, normalised units as in `Duals`; 0 for gates and where none was found."""
    prices: Tensor
    """Prices lam_k u_R / u_k, `[constraint]`: the multipliers in raw units."""
    attained: Tensor
    """Mean of the present constrained values under the reweighted samples, `[constraint]`; raw units."""
    objective: float
    """Mean of the objective, gates included, under the reweighted samples; raw units."""
    effective_samples: float
    """Mean over prompts of 1 / sum_i w_i^2: the number of equally weighted samples that the weights equal."""
    effective_share: float
    """Ratio of `effective_samples` to samples per prompt that lack no value, in (0, 1]."""
    accepted: bool
    reason: str
    """Reason of a refusal, with the fix; empty when accepted."""
    converged: bool
    """Whether the optimality conditions of the dual hold at the multipliers."""


def dual(multipliers: Tensor, objective: Tensor, slacks: Tensor, kl: float) -> tuple[float, Tensor, Tensor]:
    """Dual function of the KL-regularised problem on samples of the reference policy, all in units.

        X_xi = R_xi + sum_k lam_k d_xik,   w_xi = exp(X_xi / kl) / sum_i exp(X_xi / kl)
        g    = kl mean_x log mean_i exp(X_xi / kl),   dg/dlam_k = mean_x sum_i w_xi d_xik

    w reweights the samples of a prompt to the policy `pi_ref exp(X / kl)`, the best one at these multipliers;
    g is convex in them, and its minimum over lam >= 0 is the value of the constrained optimum.

    Args:
        multipliers: lam, `[constraint]`.
        objective: R/u_R, `[prompt, sample]`; NaN = missing, the sample gets weight 0. Each prompt needs one.
        slacks: d = s_k (r_k - target_k) / (u_k q_k), `[prompt, sample, constraint]`; q_k is the share of the
            prompts where constraint k acts, 0 elsewhere.
        kl: beta / u_R, positive.

    Returns:
        g, its gradient `[constraint]`, and w `[prompt, sample]`.
    """
    present = objective.isfinite()
    exponents = ((objective + slacks @ multipliers) / kl).where(present, -torch.inf)
    totals = exponents.logsumexp(dim=1)
    weights = (exponents - totals[:, None]).exp()
    value = kl * (totals - present.sum(dim=1).log()).mean()
    return value.item(), (weights[..., None] * slacks).sum(dim=1).mean(dim=0), weights


def reference_multipliers(
    problem: Problem,
    units: Units,
    rewards: Tensor,
    kl: float,
    lam_max: float,
    min_effective: float | None = None,
) -> ReferenceStart:
    """Multipliers of `max E[R] - kl KL(pi || pi_ref)` under the constraints, from samples of pi_ref.

    It minimises `dual` over [0, lam_max] by L-BFGS-B with the exact gradient, in float64.

    Missing values: a sample that lacks the objective, or a constrained value that others of its prompt have,
    is left out, since its weight in the optimum is unknown. Where a whole prompt lacks a value, as outside of
    a segment, that constraint does not act; elsewhere its slack is divided by q_k, the share of prompts where
    it acts, as in the rule `lagrangian`. A bound with a schedule counts as it is at the first generation.

    The start is refused, with a reason, when kl is 0 (the optimum is then not a reweighting of the
    reference); when a column has no finite value; when a multiplier ends at its ceiling; and when too few
    effective samples remain. Multipliers come out too high by a share of up to about 1 / effective samples,
    however many the prompts; below a tenth of the samples, answers that matter were likely not drawn.

    Args:
        problem: Objective and constraints.
        units: u_R and u_k, as `Duals.units` or `Problem.declared_units`.
        rewards: Scores of answers of the reference policy, `[prompt, sample, column]`, columns as in
            `Problem.columns`; NaN or infinite = missing.
        kl: beta, in raw units of the objective.
        lam_max: Ceiling of a multiplier, as in `DualConfig`.
        min_effective: Least effective samples per prompt; None: 4, or 10 % of the samples if that is more.

    Raises:
        ValueError: A shape, `kl`, `lam_max` or a unit cannot be right.

    Source: for each prompt the optimum is `pi_ref exp((R + sum_k price_k s_k r_k) / kl)`, the Gibbs form of
    KL-regularised reward maximisation; the prices minimise the Lagrangian dual.
    """
    _check(problem, units, rewards, kl, lam_max)
    constraints, rewards = problem.constraints, rewards.detach().cpu()
    objective, values = objective_values(problem, rewards), constraint_values(problem, rewards)
    acts = values.isfinite().any(dim=1, keepdim=True)
    complete = objective.isfinite() & (values.isfinite() | ~acts).all(dim=-1)
    finite = complete[..., None] & acts
    refusal = _unusable(problem, kl, objective, finite)
    if refusal:
        nothing, unknown = torch.zeros(len(constraints), dtype=torch.float64), math.nan
        missing = torch.full_like(nothing, unknown)
        return ReferenceStart(nothing, nothing, missing, unknown, unknown, unknown, False, refusal, False)

    used = complete.any(dim=1)
    objective, values, finite = objective.where(complete, torch.nan)[used], values[used], finite[used]
    signs = torch.tensor([float(c.sign) for c in constraints], dtype=torch.float64)
    targets = torch.tensor([_target(c) for c in constraints], dtype=torch.float64)
    ceilings = torch.tensor([0.0 if c.kind == "gate" else lam_max for c in constraints], dtype=torch.float64)
    unit, samples = units.constraints.cpu(), complete[used].sum(dim=1).double().mean().item()
    coverage = finite.any(dim=1).double().mean(dim=0)
    slacks = (signs * (values - targets) / (unit * coverage)).where(finite, 0.0)
    scaled, kl_scaled = objective / units.objective, kl / units.objective
    multipliers, message = _minimise(scaled, slacks, kl_scaled, ceilings)

    _, gradient, weights = dual(multipliers, scaled, slacks, kl_scaled)
    step = multipliers - (multipliers - gradient).clamp(min=0.0).minimum(ceilings)
    converged = bool((step.abs() < 1e-5).all())
    masses = weights[..., None] * finite
    attained = (masses * values.where(finite, 0.0)).sum(dim=(0, 1)) / masses.sum(dim=(0, 1))
    effective = (1 / weights.square().sum(dim=1)).mean().item()
    needed = max(4.0, 0.1 * samples) if min_effective is None else min_effective

    reasons = [] if converged else [f"the dual did not converge: {message}; check the scale of the rewards"]
    for k in ((ceilings > 0) & (multipliers >= ceilings)).nonzero().flatten().tolist():
        best = (signs[k] * values[..., k]).where(finite[..., k], -torch.inf).amax(dim=1)
        reach = signs[k] * best[best.isfinite()].mean()
        reasons.append(
            f"{constraints[k].name!r}: the multiplier is at its ceiling lam_max={lam_max:g} and reweighting "
            f"attains {attained[k]:.4g} of {targets[k]:.4g} (best sample of every prompt: {reach:.4g}); "
            "relax the bound or draw more samples a prompt"
        )
    if not reasons and effective < needed:
        reasons.append(
            f"{effective:.1f} effective of {samples:g} samples a prompt, {needed:.1f} needed; draw more "
            f"samples a prompt, or raise kl={kl:g}"
        )
    mean = (weights * objective.nan_to_num(nan=0.0)).sum(dim=1).mean().item()
    prices = multipliers * units.objective / unit
    figures = (multipliers, prices, attained, mean, effective, effective / samples)
    return ReferenceStart(*figures, not reasons, "; ".join(reasons), converged)


def _unusable(problem: Problem, kl: float, objective: Tensor, finite: Tensor) -> str:
    """Reason why there is no dual to minimise; empty if there is one."""
    if kl == 0:
        return "kl=0: without the KL term the optimum is no reweighting of the samples; set kl, or start at 0"
    seen = [bool(objective.isfinite().any()), *finite.any(dim=1).any(dim=0).tolist()]
    names = [problem.objective, *(c.name for c in problem.constraints)]
    empty = ", ".join(name for name, any_value in zip(names, seen, strict=True) if not any_value)
    return f"no sample that lacks no other value has a finite value of {empty}; check it" if empty else ""


def _minimise(objective: Tensor, slacks: Tensor, kl: float, ceilings: Tensor) -> tuple[Tensor, str]:
    """Minimum of `dual` over [0, ceilings], and the optimiser's word on how it ended."""

    def value_and_gradient(point: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient, _ = dual(torch.from_numpy(point), objective, slacks, kl)
        return value, gradient.numpy()

    if not ceilings.any():
        return torch.zeros_like(ceilings), "nothing to minimise"
    # The default tolerance on g stops flat duals far from their minimum.
    options = {"maxiter": 2000, "maxfun": 5000, "ftol": 0.0, "gtol": 1e-9}
    bounds = [(0.0, ceiling) for ceiling in ceilings.tolist()]
    start = np.zeros(len(ceilings))
    found = minimize(value_and_gradient, start, jac=True, bounds=bounds, options=options)
    return torch.from_numpy(found.x), str(found.message)


def describe(start: ReferenceStart, problem: Problem) -> str:
    """A line per constraint and one on the samples, for the run log."""
    lines = [f"{'constraint':<32}{'target':>10}{'attained':>10}{'multiplier':>12}{'price':>10}"]
    columns = (start.attained.tolist(), start.multipliers.tolist(), start.prices.tolist())
    for constraint, attained, multiplier, price in zip(problem.constraints, *columns, strict=True):
        target = 1.0 if constraint.kind == "gate" else _target(constraint)
        lines.append(
            f"{constraint.name:<32}{target:>10.4g}{attained:>10.4g}{multiplier:>12.4g}{price:>10.4g}"
        )
    share = f"{start.effective_samples:.1f} effective samples a prompt ({start.effective_share:.0%})"
    lines.append(f"objective {start.objective:.4g}, {share}: {start.reason or 'accepted'}")
    return "\n".join(lines)


def _target(constraint: Constraint) -> float:
    return constraint.bound_at(0) + constraint.sign * constraint.margin


def _check(problem: Problem, units: Units, rewards: Tensor, kl: float, lam_max: float) -> None:
    if rewards.ndim != 3 or rewards.shape[-1] != len(problem.columns):
        shape = tuple(rewards.shape)
        raise ValueError(f"rewards have shape {shape}; give [prompt, sample, column] of {problem.columns}")
    if not (0 <= kl < math.inf and 0 < lam_max < math.inf):
        raise ValueError(f"kl={kl} and lam_max={lam_max} must be finite, kl >= 0 and lam_max > 0")
    columns = [units.objective, *units.constraints.tolist()]
    if not all(0 < unit < math.inf for unit in columns):
        raise ValueError(
            f"units {columns} must be positive; declare unit= where a reward's range is infinite"
        )

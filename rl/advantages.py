"""Advantage rules: from the rewards of one generation batch to one advantage per sample.

    lagrangian     objective plus price-weighted constraints over constant units; the method of this package
    weighted_sum   TRL's default: a weighted sum of rewards, z-scored per group; no multipliers

To add a rule: write a function `AdvantageBatch -> Advantages`, put `@rule("its_name", uses_duals=...)` above
it, and list it here. The trainer finds it by name in `RULES`; nothing else changes.

Also here: the statistics within groups that rules, duals and conflict metrics share: `within_group`,
`leave_one_out`, `UnitCalibration`. Rules are pure functions; what changes in training (multipliers, measured
units) comes with the batch.
"""

import difflib
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .constraints import Problem, Units, constraint_values, objective_values

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdvantageBatch:
    """All that a rule may look at: one generation batch over all ranks.

    Args:
        rewards: `[group, sample, reward]`, columns as in `problem.names`; NaN or infinite = missing.
        problem: Objective, constraints and weights.
        multipliers: lam_k, `[constraint]`; 0 for gates.
        units: u_R and u_k, from `Duals.units`.

    Raises:
        ValueError: A shape does not fit the problem, or groups hold a single sample.
    """

    rewards: Tensor
    problem: Problem
    multipliers: Tensor
    units: Units

    def __post_init__(self) -> None:
        names, constraints = self.problem.names, self.problem.constraints
        if self.rewards.ndim != 3 or self.rewards.shape[-1] != len(names):
            shape = tuple(self.rewards.shape)
            raise ValueError(f"rewards have shape {shape}; give [group, sample, reward] with rewards {names}")
        if self.rewards.shape[1] < 2:
            raise ValueError("num_generations=1 leaves nothing to compare a sample with; set it to 2 or more")
        if self.multipliers.shape != (len(constraints),):
            shape = tuple(self.multipliers.shape)
            raise ValueError(
                f"multipliers have shape {shape}; give one for each of {len(constraints)} constraints"
            )


@dataclass(frozen=True)
class Advantages:
    """Result of a rule.

    Args:
        values: `[group, sample]`, dtype and device of the rewards; 0 for a sample without a signal.
        divisor: D, the one positive number that the whole batch was divided by.
        kl_scale: Factor on beta that keeps reward and KL in proportion: beta_used = beta * kl_scale.
    """

    values: Tensor
    divisor: float = 1.0
    kl_scale: float = 1.0


@dataclass(frozen=True)
class Rule:
    """A named rule; calling it computes the advantages."""

    name: str
    uses_duals: bool
    """Whether multipliers enter; where not, a run reports slacks but no prices."""
    function: Callable[[AdvantageBatch], Advantages]

    def __call__(self, batch: AdvantageBatch) -> Advantages:
        return self.function(batch)


RULES: dict[str, Rule] = {}


def rule(name: str, *, uses_duals: bool) -> Callable[[Callable[[AdvantageBatch], Advantages]], Rule]:
    """Decorator that puts a rule into `RULES`."""

    def register(function: Callable[[AdvantageBatch], Advantages]) -> Rule:
        RULES[name] = Rule(name, uses_duals, function)
        return RULES[name]

    return register


def find_rule(name: str) -> Rule:
    """The rule of that name; ValueError with the nearest name when there is none."""
    if name not in RULES:
        near = difflib.get_close_matches(name, RULES, 1, 0.0)[0]
        raise ValueError(f"unknown advantage rule {name!r}; did you mean {near!r}? Known: {', '.join(RULES)}")
    return RULES[name]


@rule("lagrangian", uses_duals=True)
def lagrangian(batch: AdvantageBatch) -> Advantages:
    """Gradient of the Lagrangian, one exchange rate for all prompts.

        c_j = (r_j - group mean) * G/(G-1)
        X   = c_R/u_R + sum_k lam_k s_k c_k/u_k
        A   = X / D,   D = max(rms of X over the batch, 1e-3),   kl_scale = 1/(u_R D)

    Units and D are the same for all prompts, so the gradient has the Lagrangian's direction. Dividing by
    standard deviations per group (GDPO; Constrained GRPO, arXiv 2602.05863) would replace lam by
    `lam * sigma_R(x) / sigma_k(x)`, another exchange rate for each prompt, which no multiplier can repair.
    Gates multiply the objective before centring. G counts the finite samples of a component in the group; a
    missing value adds nothing.
    """
    rewards = batch.rewards.detach().cpu()  # float64 throughout, which not every device has
    signs = torch.tensor([float(c.sign) for c in batch.problem.constraints], dtype=torch.float64)
    pulls = signs * batch.multipliers.cpu() / batch.units.constraints.cpu()
    objective = leave_one_out(objective_values(batch.problem, rewards)) / batch.units.objective
    x = objective + (leave_one_out(constraint_values(batch.problem, rewards)) * pulls).sum(dim=-1)
    divisor = max(x.square().mean().sqrt().item(), 1e-3)
    return Advantages((x / divisor).to(batch.rewards), divisor, 1.0 / (batch.units.objective * divisor))


@rule("weighted_sum", uses_duals=False)
def weighted_sum(batch: AdvantageBatch) -> Advantages:
    """TRL 1.16 with its defaults `sum_then_normalize` and `scale_rewards="group"`.

        r = sum_k w_k r_k over present values,   A = (r - group mean) / (group std + 1e-4)

    Std with Bessel's correction. As in TRL, a reward missing on a sample counts as 0 in the sum, and a sample
    on which every reward is missing leaves the group statistics and gets 0. Bounds and gates play no part.

    Source: `GRPOTrainer._generate_and_score_completions` of TRL 1.16.
    """
    problem, rewards = batch.problem, batch.rewards.detach().cpu().double()
    if not any(problem.weights.values()):
        raise ValueError(
            f"rule weighted_sum: weights={dict(problem.weights)}; give at least one of {problem.names}"
        )
    weights = torch.tensor([problem.weights.get(name, 0.0) for name in problem.names], dtype=torch.float64)
    summed = (rewards * weights).nansum(dim=-1).masked_fill(rewards.isnan().all(dim=-1), torch.nan)
    deviations, counts = within_group(summed)
    std = (deviations.square().sum(dim=1, keepdim=True) / (counts - 1).clamp(min=1)).sqrt()
    return Advantages((deviations / (std + 1e-4)).to(batch.rewards))


def within_group(values: Tensor) -> tuple[Tensor, Tensor]:
    """Deviations from the group mean over finite samples.

    Args:
        values: `[group, sample, ...]`; NaN or infinite = missing.

    Returns:
        Deviations of the same shape, exactly 0 where missing and in groups without variation; and the counts
        of finite samples, `[group, 1, ...]`.
    """
    finite = values.isfinite()
    counts = finite.sum(dim=1, keepdim=True)
    mean = values.where(finite, 0.0).sum(dim=1, keepdim=True) / counts.clamp(min=1)
    # Equal values can differ from their mean by rounding; with their spread as divisor that would count.
    low = values.where(finite, torch.inf).amin(dim=1, keepdim=True)
    high = values.where(finite, -torch.inf).amax(dim=1, keepdim=True)
    return (values - mean).where(finite & (high > low), 0.0), counts


def leave_one_out(values: Tensor) -> Tensor:
    """Each value minus the mean of the others in its group; same shape as `values`, 0 where missing.

    Equals the deviation from the group mean times n/(n-1), n the finite samples. It makes the estimate of the
    policy gradient unbiased (Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!").
    """
    deviations, counts = within_group(values)
    return deviations * counts / (counts - 1).clamp(min=1)


class UnitCalibration:
    """Pooled within-group std of objective and constrained values over the first batches, then frozen.

    Until a column is frozen its estimate so far is used. Declared units are measured too, to warn when one is
    far from what the data show. Column 0 is the objective, column 1 + k constraint k.

    Checkpoint behaviour: `Duals` owns it, steps it and saves `squares`, `freedom` and `batches`.
    """

    def __init__(self, problem: Problem, limit: int) -> None:
        objective, constraints = problem.declared_units()
        self.problem, self.limit = problem, limit
        self.declared = torch.cat([torch.tensor([objective], dtype=torch.float64), constraints])
        self.squares = torch.zeros_like(self.declared)
        self.freedom = torch.zeros_like(self.declared)
        self.batches = torch.zeros_like(self.declared)

    def observe(self, values: Tensor) -> None:
        """Add one batch, `[group, sample, column]`."""
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
        """`[column]`: declared, else measured; NaN where neither is known yet."""
        return self.declared.where(~self.declared.isnan(), self.spread)

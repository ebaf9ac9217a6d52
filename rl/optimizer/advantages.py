"""Advantage rules: from the rewards of one generation batch to one advantage per sample, or per tag.

learn multipliers
    lagrangian            objective plus price-weighted constraints over constant units; this package's method
    log_lambda            the same with Safe-RLHF's multipliers, stepped in log space
    scalarized_reward     multipliers inside a summed reward, z-scored per group
    scalarized_advantage  multipliers on rewards that were z-scored per group (Constrained GRPO)
weigh rewards; bounds play no part
    weighted_sum          TRL's default: a weighted sum of rewards, z-scored per group
    gdpo                  TRL's `normalize_then_sum`: rewards z-scored per group, then summed
    gd2po                 gdpo without the samples on which the rewards disagree
    dvao                  rewards weighted by their own spread within the group
use the bounds otherwise
    gate                  the objective counts where every constraint is met (RecGPT-V2)
    tchebycheff           raise whatever is furthest below its goal
    single_reward         the objective alone

To add a rule: write a function `AdvantageBatch -> Advantages` with its name, list it here, and give it a line
in `rules.RULES`, where the trainer finds it; nothing else changes. Rules are pure functions; what changes in
training (multipliers, measured units) comes with the batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .groups import leave_one_out, within_group, z_scores
from .problem import Problem, Units, constraint_values, objective_values

# Rows of a group that agree less than this are left out by gd2po.
_CONSENSUS = 0.2
# Width, in units, over which tchebycheff counts shortfalls as equal.
_SMOOTHING = 0.1


@dataclass(frozen=True)
class AdvantageBatch:
    """All that a rule may look at: one generation batch over all ranks.

    Args:
        rewards: Scores, `[group, sample, column]`, see `Problem.columns`; NaN or infinite = missing.
        problem: Objective, constraints and weights.
        multipliers: lam_k, `[constraint]`; 0 for gates.
        units: u_R and u_k, from `Duals.units`.
        running: Scores of the answer's first `position` tags, for credit per tag: `[group, sample, position,
            reward]`; 0 for a reward that only judges whole answers.
        tokens: Number of tokens written after `position` tags and before the next one was complete, with
            `running`: `[group, sample, position]`.

    Raises:
        ValueError: A shape does not fit the problem, or groups hold a single sample.
    """

    rewards: Tensor
    problem: Problem
    multipliers: Tensor
    units: Units
    running: Tensor | None = None
    tokens: Tensor | None = None

    def __post_init__(self) -> None:
        names, constraints = self.problem.columns, self.problem.constraints
        if self.rewards.ndim != 3 or self.rewards.shape[-1] != len(names):
            shape = tuple(self.rewards.shape)
            raise ValueError(f"rewards have shape {shape}; give [group, sample, column] with columns {names}")
        if not len(self.rewards):
            shape = tuple(self.rewards.shape)
            raise ValueError(
                f"rewards have shape {shape}: no group at all; give the samples of one or more prompts"
            )
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
        values: Advantages, `[group, sample]`, or `[group, sample, position]` for credit per tag; dtype and
            device of the rewards; 0 for a sample without a signal.
        divisor: D, the one positive number that the whole batch was divided by.
        kl_scale: Factor on beta that keeps reward and KL in proportion: beta_used = beta * kl_scale.
    """

    values: Tensor
    divisor: float = 1.0
    kl_scale: float = 1.0


def lagrangian(batch: AdvantageBatch) -> Advantages:
    """Gradient of the Lagrangian, one exchange rate for all prompts.

        c_j = (r_j - group mean) * G/(G-1)
        X   = c_R / (u_R q_R) + sum_k lam_k s_k c_k / (u_k q_k)
        A   = X / D,   D = max(rms of X over the batch, 1e-3),   kl_scale = 1/(u_R D)

    Units and D are the same for all prompts, so the gradient has the Lagrangian's direction. Dividing by
    standard deviations per group (GDPO; Constrained GRPO, arXiv 2602.05863) would replace lam by
    `lam * sigma_R(x) / sigma_k(x)`, another exchange rate for each prompt, which no multiplier can repair.
    Gates multiply the objective before centring. G counts the finite samples of a component in the group. A
    missing value adds nothing; q_j, the share of samples that have a value, makes up for that, since the
    bound is about the mean over present values.

    Credit per tag: the tokens of a tag get `r_j - (r_j of the tags before it)` in place of r_j. What is taken
    off does not depend on the tag, so the gradient keeps its mean, while a tag no longer answers for the tags
    before it. D is then the rms over tokens.
    """
    return _lagrangian(batch)


def log_lambda(batch: AdvantageBatch) -> Advantages:
    """Safe-RLHF's multipliers: `ln lam_k <- ln lam_k + alpha e_k`, from lam = 1 with alpha = 0.1.

        A = (c_R/u_R + sum_k lam_k s_k c_k/u_k) / D

    Safe-RLHF divides by `1 + sum lam`; D takes its place, so that the update of the multipliers is all that
    differs from `lagrangian`.

    Source: Dai et al. 2023, "Safe RLHF", arXiv 2310.12773.
    """
    return _lagrangian(batch)


def scalarized_reward(batch: AdvantageBatch) -> Advantages:
    """Multipliers inside the reward, which is then z-scored per group.

        r = R/u_R + sum_k lam_k s_k r_k/u_k,   A = (r - group mean) / (group std + 1e-4)

    The group's std takes out of each prompt what the multipliers put in.

    Source: the naive variant of Constrained GRPO, arXiv 2602.05863.
    """
    values = _components(batch)
    summed = (values * _pulls(batch)).nansum(dim=-1).masked_fill(values.isnan().all(dim=-1), torch.nan)
    return Advantages(z_scores(summed).to(batch.rewards))


def scalarized_advantage(batch: AdvantageBatch) -> Advantages:
    """Multipliers on components that were z-scored per group.

        A = z_R + sum_k lam_k s_k z_k,   z_j = (r_j - group mean) / (group std + 1e-4)

    Source: Constrained GRPO, arXiv 2602.05863.
    """
    weights = torch.cat([torch.ones(1, dtype=torch.float64), _signs(batch.problem) * batch.multipliers.cpu()])
    return Advantages((z_scores(_components(batch)) * weights).sum(dim=-1).to(batch.rewards))


def weighted_sum(batch: AdvantageBatch) -> Advantages:
    """TRL 1.16's rule by default: `sum_then_normalize` and `scale_rewards="group"`.

        r = sum_k w_k r_k over present values,   A = (r - group mean) / (group std + 1e-4)

    As in TRL, a reward missing on a sample counts as 0 in the sum, and a sample on which every reward is
    missing leaves the group statistics and gets 0.

    Source: `GRPOTrainer._generate_and_score_completions` of TRL 1.16.
    """
    rewards, weights = _weighted(batch)
    summed = (rewards * weights).nansum(dim=-1).masked_fill(rewards.isnan().all(dim=-1), torch.nan)
    return Advantages(z_scores(summed).to(batch.rewards))


def gdpo(batch: AdvantageBatch) -> Advantages:
    """TRL 1.16's rule with `normalize_then_sum`.

        a = sum_k w_k z_k,   z_k = (r_k - group mean) / (group std + 1e-4)
        A = (a - batch mean) / (batch std + 1e-4)

    Source: Liu et al. 2026, "GDPO", arXiv 2601.05242.
    """
    components, present = _decoupled(batch)
    return Advantages(_over_batch(components.sum(dim=-1), present).to(batch.rewards))


def gd2po(batch: AdvantageBatch) -> Advantages:
    """`gdpo` without samples on which the rewards disagree: |sum_k w_k z_k| / sum_k |w_k z_k| < 0.2.

    The paper also re-weights prompts by their consensus, which is left out here.

    Source: Liu et al. 2026, "GD2PO", arXiv 2606.16771.
    """
    components, present = _decoupled(batch)
    total, size = components.sum(dim=-1), components.abs().sum(dim=-1)
    kept = present & ~(total.abs() < _CONSENSUS * size)
    return Advantages(_over_batch(total, present).where(kept, 0.0).to(batch.rewards))


def dvao(batch: AdvantageBatch) -> Advantages:
    """Rewards weighted by their spread within the group.

        A = sum_k w_k c_k / (sum_k |w_k| sigma_k + 1e-4),   c_k = r_k - group mean, sigma_k = group std

    It equals a mean of the z-scores with the weights |w_k| sigma_k: what varies most counts most.

    Source: Jiang et al. 2026, "DVAO", arXiv 2605.25604.
    """
    rewards, weights = _weighted(batch)
    deviations, counts = within_group(rewards)
    sigma = (deviations.square().sum(dim=1, keepdim=True) / (counts - 1).clamp(min=1)).sqrt()
    spread = (weights.abs() * sigma).sum(dim=-1)
    return Advantages(((deviations * weights).sum(dim=-1) / (spread + 1e-4)).to(batch.rewards))


def gate(batch: AdvantageBatch) -> Advantages:
    """The objective counts on the samples that meet every constraint, and is 0 elsewhere.

        r = R prod_k 1[sample meets k],   A = (r - group mean) / (group std + 1e-4)

    Every sample has to meet a constraint on a mean or a rate, at its bound or threshold. A constraint outside
    of its segment, or whose reward is missing, asks for nothing.

    Source: constrained reward shaping of RecGPT-V2, arXiv 2512.14503.
    """
    rewards, problem = batch.rewards.detach().cpu(), batch.problem
    met = torch.ones(rewards.shape[:2], dtype=torch.bool)
    for constraint, value in zip(
        problem.constraints, constraint_values(problem, rewards).unbind(dim=-1), strict=True
    ):
        if constraint.kind == "mean":
            # They are compared in the rewards' own precision, as in `constraint_values`.
            value = value.to(rewards.dtype)
            met &= ~(value < constraint.bound if constraint.sign > 0 else value > constraint.bound)
        else:
            met &= ~(value < 1)
    return Advantages(z_scores(objective_values(problem, rewards) * met).to(batch.rewards))


def tchebycheff(batch: AdvantageBatch) -> Advantages:
    """Raise whatever is furthest below its goal: a smooth minimum over all normalised distances.

        f_R = (mean R - highest R) / u_R,   f_k = s_k (mean r_k - b_k) / u_k
        A   = sum_j w_j s_j c_j / u_j / D,   w = softmax(-f / 0.1)

    The goal of the objective is the top of its declared range. Means are over the batch.

    Source: Lin et al. 2024, "Smooth Tchebycheff Scalarization", arXiv 2402.19078.
    """
    problem, components = batch.problem, _components(batch)
    signs = torch.cat([torch.ones(1, dtype=torch.float64), _signs(problem)])
    units = torch.cat([torch.tensor([batch.units.objective], dtype=torch.float64), batch.units.constraints])
    goals = [problem.ranges[problem.objective][1], *(c.bound for c in problem.constraints)]
    distance = (
        signs * (components.flatten(0, 1).nanmean(dim=0) - torch.tensor(goals, dtype=torch.float64)) / units
    )
    # A gate is part of the objective already; a value that nobody has pulls nowhere.
    counts = torch.tensor([True, *(c.kind != "gate" for c in problem.constraints)]) & distance.isfinite()
    weights = (-distance / _SMOOTHING).masked_fill(~counts, -torch.inf).softmax(dim=0).nan_to_num()
    return _divided(batch, signs * weights / units)


def single_reward(batch: AdvantageBatch) -> Advantages:
    """GRPO on the objective alone, gates included: A = (R - group mean) / (group std + 1e-4).

    Source: Shao et al. 2024, "DeepSeekMath", arXiv 2402.03300.
    """
    return Advantages(
        z_scores(objective_values(batch.problem, batch.rewards.detach().cpu())).to(batch.rewards)
    )


def _lagrangian(batch: AdvantageBatch) -> Advantages:
    coverage = batch.units.coverage
    pulls = _pulls(batch)
    return _divided(batch, pulls if coverage is None else pulls / coverage.clamp(min=1e-3))


def _divided(batch: AdvantageBatch, pulls: Tensor) -> Advantages:
    """Advantages X / D: X = sum_j pulls_j c_j over objective and constraints, D its rms."""
    values = _components(batch)
    if batch.running is None:
        x = (leave_one_out(values) * pulls).sum(dim=-1)
        square = x.square().mean()
    else:
        assert batch.tokens is not None, "running and tokens come together"
        x = (leave_one_out(values[:, :, None] - _running(batch)) * pulls).sum(dim=-1)
        tokens = batch.tokens.detach().cpu().double()
        square = (x.square() * tokens).sum() / tokens.sum().clamp(min=1)
    divisor = max(square.sqrt().item(), 1e-3)
    return Advantages((x / divisor).to(batch.rewards), divisor, 1.0 / (batch.units.objective * divisor))


def _components(batch: AdvantageBatch) -> Tensor:
    """Objective and constrained values, `[group, sample, 1 + constraint]`, float64 on the CPU."""
    rewards = batch.rewards.detach().cpu()  # float64 throughout, which not every device has
    objective = objective_values(batch.problem, rewards)
    return torch.cat([objective[..., None], constraint_values(batch.problem, rewards)], dim=-1)


def _running(batch: AdvantageBatch) -> Tensor:
    """Values of `running` by component; 0 for indicators, which only whole answers have."""
    assert batch.running is not None
    problem, running = batch.problem, batch.running.detach().cpu().double()
    rewards = [problem.objective, *(c.reward if c.kind == "mean" else None for c in problem.constraints)]
    zero = torch.zeros_like(running[..., 0])
    return torch.stack([zero if r is None else running[..., problem.names.index(r)] for r in rewards], dim=-1)


def _signs(problem: Problem) -> Tensor:
    return torch.tensor([float(c.sign) for c in problem.constraints], dtype=torch.float64)


def _pulls(batch: AdvantageBatch) -> Tensor:
    """Factors 1/u_R and lam_k s_k / u_k, `[1 + constraint]`."""
    objective = torch.tensor([1.0 / batch.units.objective], dtype=torch.float64)
    prices = _signs(batch.problem) * batch.multipliers.cpu() / batch.units.constraints.cpu()
    return torch.cat([objective, prices])


def _weighted(batch: AdvantageBatch) -> tuple[Tensor, Tensor]:
    """Rewards `[group, sample, reward]` float64 on the CPU, and their weights `[reward]`."""
    names, weights = batch.problem.names, batch.problem.sum_weights
    rewards = batch.rewards[..., : len(names)].detach().cpu().double()
    rewards = rewards.where(rewards.isfinite(), torch.nan)
    return rewards, torch.tensor([weights.get(name, 0.0) for name in names], dtype=torch.float64)


def _decoupled(batch: AdvantageBatch) -> tuple[Tensor, Tensor]:
    """Weighted z-scores `[group, sample, reward]`, and which samples have any reward."""
    rewards, weights = _weighted(batch)
    return z_scores(rewards) * weights, ~rewards.isnan().all(dim=-1)


def _over_batch(values: Tensor, present: Tensor) -> Tensor:
    """Values (a - mean) / (std + 1e-4) over the samples that are present; 0 elsewhere."""
    chosen = values[present]
    std = chosen.std() if len(chosen) > 1 else torch.zeros((), dtype=values.dtype)
    return ((values - chosen.mean()) / (std + 1e-4)).where(present, 0.0)

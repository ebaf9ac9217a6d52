"""Conflict metrics: which rewards pull against each other, and which one the coming step will hurt.

All are computed from the scores of one generation batch, so they cost nothing. They never correlate across
prompts: easy prompts score high on everything, which can flip the sign. Nothing here changes training.
"""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from .advantages import within_group
from .constraints import Problem


def directions(problem: Problem) -> list[float]:
    """Per reward: +1 if more is better, -1 if less is, 0 for a metric or a band, whose better side varies."""
    wanted: dict[str, set[float]] = {name: set() for name in problem.names}
    wanted[problem.objective].add(1.0)
    for constraint in problem.constraints:
        wanted[constraint.reward].add(1.0 if constraint.sense == ">=" else -1.0)
    return [sum(signs) for signs in wanted.values()]


def conflict_metrics(
    rewards: Tensor, advantages: Tensor, names: Sequence[str], directions: Sequence[float] | None = None
) -> dict[str, float]:
    """Conflict between the rewards of one batch.

    With d the deviation from the group mean over finite samples, a_j = directions_j d_j / pooled std of d_j:

        conflict/corr/i~j               sum d_i d_j / sqrt(sum d_i^2 sum d_j^2); for a softmax policy
                                        the cosine of the two natural gradients
        conflict/cov_advantage/j        mean of d_j A; negative = the coming step lowers reward j
        conflict/sign_disagreement/i~j  share of samples with a_i a_j < 0
        conflict/consensus              mean of |sum_j a_j| / sum_j |a_j|; 1 = all agree on every sample
        conflict/dead_groups/j          share of groups in which reward j does not vary and so says nothing

    Args:
        rewards: `[group, sample, reward]`; NaN or infinite = missing; a pair uses samples that have both.
        advantages: `[group, sample]`, from a rule of `advantages`.
        names: Of the rewards.
        directions: `[reward]`, as the function of that name gives; 0 leaves a reward out of disagreement and
            consensus. None: more is better for all.

    Returns:
        Metrics by key; those that are undefined (a reward without variation) are left out.
    """
    rewards, advantages = rewards.detach().cpu().double(), advantages.detach().cpu().double()
    present = rewards.isfinite()
    deviations, _ = within_group(rewards)
    signs = torch.tensor([1.0] * len(names) if directions is None else directions, dtype=torch.float64)
    metrics: dict[str, float] = {}

    for j, name in enumerate(names):
        count = present[..., j].sum()
        if count:
            metrics[f"conflict/cov_advantage/{name}"] = (
                (deviations[..., j] * advantages).sum() / count
            ).item()
        dead = (deviations[..., j] == 0).all(dim=1)
        metrics[f"conflict/dead_groups/{name}"] = dead.double().mean().item()

    for i, j in combinations(range(len(names)), 2):
        both = present[..., i] & present[..., j]
        pair, _ = within_group(rewards[..., [i, j]].where(both[..., None], torch.nan))
        d_i, d_j = pair.unbind(dim=-1)
        scale = (d_i.square().sum() * d_j.square().sum()).sqrt()
        if scale > 0:
            metrics[f"conflict/corr/{names[i]}~{names[j]}"] = ((d_i * d_j).sum() / scale).item()
        if both.any() and signs[i] * signs[j] != 0:
            disagree = (d_i * signs[i] * d_j * signs[j] < 0) & both
            metrics[f"conflict/sign_disagreement/{names[i]}~{names[j]}"] = (
                disagree.sum() / both.sum()
            ).item()

    pooled_std = (deviations.square().sum(dim=(0, 1)) / present.sum(dim=(0, 1)).clamp(min=1)).sqrt()
    components = signs * deviations / pooled_std.where(pooled_std > 0, 1.0)
    total = components.abs().sum(dim=-1)
    if (total > 0).any():
        agreed = components.sum(dim=-1).abs()[total > 0] / total[total > 0]
        metrics["conflict/consensus"] = agreed.mean().item()
    return metrics

"""Conflict measures: which rewards pull against each other, and which one the coming step will hurt.

`conflict_metrics` needs only the scores of one generation batch, so it costs nothing. `gradient_cosines`, on
request, compares the rewards' policy gradients in the model's last layer, on advantages of `half_advantages`.
Both stay within groups: easy prompts score high on everything, which can flip the sign across prompts.
Nothing here changes training.
"""

import math
from collections.abc import Collection, Sequence
from itertools import combinations

import torch
from torch import Tensor

from .groups import leave_one_out, within_group
from .problem import Problem


def taking_part(problem: Problem) -> list[str]:
    """Names of rewards that a rule may read: objective, constrained and weighted ones, no mere metric."""
    constrained = {constraint.reward for constraint in problem.constraints}
    weighted = {name for name, weight in problem.weights.items() if weight}
    return [name for name in problem.names if name in {problem.objective} | constrained | weighted]


def conflict_metrics(
    rewards: Tensor,
    advantages: Tensor,
    names: Sequence[str],
    directions: Sequence[float] | None = None,
    *,
    objective: str | None = None,
    participants: Collection[str] | None = None,
) -> dict[str, float]:
    """Conflict between the rewards of one batch.

    With d the deviation from the group mean over finite samples, a_j = directions_j d_j / pooled std of d_j:

        conflict/corr/i~j               sum d_i d_j / sqrt(sum d_i^2 sum d_j^2); for a softmax policy
                                        the cosine of the two natural gradients
        conflict/cov_advantage/j        mean of d_j A; negative = the coming step lowers reward j
        conflict/sign_disagreement/i~j  share of samples with a_i a_j < 0
        conflict/consensus              mean of |sum_j a_j| / sum_j |a_j|; 1 = all agree on every sample
        conflict/dead_groups/j          share of groups in which reward j does not vary and so says nothing
        conflict/effective_weight/j     units of the objective that one unit of reward j is worth to the
                                        coming step, see `effective_weights`

    Args:
        rewards: Scores, `[group, sample, reward]`; NaN or infinite = missing; a pair needs both.
        advantages: Advantages from a rule of `advantages`, `[group, sample]`.
        names: Names of the rewards.
        directions: Directions as of `Problem.directions`, `[reward]`; 0 leaves a reward out of disagreement
            and consensus. None: more is better for all.
        objective: Name of the reward that effective weights are relative to; None leaves them out.
        participants: Names of the rewards that the rule reads, see `taking_part`; None: all. Only these have
            an effective weight.

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

    if objective is not None:
        known = names if participants is None else {objective, *participants}
        read = [j for j, name in enumerate(names) if name in known]
        position = [names[j] for j in read].index(objective)
        weights = effective_weights(rewards[..., read], advantages, position).tolist()
        named = zip((names[j] for j in read), weights, strict=True)
        metrics |= {f"conflict/effective_weight/{name}": w for name, w in named if not math.isnan(w)}
    return metrics


def effective_weights(rewards: Tensor, advantages: Tensor, objective: int) -> Tensor:
    """Exchange rates that the advantages imply, whatever the rule: units of objective per unit of reward.

    Least squares of A on the deviations c_j of `leave_one_out`, pooled over groups, each coefficient divided
    by the objective's. For `lagrangian` without gates, rates and segments that is s_k price_k exactly (times
    q_R / q_k where units have a coverage), and for a band the sum of its sides; a rule that is not linear in
    the rewards gets the best linear description. Among collinear rewards, which no data can tell apart, the
    weight is split: the solution of least norm, each reward in units of its spread.

    Args:
        rewards: Scores that the rule reads, `[group, sample, reward]`; NaN or infinite = missing.
        advantages: Advantages, `[group, sample]`.
        objective: Index of the reward that is the objective.

    Returns:
        Rates `[reward]`, float64; 1 for the objective; NaN for a reward without variation, and for all where
        the objective moves the advantage by less than a thousandth of its spread.
    """
    advantages = advantages.detach().cpu().double().flatten()
    deviations = leave_one_out(rewards.detach().cpu().double()).flatten(0, 1)
    spread = deviations.square().mean(dim=0).sqrt()
    varies = spread > 0
    scaled = deviations / spread.where(varies, 1.0)
    # Rewards in float32 leave collinear columns apart by 1e-7, which must still count as collinear.
    fit = torch.linalg.lstsq(scaled, advantages[:, None], rcond=1e-5, driver="gelsd").solution[:, 0]
    if fit[objective].abs() <= 1e-3 * advantages.square().mean().sqrt():
        return torch.full_like(spread, torch.nan)
    weights = fit / spread
    return (weights / weights[objective]).where(varies, torch.nan)


def half_advantages(rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Advantages for `gradient_cosines`: one per reward, baselined within one half of the group.

    They are each reward minus the mean of the others in the same half, so that the halves stay independent.

    Args:
        rewards: Scores, `[group, sample, reward]`; NaN or infinite = missing. At least 4 samples a group.

    Returns:
        Advantages `[group, sample, reward]`, 0 where missing; and each sample's half, `[sample]` of 0 or 1.
    """
    samples = rewards.shape[1]
    if samples < 4:
        raise ValueError(f"num_generations={samples} leaves a half of the group no baseline; set 4 or more")
    half = torch.arange(samples, device=rewards.device) % 2
    advantages = torch.zeros_like(rewards)
    for side in (0, 1):
        advantages[:, half == side] = leave_one_out(rewards[:, half == side])
    return advantages, half


def gradient_products(
    hidden: Tensor, logits: Tensor, targets: Tensor, advantages: Tensor, half: Tensor
) -> Tensor:
    """Cross-fitted inner products of the rewards' policy gradients in the weight of the last layer.

        g_j = sum_t a_tj (onehot(y_t) - p_t) h_t^T,   <g_i, g_j> ~ (g_i^0 . g_j^1 + g_i^1 . g_j^0) / 2

    Both factors from the same samples would add the noise that they share; halves of independent samples make
    the estimate unbiased, for half of the samples times the other. No gradient `[V, H]` is formed: with
    delta_t = onehot(y_t) - p_t the inner products need only (delta_t . delta_s)(h_t . h_s).

    Args:
        hidden: h, input of the last layer, whose logits are `W h`, `[token, H]`.
        logits: Logits at temperature 1, `[token, V]`.
        targets: y, the tokens that were sampled, `[token]`.
        advantages: a, that of the answer that holds the token, from `half_advantages`, `[token, reward]`.
        half: Half of each token, 0 or 1, `[token]`; tokens of one answer share theirs.

    Returns:
        Products `[reward, reward]`, float64, symmetric.
    """
    parts, precision = [], torch.promote_types(logits.dtype, torch.float32)
    for side in (0, 1):
        chosen = half == side
        delta = logits[chosen].detach().to(precision).softmax(dim=-1).neg_()
        delta[torch.arange(len(delta), device=delta.device), targets[chosen]] += 1.0
        parts.append((delta, hidden[chosen].detach().to(delta), advantages[chosen].detach().cpu().double()))
    (delta_0, hidden_0, a_0), (delta_1, hidden_1, a_1) = parts
    kernel = ((delta_0 @ delta_1.T) * (hidden_0 @ hidden_1.T)).double().cpu()
    products = a_0.T @ kernel @ a_1
    return (products + products.T) / 2


def gradient_cosines(
    hidden: Tensor, logits: Tensor, targets: Tensor, advantages: Tensor, half: Tensor
) -> Tensor:
    """Cosines of the rewards' policy gradients in the last layer, from `gradient_products`.

    Returns:
        Cosines `[reward, reward]`, float64; NaN where a squared norm comes out <= 0. Noise can take a value
        outside of [-1, 1]: more samples are needed then.
    """
    products = gradient_products(hidden, logits, targets, advantages, half)
    norms = products.diagonal().clamp(min=0.0).sqrt()
    return products / norms.where(norms > 0, torch.nan).outer(norms)

"""Statistics of the samples of one prompt, a group, against each other; missing values are masked."""

from typing import Any

import torch
from torch import Tensor


def within_group(values: Tensor) -> tuple[Tensor, Tensor]:
    """Deviations from the group mean over finite samples.

    Args:
        values: Values, `[group, sample, ...]`; NaN or infinite = missing.

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

    It equals the deviation from the group mean times n/(n-1), n the finite samples. It makes the estimate of
    the policy gradient unbiased (Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!").
    """
    deviations, counts = within_group(values)
    return deviations * counts / (counts - 1).clamp(min=1)


def z_scores(values: Tensor) -> Tensor:
    """Deviations from the group mean over the group's standard deviation, as TRL computes them.

        (r - mean) / (std + 1e-4),   std with Bessel's correction

    Args:
        values: Values, `[group, sample, ...]`; NaN or infinite = missing.

    Returns:
        Scores of the same shape; 0 where missing and in groups without variation.
    """
    deviations, counts = within_group(values)
    std = (deviations.square().sum(dim=1, keepdim=True) / (counts - 1).clamp(min=1)).sqrt()
    return deviations / (std + 1e-4)


def permute_groups(batch: dict[str, Any], size: int) -> dict[str, Any]:
    """Bring the groups of a batch into a random order; the samples of a group stay neighbours.

    Args:
        batch: Tensors and lists with ``N`` samples along their first dimension, scalars, and None.
        size: Number of samples of a group; divides ``N``.
    """

    def is_scalar(value: Any) -> bool:
        return value is None or (torch.is_tensor(value) and value.ndim == 0)

    samples = len(next(value for value in batch.values() if not is_scalar(value)))
    order = torch.arange(samples).view(-1, size)[torch.randperm(samples // size)].flatten()

    def permuted(value: Any) -> Any:
        if is_scalar(value):
            return value
        return value[order.to(value.device)] if torch.is_tensor(value) else [value[i] for i in order]

    return {key: permuted(value) for key, value in batch.items()}

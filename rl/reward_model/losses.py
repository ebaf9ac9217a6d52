"""Losses that teach scores from grades, each over the candidates of one context.

``list_wise``      a candidate against all that have a lower grade (RecGPT-V2)
``pair_logistic``  a candidate against each that has a lower grade
``point_wise``     each candidate alone, against its grade as a probability

``scores`` are logits ``[context, candidate]``; ``grades`` are whole numbers of that shape, higher is better,
and :data:`MISSING` where there is no candidate or nobody judged it. A context with one grade alone teaches
the first two nothing: candidates of the same grade are never compared.
"""

from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from .settings import LossName

MISSING = -1
"""Grade of what is not there, or was not judged."""


def list_wise(scores: Tensor, grades: Tensor, highest: int) -> Tensor:
    """Mean over candidates ``y`` with something below them of ``-log(e^f(y) / (e^f(y) + sum e^f(y')))``.

    The sum runs over the candidates ``y'`` of the same context with a lower grade.

    Source: RecGPT-V2 (arXiv 2512.14503), for the grades superior, average and bad.
    """
    lower, scores = _lower(grades), _there(scores, grades)
    others = scores[:, None, :].masked_fill(~lower, -torch.inf)
    terms = torch.cat([scores[..., None], others], dim=-1).logsumexp(-1) - scores
    return _mean(terms, lower.any(-1))


def pair_logistic(scores: Tensor, grades: Tensor, highest: int) -> Tensor:
    """Mean over pairs of ``-log sigmoid(f(y) - f(y'))``, where ``y'`` has the lower grade."""
    scores = _there(scores, grades)
    return _mean(softplus(scores[:, None, :] - scores[..., None]), _lower(grades))


def point_wise(scores: Tensor, grades: Tensor, highest: int) -> Tensor:
    """Mean cross-entropy of ``sigmoid(f(y))`` against ``grade / highest``."""
    judged, scores = grades != MISSING, _there(scores, grades)
    aims = grades.clamp(min=0).to(scores.dtype) / highest
    return _mean(binary_cross_entropy_with_logits(scores, aims, reduction="none"), judged)


LOSSES: dict[LossName, Callable[[Tensor, Tensor, int], Tensor]] = {
    "list_wise": list_wise,
    "pair_logistic": pair_logistic,
    "point_wise": point_wise,
}
"""Losses by name: scores, grades and the highest grade -> a number."""

assert set(LOSSES) == set(get_args(LossName))


def _there(scores: Tensor, grades: Tensor) -> Tensor:
    """Scores, 0 where there is no grade: those of what is not there are infinite, and so are gradients."""
    return scores.masked_fill(grades == MISSING, 0.0)


def _lower(grades: Tensor) -> Tensor:
    """Whether candidate ``j`` has a lower grade than ``i``, ``[context, i, j]``."""
    judged = grades != MISSING
    return (grades[:, None, :] < grades[..., None]) & judged[:, None, :] & judged[..., None]


def _mean(terms: Tensor, counted: Tensor) -> Tensor:
    """Mean of the terms that count; 0, with a gradient of 0, where none does."""
    return terms.masked_fill(~counted, 0.0).sum() / counted.sum().clamp(min=1)

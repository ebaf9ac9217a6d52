"""Whether answers were sampled from the policy: an engine's log-probabilities against the trainer's own.

The check is always on, for a few answers of every generation. A ratio near 1 alone proves nothing while
weights stand still, so the version that each token was drawn from is checked besides.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..prefix.sharing import TOLERANCE
from .base import Answer, RolloutError

SAMPLES = 2
"""Number of answers to a rank's first prompt that are compared."""

METRICS = (
    "logp_difference/mean",
    "logp_difference/max",
    "importance_ratio/min",
    "importance_ratio/mean",
    "importance_ratio/max",
)


def check_versions(answers: Sequence[Answer], version: str) -> None:
    """Refuse tokens that were not drawn from the weights of this version.

    Raises:
        RolloutError: there is one; the error names what the engine holds.
    """
    for answer in answers:
        if answer.versions != (version,):
            held = " then ".join(answer.versions) or "none"
            raise RolloutError(
                f"an answer was sampled from weights {held!r}, but the policy is at {version!r}: the "
                "engine was "
                "restarted, or something else exchanges its weights; let one run use a server at a time"
            )


def compare(engine: Tensor, own: Tensor, kept_mass: float) -> tuple[Tensor, Tensor]:
    """Distance of an engine from the trainer, and importance ratios.

    Args:
        engine: Log-probabilities of the engine, ``[tokens]``, after truncation.
        own: Log-probabilities of the trainer, ``[tokens]``, without it.
        kept_mass: Least probability that truncation keeps (``top_p``); 0 where that is unknown. What is kept
            is scaled up, so an engine may be above the trainer by up to ``-log`` of it.

    Returns:
        Differences ``[tokens]`` in nats beyond what truncation explains, and the ratio ``own / engine``.
    """
    apart = engine - own
    room = -math.log(kept_mass) if kept_mass else math.inf
    return torch.relu(apart - room) + torch.relu(-apart), torch.exp(-apart)


def verdict(mean: float, dtype: torch.dtype, version: str) -> str | None:
    """Fault of a mean difference, or None within the tolerance of a dtype."""
    if mean <= TOLERANCE[dtype]:  # NaN is not
        return None
    return (
        f"the rollout engine says it holds weights {version!r}, the policy's, but its log-probabilities "
        f"are {mean:.2g} "
        f"nats off on average, more than {TOLERANCE[dtype]:.2g} for {dtype}: the weights were not taken "
        "over, or it "
        "computes otherwise. `recrl doctor` tries a round trip; rollout.engine=transformers needs none"
    )

"""What a score means: a probability, and whether a text is like those that it was learned from.

``Calibration``  logits -> probabilities, by two numbers
``Drift``        how far a text's features lie from those of the training, and how far is too far
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ...rewards.shipped.judged import DRIFT, distances
from .losses import MISSING

# Directions of the features that are watched; share of unseen texts of the training's kind beyond the limit.
_DIRECTIONS, _BEYOND = 16, 0.01


@dataclass(frozen=True)
class Calibration:
    """``sigmoid(scale * logit + shift)`` (Platt 1999).

    Attributes:
        scale: Never below 0: a calibration keeps the order of the scores.
    """

    scale: float
    shift: float

    @classmethod
    def fitted(cls, scores: Sequence[Tensor], grades: Sequence[Tensor], highest: int) -> Self:
        """The calibration whose probabilities fit ``grade / highest`` best, by cross-entropy."""
        given = torch.cat(list(grades))
        logits = torch.cat(list(scores)).double()[given != MISSING]
        aims = given[given != MISSING].double() / highest
        found = torch.tensor([0.0, 0.0], dtype=torch.float64, requires_grad=True)  # log of the scale, shift
        optimizer = torch.optim.LBFGS([found], max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            # A weak pull towards the logits themselves: grades that the scores separate have no best scale.
            value = binary_cross_entropy_with_logits(found[0].exp() * logits + found[1], aims)
            value = value + 1e-4 * found.square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        return cls(float(found[0].detach().exp()), float(found[1].detach()))

    def probabilities(self, logits: Tensor) -> Tensor:
        return (self.scale * logits + self.shift).sigmoid()

    def as_json(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Drift:
    """Mahalanobis distances of features along the directions in which the training's vary most.

    Attributes:
        mean: Mean of the training's features, ``[hidden]``.
        directions: Directions over their standard deviations, ``[directions, hidden]``.
        limit: Distance that one text of a hundred of the training's kind lies beyond.
    """

    mean: Tensor
    directions: Tensor
    limit: float

    @classmethod
    def fitted(cls, seen: Tensor, held: Tensor) -> Self:
        """
        Args:
            seen: Features of texts that were learned from, ``[text, hidden]``; ``held``: of others of the
                same kind, which the limit is read from.
        """
        mean = seen.mean(0)
        _, sizes, axes = torch.linalg.svd(seen - mean, full_matrices=False)
        kept = min(_DIRECTIONS, int((sizes > 1e-6 * sizes[0]).sum()))
        spread = sizes[:kept] / max(1, len(seen) - 1) ** 0.5
        found = cls(mean, axes[:kept] / spread[:, None], 0.0)
        return cls(found.mean, found.directions, float(found.distances(held).quantile(1 - _BEYOND)))

    def distances(self, features: Tensor) -> Tensor:
        """Distance of each text, ``[text]``."""
        return distances(features, self.mean, self.directions)

    def save(self, folder: Path) -> None:
        tensors = {"mean": self.mean, "directions": self.directions, "limit": torch.tensor([self.limit])}
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / DRIFT)

    @classmethod
    def load(cls, folder: Path) -> Self:
        tensors = load_file(folder / DRIFT)
        return cls(tensors["mean"], tensors["directions"], float(tensors["limit"]))

"""The optimiser of supervised training: AdamW, a linear warm-up of 5 % of the steps, a cosine decay to 0."""

import math
from collections.abc import Iterable

import torch
from torch import nn


class Supervised:
    """Optimiser and schedule; gradients are clipped to norm 1.

    Args:
        model: Model whose gradients are clipped.
        parameters: What is trained.
        steps: Steps of the whole training.
        learning_rate: Peak of the rate; ``weight_decay``: of AdamW.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Iterable[nn.Parameter],
        steps: int,
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        self._model = model
        self.optimizer = torch.optim.AdamW(
            parameters, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.95)
        )
        warm_up = max(1, steps // 20)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps)),
        )

    def step(self) -> None:
        """One step on the gradients that are there."""
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)

"""The running mean of the weights that a training passes through towards its end.

Where an optimiser circles a saddle point, as a policy and its prices do, the mean of the iterates is closer
to it than the last one (Polyak and Juditsky 1992; for saddle points Nedic and Ozdaglar 2009).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from ..distributed.processes import whole

_FILE, _COUNT = "average.safetensors", "steps"


class WeightAverage(TrainerCallback):
    """Mean of the trained parameters over the last steps, in float32 on the CPU of the first process.

    Args:
        share: Share of the steps whose weights are averaged, the last ones; 0 to 1.
        accelerator: Accelerator, which knows how the policy is sharded.

    Attributes:
        steps: Number of steps in the mean.
    """

    def __init__(self, share: float, accelerator: Accelerator) -> None:
        self._share, self._accelerator = share, accelerator
        self._means: dict[str, Tensor] = {}
        self.steps = 0

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Take the weights of a step in."""
        if state.global_step > state.max_steps - math.ceil(self._share * state.max_steps):
            self._add(self._accelerator.unwrap_model(model))

    def _add(self, policy: Any) -> None:
        self.steps += 1
        for name, parameter in policy.named_parameters():
            if not parameter.requires_grad:
                continue
            # Each process has to come along: a parameter that ZeRO-3 shards is gathered.
            with whole([parameter], self._accelerator):
                if self._accelerator.is_main_process:
                    now = parameter.detach().to("cpu", torch.float32)
                    mean = self._means.setdefault(name, torch.zeros_like(now))
                    mean += (now - mean) / self.steps

    def replace(self, policy: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a policy with the mean in the place of what it trains; called on the first process.

        Args:
            weights: Weights by the names of the policy's parameters and buffers.
        """
        found = dict(weights)
        firsts: dict[int, str] = {}
        means: dict[str, Tensor] = {}
        for name, parameter in policy.named_parameters(remove_duplicate=False):
            first = firsts.setdefault(id(parameter), name)
            if first in self._means and name in found:
                # Tied parameters share one tensor again.
                found[name] = means.setdefault(first, self._means[first].to(parameter.dtype))
        return found

    @staticmethod
    def apply(policy: Any, folder: Path) -> None:
        """Put the mean of a checkpoint, if it has one, into a policy that was loaded from it."""
        if (folder / _FILE).is_file():
            parameters = dict(policy.named_parameters())
            for name, mean in load_file(folder / _FILE).items():
                parameters[name].data.copy_(mean)

    def save(self, folder: Path) -> None:
        """Write the mean into a checkpoint; called on the first process."""
        if self.steps:
            save_file(self._means, folder / _FILE, {_COUNT: str(self.steps)})

    def load(self, folder: Path) -> None:
        """Go on with the mean of a checkpoint, or begin one where it has none; called on every process."""
        self._means, self.steps = {}, 0
        if not (folder / _FILE).is_file():
            return
        with safe_open(folder / _FILE, "pt") as file:
            self.steps = int(file.metadata()[_COUNT])
            if self._accelerator.is_main_process:
                self._means = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

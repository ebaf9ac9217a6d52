"""A run on several processes that stops in its middle, and the one that goes on, for test_distributed.py."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate.utils import gather_object
from fixed_rollouts import Stop, trainer_for
from transformers import TrainerCallback

from recrl.rewards import reward
from recrl.rl.policy import LoraConfig
from recrl.rl.policy.adapters import add

STEPS, MIDDLE = 4, 3
AVERAGE = 0.5  # so the weights of steps 3 and 4, with the stop between them


@reward("even", range=(0, 1))
def even(completion_ids):
    """Share of even tokens, in which an untrained policy's answers differ: there is something to learn."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


class Passed(TrainerCallback):
    """Weights after each step, as DeepSpeed gathers them."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.weights = trainer, []

    def on_step_end(self, args, state, control, **kwargs):
        found = self.trainer.accelerator.get_state_dict(self.trainer.model_wrapped)
        self.weights.append({name: value.clone() for name, value in (found or {}).items()})


def adapted(model: Any) -> Any:
    """Adapters that a warm start has moved."""
    model = add(model, LoraConfig(rank=4), seed=1)
    for i, (name, value) in enumerate(model.named_parameters()):
        if ".lora_B." in name:
            value.data.normal_(std=0.05, generator=torch.Generator().manual_seed(i))
    return model


# Adapters, held to what they began with by a KL term.
ADAPTERS: dict[str, Any] = {"change": adapted, "beta": 0.1}


def run(folder: Path, chosen: Mapping[str, Any], *, stop: bool = False, resume: bool = False) -> dict:
    trainer = trainer_for(
        folder,
        max_steps=STEPS,
        save_strategy="steps",
        save_steps=100,
        num_iterations=2,
        average=AVERAGE,
        rewards=("even", "novelty", "duplicates"),
        objective="even",
        **chosen,
    )
    passed = Passed(trainer)
    trainer.add_callback(passed)
    if stop:
        trainer.add_callback(Stop(MIDDLE))
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_policy(folder / "policy")
    duals = gather_object([trainer.duals.state_dict()])
    assert all(state == duals[0] for state in duals)
    if not trainer.accelerator.is_main_process:
        return {}
    late = passed.weights[-2:]
    average = {name: sum(weights[name].double() for weights in late) / len(late) for name in late[0]}
    return {"weights": passed.weights[-1], "average": average, "duals": duals[0]}


def runs(output: Path, chosen: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Writes how the whole run and the resumed one ended, and the policy of each.

    Args:
        chosen: Further options of the trainer.
    """
    whole = run(output / "whole", chosen)
    run(output / "parts", chosen, stop=True)
    resumed = run(output / "parts", chosen, resume=True)
    if whole:
        torch.save({"whole": whole, "resumed": resumed}, output / "resumed.pt")

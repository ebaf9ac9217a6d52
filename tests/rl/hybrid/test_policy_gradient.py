"""Constrained training on hybrid prompts: rollouts, shared prompts and resumes see nothing new."""

import fixed_rollouts
import pytest
import slotted
import torch

from recrl.rl.policy import slots
from recrl.rl.policy.adapters import add
from recrl.rl.policy.loading import load
from recrl.rl.policy.settings import LoraConfig, PolicyConfig

STEPS = 20


def train(output, folder, stop=None, resume=None):
    trainer = fixed_rollouts.trainer_for(
        output,
        max_steps=STEPS,
        save_strategy="steps",
        save_steps=100,
        beta=0.1,
        learning_rate=1e-2,
        prefix_sharing="on",
        **slotted.options(folder),
    )
    seen, score = [], trainer.engine.score

    def spy(prompts, *arguments):
        seen.append([prompt[0]["content"] for prompt in prompts])
        return score(prompts, *arguments)

    trainer.engine.score = spy
    if stop:
        trainer.add_callback(fixed_rollouts.Stop(stop))
    trainer.train(resume_from_checkpoint=resume)
    return trainer, seen


@pytest.mark.slow
def test_twenty_constrained_steps_on_hybrid_prompts_resumed_exactly(tmp_path):
    folder = tmp_path / "policy"
    whole, asked = train(tmp_path / "whole", folder)
    assert whole.sharing.reason is None
    objective = [row["objective"] for row in whole.state.log_history if "objective" in row]
    assert len(objective) == STEPS
    kl = [row["kl"] for row in whole.state.log_history if "kl" in row]
    assert kl[0] < 1e-4 < kl[-1], "the reference reads slots too"
    first = load(PolicyConfig(model=str(folder)))[0]
    moved = {
        name: (value - first.state_dict()[name]).abs().max().item()
        for name, value in whole.model.state_dict().items()
    }
    assert all(moved[name] > 0 for name in moved if "adaptor" in name), "the adaptor learns with the policy"
    _, some = train(tmp_path / "parts", folder, stop=9)
    resumed, rest = train(tmp_path / "parts", folder, resume=str(tmp_path / "parts" / "checkpoint-9"))
    assert some + rest == asked
    assert resumed.duals.state_dict() == whole.duals.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    again, _ = load(PolicyConfig(model=str(tmp_path / "parts" / "checkpoint-9")))
    assert slots.of(again) is not None, "a checkpoint is a folder that is loaded with its slots"


@pytest.mark.slow
def test_adapters_learn_on_hybrid_prompts_in_front_of_a_frozen_adaptor(tmp_path):
    given = slotted.options(tmp_path / "policy")
    trainer = fixed_rollouts.trainer_for(
        tmp_path / "run",
        max_steps=3,
        beta=0.1,
        learning_rate=1e-2,
        prefix_sharing="on",
        rollout_func=fixed_rollouts.scripted,
        data=given["data"],
        change=lambda model: add(given["change"](model), LoraConfig(rank=2), seed=1),
    )
    assert trainer.sharing.reason is None
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    moved = {
        name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved
    assert all("lora_" in name for name in moved)
    kl = [row["kl"] for row in trainer.state.log_history if "kl" in row]
    assert kl[0] < 1e-4 < kl[-1]

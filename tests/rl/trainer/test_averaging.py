"""The mean of the weights of the last steps: what it is of, where it goes, and how it survives a stop."""

import fixed_rollouts
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback

from recrl.rl import policy
from recrl.rl.policy import adapters

STEPS = 5


class Passed(TrainerCallback):
    """Weights of the policy after each step."""

    def __init__(self):
        self.weights = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append({name: value.clone() for name, value in model.state_dict().items()})


def train(output, average, stop=None, resume=None, **options):
    trainer = fixed_rollouts.trainer_for(
        output, max_steps=STEPS, save_strategy="steps", save_steps=100, average=average, **options
    )
    passed = Passed()
    trainer.add_callback(passed)
    if stop:
        trainer.add_callback(fixed_rollouts.Stop(stop))
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_policy(output / "policy")
    return trainer, passed.weights


def mean(weights):
    return {name: sum(one[name].double() for one in weights) / len(weights) for name in weights[0]}


def assert_close(saved, expected):
    for name, value in saved.items():
        assert torch.allclose(value, expected[name].float(), rtol=1e-6, atol=1e-9), name


@pytest.mark.parametrize(("share", "steps"), [(0.4, 2), (0.5, 3), (1.0, 5)])
def test_the_policy_is_the_mean_of_the_last_steps(tmp_path, share, steps):
    trainer, weights = train(tmp_path, share)
    saved = load_file(tmp_path / "policy" / "model.safetensors")
    assert_close(saved, mean(weights[-steps:]))
    # Training itself goes on from the last weights.
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, weights[-1][name]), name


def test_without_a_share_the_policy_has_the_last_weights(tmp_path):
    trainer, weights = train(tmp_path, 0.0)
    saved = load_file(tmp_path / "policy" / "model.safetensors")
    assert trainer.average is None
    assert all(torch.equal(value, weights[-1][name]) for name, value in saved.items())


def test_a_head_that_is_tied_to_the_embedding_stays_so(tmp_path):
    def tied(model):
        model.config.tie_word_embeddings = True
        model.tie_weights()
        return model

    _, weights = train(tmp_path, 0.4, change=tied)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float32)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert_close(dict(model.named_parameters()), mean(weights[-2:]))


def test_of_adapters_their_own_weights_are_averaged(tmp_path):
    def adapted(model):
        return adapters.add(model, policy.LoraConfig(rank=4), seed=1)

    _, weights = train(tmp_path, 0.4, change=adapted)
    expected = mean(weights[-2:])
    saved = load_file(tmp_path / "policy" / "adapter_model.safetensors")
    assert saved
    assert_close(
        saved,
        {
            name: expected[
                name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default.")
            ]
            for name in saved
        },
    )


@pytest.mark.parametrize("stop", [2, 4])  # before the first averaged step, and between two
def test_a_stopped_run_has_the_same_mean(tmp_path, stop):
    train(tmp_path / "whole", 0.6)
    train(tmp_path / "parts", 0.6, stop=stop)
    train(tmp_path / "parts", 0.6, resume=True)
    whole, parts = (load_file(tmp_path / run / "policy" / "model.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(parts[name], value) for name, value in whole.items())


def test_a_checkpoint_without_a_mean_begins_one(tmp_path):
    train(tmp_path, 0.0, stop=4)
    trainer, weights = train(tmp_path, 0.6, resume=True)
    assert trainer.average.steps == 1
    saved = load_file(tmp_path / "policy" / "model.safetensors")
    assert all(torch.equal(value, weights[-1][name]) for name, value in saved.items())

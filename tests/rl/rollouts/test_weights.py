"""What a rollout engine is handed of a policy with adapters."""

import torch
from accelerate import Accelerator
from fixed_rollouts import policy_and_tokenizer
from peft import LoraConfig, get_peft_model

from recrl.rl.rollouts.weights import named_weights


def test_adapters_are_merged_under_the_names_of_their_model_and_the_reference_is_left_out():
    plain, _ = policy_and_tokenizer()
    names = [name for name, _ in plain.named_parameters()]
    torch.manual_seed(0)
    settings = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(plain, settings)
    model.add_adapter("ref", settings)  # as TRL does for a KL term
    before = {name: value.clone() for name, value in model.state_dict().items()}
    handed = {name: value.clone() for name, value in named_weights(model, Accelerator(cpu=True))}
    assert sorted(handed) == sorted(names)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.delete_adapter("ref")
    merged = dict(model.merge_and_unload().named_parameters())
    for name, value in handed.items():
        assert torch.equal(value, merged[name]), name
    layer = "model.layers.0.self_attn.q_proj"
    assert not torch.equal(handed[f"{layer}.weight"], before[f"base_model.model.{layer}.base_layer.weight"])

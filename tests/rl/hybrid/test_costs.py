import pytest
import tiny_models
import torch
from entities import store_in
from torch import nn

from recrl.rl.hybrid.costs import arithmetic, seconds
from recrl.rl.policy import slots


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_arithmetic_is_that_of_the_layers_as_they_are_called_and_of_attention(family, tmp_path):
    model = tiny_models.build(family)
    layer = slots.add(model, store_in(tmp_path), 16, seed=0)
    prompt = torch.tensor([[5, *(layer.num_embeddings + torch.tensor([1, 2, 2])), 9, 11]])
    counted = {"linear": 0, "head": 0, "adaptor": 0}

    def count(part):
        def hook(module, given, _):
            counted[part] += 2 * module.weight.numel() * given[0].shape[:-1].numel()

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            head = module is model.get_output_embeddings()
            module.register_forward_hook(
                count("head" if head else "adaptor" if "adaptor" in name else "linear")
            )
    model(input_ids=prompt, logits_to_keep=1)
    found = arithmetic(model, 6, entities=2)
    assert (found.linear, found.head, found.adaptor) == tuple(counted.values())
    # Queries and keys, then probabilities and values: 4 heads of 8, two layers, 21 pairs.
    assert found.attention == 2 * 2 * 32 * 2 * 21
    more = arithmetic(model, 6, entities=2, answers=3, tokens=2)
    assert more.attention == 2 * 2 * 32 * 2 * (21 + 3 * (7 + 8)), "a prompt is read once for its answers"
    assert more.head == 6 * found.head


def test_times_are_measured_and_leave_the_model_as_it_was():
    model = tiny_models.build("qwen3").requires_grad_(False)
    took = seconds(model, [[5, 6, 7] * 5, [8, 9]], [[3, 4], [5]])
    assert 0 < took["prefill"] < 5
    assert 0 < took["step"] < 5
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())

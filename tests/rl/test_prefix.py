"""The packed row gives the full rows' log-probabilities and gradients."""

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from recrl.rl.prefix import continuation_logits, pack


def tiny(attention: str) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=101,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            tie_word_embeddings=True,
            initializer_range=0.2,
            attn_implementation=attention,
        )
    )


def ragged() -> tuple[torch.Tensor, ...]:
    """Three prompts of different lengths; continuations uneven, one of them empty."""
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(1, 101, (3, 20), generator=generator)
    prompt_mask = torch.ones_like(prompts)
    prompt_mask[0, :7], prompt_mask[1, :19] = 0, 0
    answers = torch.randint(1, 101, (3, 4, 6), generator=generator)
    answer_mask = torch.ones_like(answers)
    answer_mask[0, 1, 3:], answer_mask[2, 2, :], answer_mask[1, 0, 1:] = 0, 0, 0
    return prompts, prompt_mask, answers, answer_mask


def full_row_logprobs(model, prompts, prompt_mask, answers, answer_mask) -> list[torch.Tensor]:
    """Each continuation behind its own copy of the prompt, without padding."""
    found = []
    for r, g in ((r, g) for r in range(answers.shape[0]) for g in range(answers.shape[1])):
        prompt, answer = prompts[r][prompt_mask[r].bool()], answers[r, g][answer_mask[r, g].bool()]
        logits = model(input_ids=torch.cat([prompt, answer])[None]).logits[0, len(prompt) - 1 : -1]
        found.append(logits.log_softmax(-1).gather(1, answer[:, None]).squeeze(1))
    return found


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_log_probabilities_and_gradients_equal_full_rows(attention):
    model, batch = tiny(attention), ragged()
    answers, kept = batch[2], batch[3].bool()
    logits = continuation_logits(model, pack(*batch), attention)
    packed = logits.log_softmax(-1).gather(-1, answers[..., None]).squeeze(-1)[kept]
    packed.sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    full = torch.cat(full_row_logprobs(model, *batch))
    full.sum().backward()
    assert (packed - full).abs().max() < 2e-5
    for shared, plain in zip(gradients, (p.grad for p in model.parameters()), strict=True):
        assert (shared - plain).norm() <= 1e-4 * plain.norm() + 1e-6


def test_a_prompt_without_a_token_is_refused():
    prompts, prompt_mask, answers, answer_mask = ragged()
    prompt_mask[0] = 0
    with pytest.raises(ValueError, match="a prompt without a token"):
        pack(prompts, prompt_mask, answers, answer_mask)

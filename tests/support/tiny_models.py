"""Random models of many families, and what transformers alone says about prompts and completions."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, Gemma2ForCausalLM

VOCABULARY = 101

_SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_SLIDING = {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]}

# Families whose attention looks at everything, with what they do differently from Llama.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},  # biases
    "qwen3": {"head_dim": 8, "tie_word_embeddings": True},  # normalised queries and keys
    "qwen3_moe": {"head_dim": 8, **_EXPERTS},
    "gemma": {"head_dim": 8},  # scaled embeddings
    "gemma2": {
        "head_dim": 8,
        "final_logit_softcapping": 3.0,
        "attn_logit_softcapping": None,
        "layer_types": ["full_attention"] * 2,
    },
    "gemma3_text": {"head_dim": 8, "layer_types": ["full_attention"] * 2},
    "phi": {"num_key_value_heads": 4},  # attention beside the feed-forward, part of a head rotated
    "phi3": {"sliding_window": None},
    "granite": {"logits_scaling": 4.0, "attention_multiplier": 0.4},
    "cohere": {"logit_scale": 0.3},
    "smollm3": {"no_rope_layers": [1, 0]},  # a layer without positions
    "olmo2": {},
    "starcoder2": {"sliding_window": None},
    "gpt_neox": {},
    "gpt2": {"num_key_value_heads": None, "n_positions": 512},  # learned positions
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0},
    "diffllama": {"num_hidden_layers": 3},  # two attentions a layer
    "gemma3n_text": {  # layers that share keys and values, a feed-forward width of its own for each
        "head_dim": 8,
        "intermediate_size": [48, 32],
        "layer_types": ["full_attention"] * 2,
        "num_kv_shared_layers": 1,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCABULARY,
        "activation_sparsity_pattern": [0.0, 0.0],
        "laurel_rank": 4,
        "altup_num_inputs": 2,
    },
    "gemma4_text": {  # heads of different width in different layers
        "head_dim": 8,
        "global_head_dim": 16,
        "layer_types": ["full_attention"] * 2,
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 0,
    },
    "deepseek_v3": {  # values narrower than keys
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 12,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
}
# Newer versions of transformers refuse sdpa, which knows no soft cap of scores, even where there is none.
if not Gemma2ForCausalLM._supports_sdpa:
    del FAMILIES["gemma2"]

# Families that share exactly or say that they cannot: layers that run several times, a mask of its own.
PECULIAR: dict[str, dict[str, Any]] = {
    "hrm_text": {"num_layers_per_stack": 2},
    "doge": {},
}

WINDOW = 16

# Families with layers that see the last WINDOW tokens only.
SLIDING: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": WINDOW},
    "qwen3": {"head_dim": 8, "sliding_window": WINDOW, "max_window_layers": 0, **_SLIDING},
    "gemma3_text": {"head_dim": 8, "sliding_window": WINDOW, "layer_types": _SLIDING["layer_types"]},
}

# Families with a state that is carried along the row.
STATEFUL: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 8, "num_attention_heads": None, "intermediate_size": None},
    "jamba": {
        "mamba_d_state": 8,
        "mamba_expand": 2,
        "mamba_dt_rank": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 1,
        "num_experts_per_tok": 1,
    },
    "qwen3_next": {
        "head_dim": 8,
        **_EXPERTS,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "shared_expert_intermediate_size": 16,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
}


def build(family: str, options: dict[str, Any] | None = None, attention: str | None = "sdpa") -> Any:
    """The same weights at every call; in evaluation mode. ``attention`` None = the family's own."""
    chosen = {**_SIZE, **(FAMILIES[family] if options is None else options)}
    chosen = {name: value for name, value in chosen.items() if value is not None or name.startswith("slid")}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **chosen)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
        for name, weight in model.named_parameters():
            if weight.ndim == 1 and "norm" not in name:  # biases start at zero
                torch.nn.init.normal_(weight, std=0.1)
    return model.eval()


def ragged(prompt_lengths: tuple[int, ...] = (13, 1, 20), width: int = 6) -> tuple[Tensor, ...]:
    """Prompts of different lengths, four completions each: whole, cut short, one token, none.

    Returns:
        Prompt ids and mask ``[R, P]`` padded on the left, completion ids and mask ``[R, 4, C]`` padded on
        the right. What stands in the padding is not zero.
    """
    generator = torch.Generator().manual_seed(1)
    rows, longest = len(prompt_lengths), max(prompt_lengths)
    prompts = torch.randint(3, VOCABULARY, (rows, longest), generator=generator)
    prompt_mask = (torch.arange(longest) >= longest - torch.tensor(prompt_lengths)[:, None]).long()
    completions = torch.randint(3, VOCABULARY, (rows, 4, width), generator=generator)
    lengths = torch.stack([torch.tensor([width, width - 2, 1, 0]).roll(row) for row in range(rows)])
    mask = (torch.arange(width) < lengths[..., None]).long()
    completions[1:][mask.cumsum(-1)[1:] == lengths[1:, :, None]] = 2  # the first row's are truncated
    return prompts, prompt_mask, completions, mask


def alone(model: Any, batch: tuple[Tensor, ...], temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies ``[R, G, C]``, 0 at padding.

    Each completion stands behind its own prompt in a row by itself, without padding.
    """
    prompts, prompt_mask, completions, mask = batch
    log_probs, entropies = [], []
    for r in range(completions.shape[0]):
        for g in range(completions.shape[1]):
            prompt, answer = prompts[r][prompt_mask[r].bool()], completions[r, g][mask[r, g].bool()]
            row = torch.cat([prompt, answer])[None]
            logits = model(input_ids=row, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
            found = (logits / temperature).log_softmax(-1)
            padding = (0, completions.shape[2] - len(answer))
            log_probs.append(torch.nn.functional.pad(found.gather(1, answer[:, None])[:, 0], padding))
            entropies.append(torch.nn.functional.pad(-(found.exp() * found).sum(-1), padding))
    shape = completions.shape
    return torch.stack(log_probs).view(shape), torch.stack(entropies).view(shape)


def relative(one: list[Tensor], other: list[Tensor]) -> float:
    """Norm of the difference of two gradients over the norm of the second."""
    apart = torch.cat([(a - b).flatten() for a, b in zip(one, other, strict=True)])
    return (apart.norm() / torch.cat([b.flatten() for b in other]).norm()).item()

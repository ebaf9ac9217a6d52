"""The tiny policy: a Qwen3 decoder of about a million parameters with random weights.

Its tokenizer knows each line that names a tag as one token and falls back to bytes for everything else, so it
speaks the same chat format as a real model.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import BaseModel, model_validator
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from ...envs.settings import Between

# Of the tiny policy, about: it is made in memory, in float32.
_MOST_WEIGHTS = 1_000_000_000

_START, _END, _PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"

# Chosen by how fast the tiny policy learns to copy tags of the prompt.
_EMBEDDING_STD, _COPY_GAIN = 0.1, 4.0

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class TinyConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Size of the embedded policy."""

    hidden: Annotated[int, Between(2, 8192)] = 128
    """Width of the residual stream."""
    layers: Annotated[int, Between(1, 256)] = 2
    """Number of decoder layers."""
    heads: Annotated[int, Between(1, 1024)] = 4
    """Attention heads."""
    vocabulary: Annotated[int, Between(259, 1_000_000)] = 1000
    """Byte-level pieces besides the tags; at least the 256 bytes and three marks of the chat format."""

    @model_validator(mode="after")
    def _fits(self) -> "TinyConfig":
        if self.hidden % (2 * self.heads):
            raise ValueError(
                f"policy.tiny.hidden={self.hidden} must be an even multiple of "
                f"policy.tiny.heads={self.heads}; try 128 and 4"
            )
        weights = self.hidden * (13 * self.hidden * self.layers + self.vocabulary)
        if weights > _MOST_WEIGHTS:
            raise ValueError(
                f"policy.tiny with hidden={self.hidden}, layers={self.layers} and "
                f"vocabulary={self.vocabulary} has {weights:,} weights, more than {_MOST_WEIGHTS:,}; make it "
                "smaller, or name a real model in policy.model"
            )
        return self


def tiny_tokenizer(tags: Sequence[str], texts: Sequence[str], pieces: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE learned from ``texts``, plus one token for each tag with the line break that ends it."""
    if not tags:
        raise ValueError(
            "policy.model=tiny needs the catalogue's tags to make its tokenizer; pass tags=catalog.tags"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=pieces,
        special_tokens=[_PAD, _START, _END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(f"{tag}\n", normalized=False) for tag in tags])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=_END,
        pad_token=_PAD,
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
    )


def tiny_model(
    config: TinyConfig, tokenizer: PreTrainedTokenizerBase, seed: int, attention: str = "sdpa"
) -> Qwen3ForCausalLM:
    """A Qwen3 decoder with random weights, tied embeddings, and attention that starts out as copying.

    The product of each layer's output and value projections starts at a multiple of the identity (mimetic
    initialisation, Trockman and Kolter 2023, arXiv 2305.09828), so tags of the prompt are likelier answers
    from the first step on. From the usual initialisation copying did not emerge within hundreds of steps.
    """
    # Every configuration takes it, but no typed signature declares it.
    implementation: dict[str, Any] = {"attn_implementation": attention}
    shape = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden,
        intermediate_size=3 * config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        head_dim=config.hidden // config.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **implementation,
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(shape)
        model.model.embed_tokens.weight.normal_(std=_EMBEDDING_STD)
        for layer in model.model.layers:
            basis = torch.linalg.qr(torch.randn(config.hidden, config.hidden)).Q
            layer.self_attn.v_proj.weight.copy_(_COPY_GAIN**0.5 * basis)
            layer.self_attn.o_proj.weight.copy_(_COPY_GAIN**0.5 * basis.T)
    return model

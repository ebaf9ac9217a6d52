"""The tiny policy: a Qwen3 decoder of about a million parameters with random weights.

Its tokenizer knows each line that names a tag as one token (for texts, each tag inside a sentence) and falls
back to bytes for everything else, so it speaks the same chat format as a real model.
"""

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from .settings import TinyConfig

_START, _END, _PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"

# Values with which the tiny policy learned fastest to copy lines of the prompt.
_EMBEDDING_STD, _COPY_GAIN = 0.1, 4.0

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def tiny_tokenizer(
    options: Sequence[str], texts: Sequence[str], pieces: int, terms: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Byte-level BPE learned from ``texts``, plus one token for each option and its line break, and one for
    each term without any."""
    if not options and not texts:
        raise ValueError(
            "policy.model=tiny makes its tokenizer of what it writes and reads; pass options=, texts= or both"
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
    tokenizer.add_tokens([AddedToken(f"{option}\n", normalized=False) for option in options])
    tokenizer.add_tokens([AddedToken(term, normalized=False, single_word=True) for term in terms])
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
    initialisation, Trockman and Kolter 2023, arXiv 2305.09828), so lines of the prompt are likelier answers
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
        max_position_embeddings=config.positions,
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

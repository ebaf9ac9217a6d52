"""The sections ``policy`` and ``warm_start`` of a configuration."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, StrictBool, model_validator

from ...envs.settings import MANY, ONE, Between, Each, Text, shown
from .folders import holds_adapters

Dtype = Literal["float32", "bfloat16"]
Attention = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]

# Policies that are known by a name here only, and get their weights from nowhere else.
_OURS = ("tiny", "smollm2")
FLASH = {
    "flash_attention_2": ("flash_attn", "flash-attn"),
    "flash_attention_3": ("flash_attn_interface", "flash-attn-3"),
}

# Largest tiny policy, about: it is made in memory, in float32.
_MOST_WEIGHTS = 1_000_000_000


class TinyConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Size of the embedded policy."""

    hidden: Annotated[int, Between(2, 8192)] = 128
    """Width of the residual stream."""
    layers: Annotated[int, Between(1, 256)] = 2
    """Number of decoder layers."""
    heads: Annotated[int, Between(1, 1024)] = 4
    """Attention heads."""
    vocabulary: Annotated[int, Between(259, 1_000_000)] = 1000
    """Byte-level pieces besides the options, at least the 256 bytes and three marks of the chat format."""
    positions: Annotated[int, Between(16, 1_000_000)] = 2048
    """Tokens of the longest prompt with its answer."""

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


class LoraConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Low-rank adapters that are trained in place of the policy's own weights; needs the package peft."""

    rank: Annotated[int, Between(1, 65_536)] = 16
    """Inner dimension of an adapter."""
    alpha: Annotated[float, Between(1e-3, 1e6)] = 32.0
    """Scale: what an adapter adds is multiplied by ``alpha / rank``."""
    dropout: Annotated[float, Between(0, 0.9)] = 0.0
    """Dropout before an adapter in the gradients' passes; answers are sampled without it."""
    targets: Annotated[tuple[Annotated[str, Text(200)], ...], Each(least=1), ONE] = ("all-linear",)
    """Linear layers with an adapter: ``all-linear`` (all but the head), or names such as ``q_proj``."""
    merge: StrictBool = False
    """Save the trained policy as a whole model, the adapters merged into its weights."""


class PolicyConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Which language model is trained."""

    model: Annotated[str, Text(4000, path=True)] = "tiny"
    """Model: ``tiny``, ``smollm2`` (SmolLM2-135M-Instruct from its package), a hub name or a local path."""
    dtype: Dtype = "float32"
    """Dtype of the weights: ``float32`` or ``bfloat16``."""
    tiny: TinyConfig = TinyConfig()
    """Size of the tiny policy."""
    revision: Annotated[str, Text(200)] | None = None
    """Branch, tag or commit of a model of the hub."""
    attention: Attention = "sdpa"
    """Attention implementation of transformers; prompts are shared with ``sdpa`` only."""
    trust_remote_code: StrictBool = False
    """Run the Python code that comes with a model."""
    lora: LoraConfig | None = None
    """Train adapters; without this section all weights are trained."""
    quantization: Literal["4bit", "8bit"] | None = None
    """Load the weights that adapters adapt in 4 or 8 bits (QLoRA); CUDA, needs the package bitsandbytes."""

    @model_validator(mode="after")
    def _together(self) -> "PolicyConfig":
        for setting in ("revision", "quantization"):
            value = getattr(self, setting)
            if value is not None and self.model in _OURS:
                raise ValueError(
                    f"policy.{setting}={shown(value)}: policy.model={self.model} has none; name a model "
                    "of the hub in policy.model, or leave it out"
                )
        if self.quantization is not None and self.lora is None:
            raise ValueError(
                f"policy.quantization={self.quantization}: quantised weights cannot be trained; train "
                "adapters (policy.lora.rank=16), or leave it out"
            )
        if self.attention in FLASH and self.dtype == "float32":
            raise ValueError(
                f"policy.attention={self.attention} computes in 16 bits; set policy.dtype=bfloat16, or "
                "policy.attention=sdpa"
            )
        return self

    def at(self, folder: Path) -> "PolicyConfig":
        """Settings of the same policy as a run saved it in a folder."""
        whole = {} if holds_adapters(folder) else {"lora": None, "quantization": None}
        return self.model_copy(update={"model": str(folder), "revision": None, **whole})

    def whole(self, folder: Path) -> "PolicyConfig":
        """Settings of one whole model: adapters in the folder are merged into what they adapt."""
        whole = {"lora": None, "quantization": None}
        return self.model_copy(update={"model": str(folder), "revision": None, **whole})


class WarmStartConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Supervised training before reinforcement learning."""

    steps: Annotated[int, Between(0, MANY)] = 0
    """Optimiser steps; 0 = no warm start."""
    prompts_per_step: Annotated[int, Between(1, 1_000_000)] = 16
    """Prompts in a step."""
    lists_per_prompt: Annotated[int, Between(1, 10_000)] = 8
    """Lists sampled for each prompt."""
    rehearsal: Annotated[float, Between(0, 1)] = 0.4
    """Share of the steps, the first ones, with lists of the user's most frequent tags in random order instead
    of target tags: a sharp signal that teaches a small model to read its prompt and not to repeat."""
    learning_rate: Annotated[float, Between(0, 1)] = 3e-3
    """Peak of a linear warm-up (5 %) and a cosine decay (AdamW)."""
    weight_decay: Annotated[float, Between(0, 10)] = 0.01
    """AdamW weight decay."""
    save_every: Annotated[int, Between(1, MANY)] = 100
    """Steps between checkpoints of the warm start itself."""

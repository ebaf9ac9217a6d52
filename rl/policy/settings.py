"""The sections ``policy`` and ``warm_start`` of a configuration."""

from typing import Annotated, Literal

from pydantic import BaseModel, model_validator

from ...envs.settings import MANY, Between, Text

Dtype = Literal["float32", "bfloat16"]

# Of the tiny policy, about: it is made in memory, in float32.
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
    """Byte-level pieces besides the options; at least the 256 bytes and three marks of the chat format."""

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


class PolicyConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Which language model is trained."""

    model: Annotated[str, Text(4000)] = "tiny"
    """``tiny``, ``smollm2`` (SmolLM2-135M-Instruct from its package), a hub name or a local path."""
    dtype: Dtype = "float32"
    """``float32`` or ``bfloat16``."""
    tiny: TinyConfig = TinyConfig()
    """Size of the tiny policy."""


class WarmStartConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Supervised training before reinforcement learning."""

    steps: Annotated[int, Between(0, MANY)] = 0
    """Optimiser steps; 0 = no warm start."""
    prompts_per_step: Annotated[int, Between(1, 1_000_000)] = 16
    """Prompts in a step."""
    lists_per_prompt: Annotated[int, Between(1, 10_000)] = 8
    """Lists sampled for each prompt."""
    rehearsal: Annotated[float, Between(0, 1)] = 0.4
    """Share of the steps, the first ones, whose lists are the user's most frequent tags in random order
    instead of target tags: a sharp signal that teaches a small model to read its prompt and not to repeat."""
    learning_rate: Annotated[float, Between(0, 1)] = 3e-3
    """Peak of a linear warm-up (5 %) and a cosine decay (AdamW)."""
    weight_decay: Annotated[float, Between(0, 10)] = 0.01
    """AdamW weight decay."""
    save_every: Annotated[int, Between(1, MANY)] = 100
    """Steps between checkpoints of the warm start itself."""

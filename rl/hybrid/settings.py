"""The section ``hybrid`` of a configuration."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel

from ...envs.settings import MANY, Between, Place, Text
from ..policy.settings import WarmStartConfig

AGAIN = "the same command goes on"
"""What to do where a stage was stopped."""


class ReadingConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Training of a base model that reads histories spelled out: short ones first, which is cheap."""

    products: Annotated[int, Between(1, MANY)] = 40
    """Products of a short history, the latest ones."""
    short: WarmStartConfig = WarmStartConfig(steps=900, prompts_per_step=16)
    """Supervised training on short histories."""
    long: WarmStartConfig = WarmStartConfig(
        steps=150, prompts_per_step=4, rehearsal=0.0, learning_rate=1e-3, save_every=25
    )
    """Supervised training on whole histories, behind it."""
    questions: Annotated[float, Between(0, 1)] = 0.25
    """Share of the rows that ask about one product."""


class TeacherConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Answers of the frozen model to full text, which the adaptor learns to reproduce."""

    prompts: Annotated[int, Between(1, MANY)] = 800
    """Prompts, spread evenly over the training rows."""
    answers: Annotated[int, Between(1, 1000)] = 8
    """Answers to each: the greedy one, and others drawn from the model."""
    kept: Annotated[int, Between(0, 1000)] = 32
    """Tokens of each position whose probabilities are kept: distillation; 0 for the answers alone."""


class HybridConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """One vector an entity: its store, its adaptor, and the frozen model that reads it."""

    folder: Annotated[Path, Place()] = Path("runs/hybrid")
    """Folder of store, base model and trained policy."""
    base: Annotated[str, Text(4000, path=True)] | None = None
    """Model that stays frozen, a folder or a name; null for the one of ``recrl hybrid base``."""
    encoder: Annotated[str, Text(4000, path=True)] = "minilm"
    """Sentence encoder of the store: ``minilm``, a folder or a name."""
    precision: Literal["float16", "int8"] = "float16"
    """Dtype of the stored vectors."""
    inner: Annotated[int, Between(1, 65_536)] = 512
    """Width between the two layers of the adaptor."""
    steps: Annotated[int, Between(1, MANY)] = 600
    """Optimiser steps of the adaptor."""
    prompts_per_step: Annotated[int, Between(1, 1_000_000)] = 8
    """Prompts of a step, each with its teacher's answers."""
    questions_per_step: Annotated[int, Between(0, 1_000_000)] = 32
    """Questions about one entity in a step."""
    learning_rate: Annotated[float, Between(0, 1)] = 3e-3
    """Peak of a linear warm-up (5 %) and a cosine decay (AdamW)."""
    held_out: Annotated[float, Between(0, 0.9)] = 0.1
    """Share of the entities, and of the types, that the adaptor never sees, by a hash."""
    save_every: Annotated[int, Between(1, MANY)] = 50
    """Steps between checkpoints."""
    teacher: TeacherConfig = TeacherConfig()
    """Answers to reproduce."""
    reading: ReadingConfig = ReadingConfig()
    """Base model that is trained here."""

"""Settings of a distillation."""

from typing import Annotated, Literal

from pydantic import BaseModel, StrictBool

from ...envs.settings import MANY, Between

LossName = Literal["list_wise", "pair_logistic", "point_wise"]


class DistillConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """How a judge's grades are distilled into a scalar score."""

    loss: LossName = "list_wise"
    """How scores are taught, see :mod:`recrl.rl.reward_model.losses`."""
    strictness: StrictBool = False
    """Give each context an offset of its own, read from the context alone and dropped after training, so that
    a judge who is strict with some contexts does not teach scores of contexts; for ``point_wise``."""
    steps: Annotated[int, Between(1, MANY)] = 300
    """Optimiser steps."""
    contexts_per_step: Annotated[int, Between(1, 1_000_000)] = 8
    """Contexts in a step, each with all its candidates."""
    learning_rate: Annotated[float, Between(0, 1)] = 3e-4
    """Peak of a linear warm-up (5 %) and a cosine decay (AdamW)."""
    weight_decay: Annotated[float, Between(0, 10)] = 0.01
    """AdamW weight decay."""
    held_out: Annotated[float, Between(0.01, 0.9)] = 0.2
    """Share of the users, drawn by the seed, that the score is calibrated and measured on."""
    seed: Annotated[int, Between(0, 2**32 - 1)] = 0
    """Seed of the split, the new head and the order of contexts."""

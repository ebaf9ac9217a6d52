"""The section ``evaluation`` of a configuration."""

from typing import Annotated, Literal

from pydantic import BaseModel, field_validator

from ...envs.settings import MANY, SWITCH, Between
from ..decoding.settings import Decoding, check_installed

UNPRICED = ", no prices"
"""Words behind a policy's name in tables, for its deployed answers without prices."""


class EvaluationConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Evaluation of a run on the test split."""

    users: Literal["unseen", "all"] = "unseen"
    """Test episodes of unseen users only, or of all users (both are then reported)."""
    answers_per_prompt: Annotated[int, Between(1, 10_000)] = 2
    """Sampled answers for each episode."""
    max_episodes: Annotated[int, Between(1, MANY)] | None = None
    """Largest number of episodes, evenly spread; all by default."""
    batch_size: Annotated[int, Between(1, 1_000_000)] = 128
    """Answers generated at once."""
    decoding: Decoding = "distinct"
    """Constraint on deployed lists: ``distinct`` (exactly K different options), ``grammar`` (one to K, the
    policy ends the list; needs the package xgrammar) or ``free``. Free text is not constrained."""

    every: Annotated[int, Between(0, MANY)] = 0
    """Validate the policy once in so many training steps, and after the last; the best becomes the run's
    policy. 0: no validation, and the last policy is the run's."""
    validation_episodes: Annotated[int, Between(1, MANY)] | None = 500
    """Largest number of episodes of the validation split for that, evenly spread."""
    patience: Annotated[int, Between(0, MANY)] = 0
    """Validations in a row without a better policy after which the training ends; 0: it never ends early."""
    hold: Annotated[Literal["auto", "off"], SWITCH] = "auto"
    """Whether deployed answers hold the run's constraints: ``auto`` puts the smallest prices that meet the
    bounds on lines and on whole answers, for every mean of a reward that can be computed when answers are
    served."""
    fit: Literal["population", "validation"] = "population"
    """Users that these prices are fitted on: those that are served, whose outcomes are not read, or those of
    the validation split, with a margin for its sampling error."""
    candidates: Annotated[int, Between(1, 1000)] = 16
    """Answers to each prompt, of which one is chosen by log-probability and prices where a bound is on
    rewards of whole answers; 1: such bounds are not held."""

    @field_validator("decoding")
    @classmethod
    def _installed(cls, decoding: Decoding) -> Decoding:
        check_installed(decoding)
        return decoding

"""The tag task: name what a household buys next."""

from typing import Annotated

from pydantic import BaseModel

from ..settings import MANY, Between


class TaskConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """What the policy is asked for."""

    slots: Annotated[int, Between(1, 10_000)] = 10
    """Length of a list of tags."""
    max_history: Annotated[int, Between(0, MANY)] = 100
    """At most this many tags of the history stand in the prompt."""
    max_train_episodes: Annotated[int, Between(1, MANY)] | None = None
    """At most so many training episodes, spread evenly over all of them; their prompts are held in memory."""

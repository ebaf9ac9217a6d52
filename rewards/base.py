"""What a reward is and what it declares.

``Reward``           a scoring function with its name, range, unit, direction, and what it scores
``completion_text``  the answer's text, whichever of TRL's two completion formats it came in
``RewardSpecError``  a reward is declared or configured wrongly: raised before training starts
``RewardError``      a reward misbehaved while it scored a batch

Its config entry is ``spec.py``, looking it up ``registry.py``, calling it ``engine.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..envs.faults import MendableError
from ..envs.settings import LARGEST, SMALLEST_UNIT

# TRL's reward signature, `(prompts, completions, **columns) -> list[float | None]`, sync or async. Parameters
# are passed by name, so a function lists only those that it needs; None says that a reward is missing.
RewardFunction = Callable[..., Any]
Completion = str | Sequence[Mapping[str, Any]]  # plain text, or TRL's conversational list of messages

# Judged on the first tags of an answer too.
PER_TAG = ("tag", "tag_mean")
Per = Literal["sample", "group", "tag", "tag_mean"]
Direction = Literal["higher", "lower"]


class RewardSpecError(MendableError, ValueError):
    """A reward is declared or configured wrongly. The message names the reward, the setting and the fix."""


class RewardError(MendableError, RuntimeError):
    """A reward misbehaved while scoring. The message names the reward, the sample, its value and the fix."""


@dataclass(frozen=True)
class Reward:
    """A scoring function and what it declares.

    Raises:
        RewardSpecError: the name, range, unit or ``per`` cannot be used.
    """

    name: str
    """Rewards and constraints refer to it by this name; never by position."""
    function: RewardFunction
    """The function, an object with ``__call__``, or a class of which each engine makes its own instance."""
    low: float
    """Lowest value that the function may return."""
    high: float
    """Highest value that the function may return."""
    per: Per = "sample"
    """``group``: called once per group of completions of one prompt, and so may compare them. ``tag``: reads
    ``answers``, and the first tags of an answer have a score of their own, so that a tag can get the credit
    for what it adds; a judgement of the whole list is ``sample``. ``tag_mean``: like ``tag``, for a mean over
    the list: its first p tags count for p / ``slots`` of it."""
    unit: float | None = None
    """What counts as one step of this reward, to weigh it against others; None leaves it to the optimiser."""
    direction: Direction = "higher"
    """Which is better. One that is better lower can be held down, but neither maximised nor held up."""
    needs: tuple[str, ...] = ()
    """Columns and resources that a function reads through ``**kwargs``; named parameters need no mention."""

    def __post_init__(self) -> None:
        if not self.name or ":" in self.name:
            raise RewardSpecError(
                f"reward name {self.name!r} must be non-empty and without ':' (':' marks 'module:function')"
            )
        fits = -LARGEST <= self.low < self.high <= LARGEST
        if not fits or self.high - self.low < 2 * SMALLEST_UNIT:
            raise RewardSpecError(
                f"reward {self.name!r}: range=({self.low}, {self.high}) must be finite numbers, low < high, "
                f"and within +-{LARGEST:g}"
            )
        if self.per not in get_args(Per):
            raise RewardSpecError(f"reward {self.name!r}: per={self.per!r} must be one of {get_args(Per)}")
        if self.direction not in get_args(Direction):
            raise RewardSpecError(
                f"reward {self.name!r}: direction={self.direction!r} must be one of {get_args(Direction)}"
            )
        if self.unit is not None and not SMALLEST_UNIT <= self.unit < math.inf:
            raise RewardSpecError(
                f"reward {self.name!r}: unit={self.unit} must be a positive number, or left out"
            )


def completion_text(completion: Completion) -> str:
    """Text of the answer: the string itself, or the content of the last assistant message.

    Args:
        completion: a string, or a list of ``{"role", "content"}`` messages (TRL's conversational format).
            Content may be text, a list of typed parts, or None (a message that only calls a tool).
    """
    if isinstance(completion, str):
        return completion
    for message in reversed(completion):
        if message.get("role", "assistant") == "assistant":
            content = message.get("content") or ""
            if isinstance(content, str):
                return content
            return "".join(part.get("text", "") for part in content)
    return ""

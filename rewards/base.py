"""What a reward is and what it declares.

``Reward``           a scoring function with its name, range, unit, and whether it scores samples or groups
``RewardSpec``       the config entry of a reward: which function, under which name, with which overrides
``completion_text``  the answer's text, whichever of TRL's two completion formats it came in
``checked_scores``   what a reward function returned, as floats; anything that is not a score is an error
``RewardSpecError``  a reward is declared or configured wrongly: raised before training starts
``RewardError``      a reward misbehaved while it scored a batch

Looking a reward up is ``registry.py``; calling it is ``engine.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field

# TRL's reward signature, `(prompts, completions, **columns) -> list[float | None]`, sync or async. Parameters
# are passed by name, so a function lists only those that it needs; None says that a reward is missing.
RewardFunction = Callable[..., Any]
Completion = str | Sequence[Mapping[str, Any]]  # plain text, or TRL's conversational list of messages

# Judged on the first tags of an answer too.
PER_TAG = ("tag", "tag_mean")
Per = Literal["sample", "group", "tag", "tag_mean"]

RANGE_TOLERANCE = 1e-6  # rounding of a float32 sum, not a licence to leave the range
EXCERPT = 160  # characters of a completion shown in an error


class RewardSpecError(ValueError):
    """A reward is declared or configured wrongly. The message names the reward, the setting and the fix."""


class RewardError(RuntimeError):
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

    def __post_init__(self) -> None:
        if not self.name or ":" in self.name:
            raise RewardSpecError(
                f"reward name {self.name!r} must be non-empty and without ':' (':' marks 'module:function')"
            )
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise RewardSpecError(
                f"reward {self.name!r}: range=({self.low}, {self.high}) must be finite numbers, low < high"
            )
        if self.per not in get_args(Per):
            raise RewardSpecError(f"reward {self.name!r}: per={self.per!r} must be one of {get_args(Per)}")
        if self.unit is not None and not (math.isfinite(self.unit) and self.unit > 0):
            raise RewardSpecError(
                f"reward {self.name!r}: unit={self.unit} must be a positive number, or left out"
            )


class RewardSpec(BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """One reward in a config. Only ``name`` is needed when it is a registered reward.

    Examples:
        RewardSpec(name="recall")
        RewardSpec(name="recall_5", use="recall", params={"slots": 5})
        RewardSpec(name="think", use="trl.rewards:think_format_reward", range=(0, 1))
    """

    name: str
    """The reward's name in constraints, logs and tables."""
    use: str = Field(default_factory=lambda data: data["name"])
    """Registered name, entry point, ``package.module:function`` or ``path/to/file.py:function``."""
    range: tuple[float, float] | None = None
    """(low, high). Needed for a function without ``@reward``; otherwise replaces what it declares."""
    unit: float | None = None
    """Replaces the declared unit."""
    per: Per | None = None
    """Replaces the declared ``per``."""
    weight: float = 0.0
    """Weight in a weighted sum. 0: the reward is a metric (or a constraint), not part of the sum."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for the function (or for its class); they go before columns and resources."""


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


def checked_scores(
    reward: Reward, returned: Any, completions: Sequence[Completion], rows: range
) -> list[float]:
    """Check what a reward function returned for some rows of a batch.

    Args:
        reward: whose function it is; gives the name and the declared range.
        returned: its return value: a list, array or tensor of numbers; None = missing.
        completions: those of the whole batch, for the excerpt in an error.
        rows: the batch rows that the function was given.

    Returns:
        One float a row, NaN where missing.

    Raises:
        RewardError: wrong length, not a number, NaN, or outside ``[low, high]``.
    """
    values = returned.tolist() if hasattr(returned, "tolist") else returned  # array or tensor
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise RewardError(
            f"reward {reward.name!r} returned {type(returned).__name__}; return a list with a number or None "
            f"for each of the {len(rows)} samples (a function that awaits is declared with 'async def')"
        )
    if len(values) != len(rows):
        raise RewardError(
            f"reward {reward.name!r} returned {len(values)} values for the {len(rows)} samples "
            f"{rows.start}..{rows.stop - 1}; return one value a sample, None where there is none"
        )
    scores = []
    for row, value in zip(rows, values, strict=True):
        if value is None:
            scores.append(math.nan)
            continue
        if type(value) is not float and getattr(value, "ndim", None) == 0:
            value = value.item()  # NumPy number or tensor of one element: TRL takes them too
        fault = _fault(reward, value)
        if fault:
            excerpt = completion_text(completions[row])[:EXCERPT]
            raise RewardError(f"reward {reward.name!r}, sample {row}: {fault}. Completion: {excerpt!r}")
        scores.append(float(value))
    return scores


def _fault(reward: Reward, value: Any) -> str | None:
    """What is wrong with one value and how to fix it; None if nothing is."""
    if not isinstance(value, int | float):
        return (
            f"value {value!r} is a {type(value).__name__}; return a number, or None if the score is missing"
        )
    if math.isnan(value):
        return "value is NaN; return None if the score is missing"
    if not reward.low - RANGE_TOLERANCE <= value <= reward.high + RANGE_TOLERANCE:
        return (
            f"value {value!r} is outside the declared range [{reward.low:g}, {reward.high:g}]; correct the "
            "function, or declare the range that it has"
        )
    return None

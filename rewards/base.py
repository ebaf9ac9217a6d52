"""What a reward is and what it declares.

``Reward``           a scoring function with its name, range, unit, direction, and what it scores
``completion_text``  the answer's text, whichever of TRL's two completion formats it came in
``RewardSpecError``  a reward is declared or configured wrongly: raised before training starts
``RewardError``      a reward misbehaved while it scored a batch

Its config entry is in ``spec.py``, its lookup in ``registry.py``, its calls in ``scoring/engine.py``.
"""

from __future__ import annotations

import functools
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

# ``per`` of rewards that judge the first tags of an answer too.
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

    Args:
        function: TRL's signature, ``(prompts, completions, **columns) -> list[float | None]``, sync or async:
            a function, an object with ``__call__``, or a class of which each engine makes its own instance.
        range: Lowest and highest value that the function may return; a value outside is an error.
        name: Name by which rewards and constraints refer to it, never by position; by default the function's.
        per: ``group``: called once per group of completions of one prompt, and so may compare them. ``tag``:
            reads ``answers``, and the first tags of an answer have a score of their own, so that a tag can
            get the credit for what it adds; a judgement of the whole list is ``sample``. ``tag_mean``: like
            ``tag``, for a mean over the list: its first p tags count for p / ``slots`` of it.
        unit: Size of one step of this reward, to weigh it against others; None leaves it to the optimiser.
        direction: Whether higher or lower is better. ``lower`` can be held down, not maximised or held up.
        needs: Columns and resources that a function reads through ``**kwargs``, besides named parameters.
        serving: Whether it can be computed when an answer is served, before the outcome; None: decided by
            what it reads.

    Raises:
        RewardSpecError: the name, range, unit or ``per`` cannot be used.

    Example:
        >>> from recrl import Reward
        >>> def brevity(completions, **_):
        ...     return [1 / (1 + len(text)) for text in completions]
        >>> short = Reward(brevity, range=(0, 1))
        >>> short.name, short.low, short.high
        ('brevity', 0.0, 1.0)
    """

    function: RewardFunction
    range: tuple[float, float]
    name: str = ""
    per: Per = "sample"
    unit: float | None = None
    direction: Direction = "higher"
    needs: tuple[str, ...] = ()
    serving: bool | None = None

    @property
    def low(self) -> float:
        """Lowest value that the function may return."""
        return self.range[0]

    @property
    def high(self) -> float:
        """Highest value that the function may return."""
        return self.range[1]

    def __post_init__(self) -> None:
        name = self.name or name_of(self.function)
        if ":" in name or not name:
            raise RewardSpecError(
                f"reward name {name!r} must be non-empty and without ':' (':' marks 'module:function')"
            )
        try:
            low, high = map(float, self.range)
        except (TypeError, ValueError):
            raise RewardSpecError(
                f"reward {name!r}: range={self.range!r} must be two numbers, (low, high)"
            ) from None
        fits = -LARGEST <= low < high <= LARGEST
        if not fits or high - low < 2 * SMALLEST_UNIT:
            raise RewardSpecError(
                f"reward {name!r}: range=({low}, {high}) must be finite numbers, low < high, "
                f"and within +-{LARGEST:g}"
            )
        if self.per not in get_args(Per):
            raise RewardSpecError(f"reward {name!r}: per={self.per!r} must be one of {get_args(Per)}")
        if self.direction not in get_args(Direction):
            raise RewardSpecError(
                f"reward {name!r}: direction={self.direction!r} must be one of {get_args(Direction)}"
            )
        if self.unit is not None and not SMALLEST_UNIT <= self.unit < math.inf:
            raise RewardSpecError(f"reward {name!r}: unit={self.unit} must be a positive number, or left out")
        if self.serving not in (None, True, False):
            raise RewardSpecError(f"reward {name!r}: serving={self.serving!r} must be True, False or None")
        if not callable(self.function):
            raise RewardSpecError(f"reward {name!r} is a {type(self.function).__name__}; it must be callable")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "range", (low, high))
        object.__setattr__(self, "needs", tuple(self.needs))


def name_of(function: RewardFunction) -> str:
    """Name of a function or a class, or of an object's class; "" for a lambda, which has none."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return "" if name == "<lambda>" else name


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

"""The config entry of a reward: which function, under which name, with which overrides, called how."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StrictBool, field_validator, model_validator

from ..envs.settings import LARGEST, PATIENCE, SMALLEST_UNIT, Between, Text
from .base import Direction, Per

_TIMEOUT = 600.0  # seconds
_Score = Annotated[float, Between(-LARGEST, LARGEST)]
_Weight = Annotated[float, Between(-1e9, 1e9)]
_Name = Annotated[str, Text(100)]


class RewardSpec(BaseModel, extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True):
    """One reward in a config. Only ``name`` is needed when it is a registered reward.

    Examples:
        RewardSpec(name="recall")
        RewardSpec(name="recall_5", use="recall", params={"slots": 5})
        RewardSpec(name="think", use="trl.rewards:think_format_reward", range=(0, 1))
        RewardSpec(name="short", use="trl.rewards:get_soft_overlong_punishment()", range=(-1, 0),
                   params={"max_completion_len": 64, "soft_punish_cache": 16})
        RewardSpec(name="judge", use="judge.py:judge", timeout=20, retries=2, on_error="missing")
        RewardSpec(name="quality", sum={"recall": 0.7, "novelty": 0.3})
    """

    name: _Name
    """The reward's name in constraints, logs and tables."""
    use: Annotated[str, Text(4000)] = Field(default_factory=lambda data: data["name"])
    """Registered name, entry point, ``package.module:function`` or ``path/to/file.py:function``; with ``()``
    behind it the function is called with ``params`` first, and what it returns is the reward."""
    sum: dict[_Name, _Weight] | None = None
    """Other rewards of the list and their weights, instead of ``use``; missing where one of them is. A
    positive weight on one that is better low needs a ``direction``."""
    range: tuple[_Score, _Score] | None = None
    """Range (low, high): needed for a function without ``@reward``, else in place of what it declares."""
    unit: Annotated[float, Between(SMALLEST_UNIT, LARGEST)] | None = None
    """Unit in place of the declared one."""
    per: Per | None = None
    """``per`` in place of the declared one."""
    direction: Direction | None = None
    """Direction in place of the declared one."""
    serving: StrictBool | None = None
    """Whether it can be computed when an answer is served, in place of what is declared; by default decided
    by what it reads."""
    weight: _Weight = 0.0
    """Weight in a weighted sum. 0: the reward is a metric (or a constraint), not part of the sum."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for the function (or for its class); they go before columns and resources."""

    batch_size: Annotated[int, Between(1, 1_000_000)] | None = None
    """Largest number of samples a call (whole groups for ``per: group``); by default all that are there."""
    concurrency: Annotated[int, Between(1, 1000)] | None = None
    """Calls in flight at once: by default 16 of an async function, 1 of a plain one. More than 1 of a plain
    one run in threads at the same time, each with an equal part of the samples."""
    workers: Annotated[int, Between(0, 256)] = 0
    """Processes of their own that call a plain function; one that hangs or dies is replaced."""
    thread: Literal["main", "own"] | None = None
    """Thread of a plain function: ``main``, the trainer's, as in TRL, or ``own``. By default ``main``, unless
    ``timeout``, ``concurrency`` or ``workers`` ask for what it cannot give."""
    timeout: Annotated[float, Between(0.001, PATIENCE)] | None = None
    """Seconds that a call may take: 600 by default, without end in the trainer's thread."""
    retries: Annotated[int, Between(0, 1000)] = 0
    """Further attempts of a call that raised, ran out of time or returned no scores."""
    cache: StrictBool = False
    """Whether the same input is scored once; for a function of nothing but its input."""
    on_error: Literal["raise", "missing"] = "raise"
    """``raise`` ends the run; ``missing``: a sample that could not be scored has no value, and is counted."""
    max_missing: Annotated[float, Between(0, 1)] = 0.1
    """Share of 1,000 samples that may fail with ``on_error: missing``; above it the run ends."""

    @property
    def seconds(self) -> float:
        """Seconds that a call outside the trainer's thread may take."""
        return _TIMEOUT if self.timeout is None else self.timeout

    @field_validator("range")
    @classmethod
    def _interval(cls, range: tuple[float, float] | None) -> tuple[float, float] | None:
        if range is not None and range[1] - range[0] < 2 * SMALLEST_UNIT:
            raise ValueError("write [low, high] with low < high")
        return range

    @model_validator(mode="after")
    def _sum_alone(self) -> RewardSpec:
        if self.sum is None:
            return self
        if not any(self.sum.values()):
            raise ValueError("sum: name at least one reward and its weight, other than 0")
        plain = RewardSpec(name=self.name)  # a saved configuration spells every default out
        allowed = {"name", "sum", "range", "unit", "weight", "direction"}
        beside = {
            name for name in self.model_fields_set - allowed if getattr(self, name) != getattr(plain, name)
        }
        if beside:
            raise ValueError(f"sum adds up other rewards: leave out {', '.join(sorted(beside))}")
        return self

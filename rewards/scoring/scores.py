"""Check that a reward function returned a score for each sample.

``Scored``          values, and what is wrong with those that are none
``checked_scores``  scores out of the value that a function returned
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..base import Reward, RewardError

# Share of the range's larger end: rounding of a float32 sum, not a licence to leave it.
RANGE_TOLERANCE = 1e-6


class Scored(NamedTuple):
    """Scores of some samples.

    Attributes:
        values: ``[samples]`` float64; NaN = missing.
        faults: Position among the samples -> what is wrong with its value, which is NaN above.
    """

    values: npt.NDArray[np.float64]
    faults: dict[int, str]


def checked_scores(reward: Reward, returned: Any, samples: int, where: str) -> Scored:
    """Check what a reward function returned for some samples.

    Args:
        reward: Reward of the function; gives the name and the declared range.
        returned: Its return value: a list, array or tensor of numbers; None = missing.
        samples: Number of samples that the function was given.
        where: Samples in words, for messages.

    Raises:
        RewardError: not one value a sample, so that no sample has a score.
    """
    values = returned.tolist() if hasattr(returned, "tolist") else returned  # array or tensor
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise RewardError(
            f"reward {reward.name!r} returned {type(returned).__name__}; return a list with a number or None "
            f"for each of the {samples} samples (a function that awaits is declared with 'async def')"
        )
    if len(values) != samples:
        raise RewardError(
            f"reward {reward.name!r} returned {len(values)} values for the {samples} {where}; return one "
            "value a sample, None where there is none"
        )
    if all(type(value) is float for value in values):
        found = np.array(values, dtype=np.float64)
        low, high = _ends(reward)
        if ((found >= low) & (found <= high)).all():
            return Scored(found, {})
    return _one_by_one(values, lambda value: _fault(reward, value))


def _one_by_one(values: Sequence[Any], fault: Callable[[Any], str | None]) -> Scored:
    found, faults = np.full(len(values), np.nan), {}
    for i, value in enumerate(values):
        if value is None:
            continue
        if type(value) is not float and getattr(value, "ndim", None) == 0:
            value = value.item()  # NumPy number or tensor of one element: TRL takes them too
        if wrong := fault(value):
            faults[i] = wrong
        else:
            found[i] = value
    return Scored(found, faults)


def _ends(reward: Reward) -> tuple[float, float]:
    room = RANGE_TOLERANCE * max(abs(reward.low), abs(reward.high))
    return reward.low - room, reward.high + room


def _fault(reward: Reward, value: Any) -> str | None:
    """What is wrong with one value and how to fix it; None if nothing is."""
    if not isinstance(value, int | float):
        return (
            f"value {value!r} is a {type(value).__name__}; return a number, or None if the score is missing"
        )
    if value != value:  # math.isnan fails on an int that no float holds
        return "value is NaN; return None if the score is missing"
    low, high = _ends(reward)
    if not low <= value <= high:
        return (
            f"value {value!r} is outside the declared range [{reward.low:g}, {reward.high:g}]; correct the "
            "function, or declare the range that it has"
        )
    return None

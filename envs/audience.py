"""Those who are answered now: users as a finished run meets them, without an outcome."""

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .faults import MendableError


class AudienceError(MendableError, ValueError):
    """Nobody, or not these users, can be answered now; the message names the option and the fix."""


@dataclass(frozen=True)
class Audience:
    """Users who are answered now.

    Attributes:
        names: Name of each user.
        rows: Function that makes the rows of some users, by their numbers; a row has ``prompt``, ``user``,
            ``unseen`` and ``columns``.
        columns: What rewards may read of a row.
        origin: First day that answers are for; None for a task without a calendar.
        left_out: Reason -> users who are not answered for it.
    """

    names: Sequence[str]
    rows: Callable[[Sequence[int]], list[dict[str, Any]]]
    columns: Collection[str]
    origin: dt.date | None = None
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)

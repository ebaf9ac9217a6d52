"""Pieces of Markdown that this benchmark's reports share."""

from ...envs.markdown import table
from .statistics import Interval

__all__ = ["interval", "signed", "table"]


def interval(found: Interval) -> str:
    """Value and 95 % interval."""
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def signed(found: Interval) -> str:
    """Difference, with its sign, and 95 % interval."""
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"

"""Pieces of Markdown that the reports share."""

from collections.abc import Sequence

from .statistics import Interval


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def interval(found: Interval) -> str:
    """Value and 95 % interval."""
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def signed(found: Interval) -> str:
    """The same for a difference."""
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"

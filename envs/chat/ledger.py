"""What language models were asked, by caller: questions, missing answers, tokens, seconds."""

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..markdown import table, text

if TYPE_CHECKING:
    from .models import Reply


@dataclass
class Usage:
    """What one caller asked.

    Attributes:
        questions: Number of conversations.
        cached: Number of answers that were known.
        missing: Reason -> number of answers that are missing.
        prompt_tokens, completion_tokens: Tokens read and written by the model, as far as it tells; of cached
            answers none.
        seconds: Seconds waited, summed over the questions, of which several may be under way at once.
    """

    questions: int = 0
    cached: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class Ledger:
    """Usage by caller; several models may share one."""

    def __init__(self) -> None:
        self._usage: dict[str, Usage] = {}
        self._lock = threading.Lock()

    def count(self, caller: str, reply: "Reply") -> None:
        """Add one reply."""
        with self._lock:
            usage = self._usage.setdefault(caller, Usage())
            usage.questions += 1
            if reply.cached:
                usage.cached += 1
                return
            if reply.reason is not None:
                usage.missing[reply.reason] += 1
            usage.prompt_tokens += reply.prompt_tokens or 0
            usage.completion_tokens += reply.completion_tokens or 0
            usage.seconds += reply.seconds

    def __getitem__(self, caller: str) -> Usage:
        """Usage of a caller; of one that never asked, all zeros."""
        with self._lock:
            return self._usage.get(caller, Usage())

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Usage of every caller as JSON, in the order in which they first asked."""
        with self._lock:
            return {
                caller: {**vars(usage), "missing": dict(usage.missing)}
                for caller, usage in self._usage.items()
            }

    def table(self) -> str:
        """The same as a Markdown table."""
        head = ("caller", "questions", "cached", "missing", "tokens read", "tokens written", "seconds")
        rows = [
            [
                text(caller or "-"),
                f"{usage['questions']:,}",
                f"{usage['cached']:,}",
                ", ".join(f"{count} {reason}" for reason, count in sorted(usage["missing"].items())) or "0",
                f"{usage['prompt_tokens']:,}",
                f"{usage['completion_tokens']:,}",
                f"{usage['seconds']:.1f}",
            ]
            for caller, usage in self.as_json().items()
        ]
        return table(head, rows)

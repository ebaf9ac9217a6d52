"""Signals that ask a command to stop, and the exit codes that say so.

``Interruption``         raised where a signal finds a run
``Stop``                 Ctrl-C and SIGTERM during a run: at once, or where the run next looks
``stopping``             what happens on Ctrl-C and SIGTERM while something lasts
``say_code``             leaves the exit code for the launcher

A stopped process says so by its exit code: ``INTERRUPTED`` by Ctrl-C, as a shell reports it; ``PREEMPTED`` by
SIGTERM, with everything left that going on needs (``EX_TEMPFAIL`` of sysexits.h).
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

INTERRUPTED, PREEMPTED = 130, 75
EXIT_CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: PREEMPTED}

EXIT_FOLDER = "RECRL_EXIT_FOLDER"
"""Environment variable: folder in which each process of a launch leaves its exit code."""


class Interruption(BaseException):
    """A signal stopped the run, and what going on needs is saved.

    Like KeyboardInterrupt it is no Exception, since nothing but the command line may catch it.

    Attributes:
        code: Exit code of the process, see ``EXIT_CODES``.
    """

    def __init__(self, message: str, number: signal.Signals) -> None:
        super().__init__(message)
        self.code = EXIT_CODES[number]


class Stop:
    """The wish of a user or scheduler that a run stops.

    A signal stops the run where it is, unless a stage has said that it looks by itself (:meth:`deferred`):
    the warm start after a step, the training after a step, the evaluation after a batch. A second Ctrl-C
    never waits.

    Attributes:
        hint: What to do to go on; part of the message.
        received: The first signal that came.
    """

    def __init__(self, hint: str = "") -> None:
        self.hint = hint
        self.received: signal.Signals | None = None
        self._deferred = False

    def __call__(self, number: int, _: FrameType | None = None) -> None:
        # A launcher that gets Ctrl-C as well sends SIGTERM behind it: that is no second wish.
        again = self.received is not None and number == self.received == signal.SIGINT
        first = self.received is None
        self.received = self.received or signal.Signals(number)
        if again or (first and not self._deferred):
            raise self.interruption("stopped")

    def wished(self) -> bool:
        """Whether a signal came."""
        return self.received is not None

    def check(self, where: str) -> None:
        """Stop here if a signal came.

        Args:
            where: What was done last, such as ``after the warm start``.

        Raises:
            Interruption: one came.
        """
        if self.wished():
            raise self.interruption(f"stopped {where}")

    def interruption(self, what: str) -> Interruption:
        """Exception to raise."""
        number = self.received or signal.SIGTERM
        return Interruption(f"{number.name}: {what}{self.hint and '; '}{self.hint}", number)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A stage that looks by itself whether to stop."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False


@contextmanager
def stopping(handler: Callable[[int, FrameType | None], None], *, last: bool = False) -> Iterator[None]:
    """Ctrl-C and SIGTERM go to ``handler``; afterwards to whom they went before.

    Args:
        last: Whether the process ends behind this, its exit code decided: SIGTERM cannot replace it.
    """
    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, signal.SIG_IGN if last and number == signal.SIGTERM else former)


def say_code(code: int) -> None:
    """Leave this process's exit code for the launcher, which only sees that some process failed."""
    if folder := os.environ.get(EXIT_FOLDER):
        with suppress(OSError):
            (Path(folder) / os.environ.get("RANK", "0")).write_text(str(code))


def codes_said(folder: Path) -> list[int]:
    """Exit codes that the processes of a launch left, by rank."""
    return [int(path.read_text()) for path in sorted(folder.iterdir()) if path.read_text().isdecimal()]

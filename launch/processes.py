"""Processes that a command starts and ends, and the signals that ask it to stop.

``stopping``  what happens on Ctrl-C and SIGTERM while something lasts
``end``       stop a process and all that it started

What was stopped says so by its exit code: ``INTERRUPTED`` by Ctrl-C, as a shell reports it; ``PREEMPTED`` by
SIGTERM, with everything left that going on needs (``EX_TEMPFAIL`` of sysexits.h).
"""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED, PREEMPTED = 130, 75
EXIT_CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: PREEMPTED}


@contextmanager
def stopping(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM go to ``handler``; afterwards to whom they went before."""
    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)


def end(process: subprocess.Popen[bytes], grace: float = 15) -> None:
    """Stop a process that leads a group, and what is left of the group.

    Args:
        grace: Seconds between SIGTERM and SIGKILL.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            continue

"""Calls in the thread that asks for scores, where TRL would call a reward.

``Here``  a plain function, in that thread; a call cannot be ended, so it has no time-out
``Desk``  where that thread waits for the scores, and makes the calls that belong to it
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from ..base import RewardFunction
from .calls import Calls, OutOfTimeError, answer, loop, timed

T = TypeVar("T")

GRACE = 5.0  # seconds that the loop may be busy with itself


class Desk:
    """Where the thread that asks for scores waits for them, and makes the calls that belong to it.

    Attributes:
        turn: Turn of one call at a time, in the order in which they come.
    """

    def __init__(self) -> None:
        self.turn = asyncio.Semaphore(1)
        self._calls: Calls = queue.SimpleQueue()

    def put(self, call: Callable[[], Any]) -> Future[Any]:
        """Result of a call that the waiting thread will make."""
        future: Future[Any] = Future()
        self._calls.put((call, future))
        return future

    def serve(self, scores: Future[T], longest: float) -> T:
        """Scores from the loop, after the calls that it asked this thread for.

        An async function that blocks (``time.sleep``, a request that is not awaited) stops the loop, and with
        it every time-out; so the loop itself has one.

        Args:
            longest: Seconds that any call elsewhere may take.

        Raises:
            OutOfTimeError: the loop stood still for longer.
        """
        scores.add_done_callback(lambda _: self._calls.put(None))
        while not scores.done():
            try:
                item = self._calls.get(timeout=1)
            except queue.Empty:
                _check_moving(longest)
                continue
            if item is None:  # the scores are there, or those of an earlier batch that was given up
                continue
            if isinstance(raised := answer(*item), KeyboardInterrupt):  # of the user, who wants an end
                raise raised
        return scores.result()


class Here:
    """Calls a plain function in the thread that asks for scores."""

    def __init__(self, function: RewardFunction, desk: Desk) -> None:
        self._function, self._desk = function, desk
        self.seconds = 0.0

    async def call(self, arguments: Mapping[str, Any], timeout: float) -> Any:
        async with self._desk.turn:
            with timed(self):
                return await asyncio.wrap_future(self._desk.put(partial(self._function, **arguments)))

    def close(self) -> None:
        pass


def _check_moving(longest: float) -> None:
    moved = threading.Event()
    loop().call_soon_threadsafe(moved.set)
    if not moved.wait(longest + GRACE):
        raise OutOfTimeError(f"blocked the event loop for longer than timeout={longest:g} seconds")

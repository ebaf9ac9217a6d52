"""How a reward's function is called beside the caller's thread, never for longer than its time-out: awaited,
in another thread, or in a process of its own.

``Awaited``   an async function, on the event loop
``Threads``   a plain function, in threads of this process; one that runs out of time cannot be ended, so its
              thread is left behind and another takes its place
``Workers``   a plain function, in processes; one that hangs or dies is ended and replaced
``loop``      the event loop that all of this runs on, beside the caller's thread
"""

from __future__ import annotations

import asyncio
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from functools import cache, partial
from multiprocessing.connection import Connection, Pipe
from typing import Any, Protocol, TypeVar

from ..base import RewardFunction
from ..spec import RewardSpec

T = TypeVar("T")

ASYNC_CALLS = 16  # in flight at once, where a config names no other number
WORKER_START = 300.0  # seconds: it imports the user's module


class OutOfTimeError(Exception):
    """A call took longer than its time-out."""


class WorkerDiedError(Exception):
    """The process of a call ended during it."""


class RemoteError(Exception):
    """Stands for what a function raised in a worker, where the exception itself cannot travel."""


class Caller(Protocol):
    """Makes calls of one function; a call may wait for its turn, which its time-out does not count.

    Attributes:
        seconds: Seconds that calls took so far, turns not counted; those in flight at once add up.
    """

    seconds: float

    async def call(self, arguments: Mapping[str, Any], timeout: float) -> Any:
        """Returns what the function returned, or raises what it raised.

        Raises:
            OutOfTimeError: the call took longer than ``timeout`` seconds.
            WorkerDiedError: its process ended.
        """

    def close(self) -> None:
        """End the calls that run."""


class Awaited:
    """Awaits an async function."""

    def __init__(self, function: RewardFunction, concurrency: int | None) -> None:
        self._function = function
        self._turns = asyncio.Semaphore(concurrency or ASYNC_CALLS)
        self.seconds = 0.0

    async def call(self, arguments: Mapping[str, Any], timeout: float) -> Any:
        async with self._turns:
            with timed(self):
                return await _within(timeout, asyncio.ensure_future(self._awaited(arguments)))

    async def _awaited(self, arguments: Mapping[str, Any]) -> Any:
        try:
            return await self._function(**arguments)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            raise _raisable(error) from error

    def close(self) -> None:
        pass


class Turns:
    """Threads, each of which makes one call at a time.

    Several rewards may share them: functions written for one thread then never run beside each other.
    """

    def __init__(self, count: int) -> None:
        self.free = asyncio.Semaphore(count)
        self.idle: list[_Thread] = []

    def close(self) -> None:
        while self.idle:
            self.idle.pop().submit(None)


class Threads:
    """Calls a plain function in one of the threads of ``turns``."""

    def __init__(self, function: RewardFunction, turns: Turns) -> None:
        self._function, self._turns = function, turns
        self.seconds = 0.0

    async def call(self, arguments: Mapping[str, Any], timeout: float) -> Any:
        async with self._turns.free:
            with timed(self):
                return await self._called(arguments, timeout)

    async def _called(self, arguments: Mapping[str, Any], timeout: float) -> Any:
        thread = self._turns.idle.pop() if self._turns.idle else _Thread()
        made = asyncio.wrap_future(thread.submit(partial(self._function, **arguments)))
        try:
            return await _within(timeout, made)
        finally:
            if made.done() and not made.cancelled():
                self._turns.idle.append(thread)
            else:
                thread.submit(None)  # it ends when its call does

    def close(self) -> None:
        self._turns.close()


class Workers:
    """Calls a plain function in processes that import it by themselves.

    Args:
        spec: Config entry of the reward, from which each process finds the function.
        columns: Dataset columns of each batch.
        names: Names of all the engine's resources, and of the derived columns that the reward reads.
        shared: Resources that the function reads, as they are when a process starts.
        digest: Hash of the file that the function stands in; a process that finds another one refuses.
    """

    def __init__(
        self,
        spec: RewardSpec,
        columns: Sequence[str],
        names: Sequence[str],
        shared: Callable[[], Mapping[str, Any]],
        digest: str,
    ) -> None:
        self._shared = shared
        # As they are now: a worker that starts later finds the same function.
        self._setup = sys.path[:], os.getcwd(), spec, columns, names, digest
        self._turns = asyncio.Semaphore(spec.workers)
        self.seconds = 0.0
        self._idle: list[_Process] = []

    async def call(self, arguments: Mapping[str, Any], timeout: float) -> Any:
        async with self._turns:
            process = await self._ready()
            try:
                with timed(self):
                    found = await process.ask(dict(arguments), timeout)
            except BaseException:
                process.kill()
                raise
            self._idle.append(process)
            return found()

    async def _ready(self) -> _Process:
        while self._idle:
            if (process := self._idle.pop()).alive():  # the machine may have ended it between two batches
                return process
        return await _Process.start((*self._setup, dict(self._shared())))

    def close(self) -> None:
        while self._idle:
            self._idle.pop().kill()


@contextmanager
def timed(caller: Caller) -> Iterator[None]:
    """Add the seconds of a call to its caller's."""
    started = time.perf_counter()
    try:
        yield
    finally:
        caller.seconds += time.perf_counter() - started


async def _within(timeout: float, future: asyncio.Future[Any]) -> Any:
    """Result in time. Not ``asyncio.wait_for``: a TimeoutError of the function itself is another thing."""
    try:
        done, _ = await asyncio.wait({future}, timeout=timeout)
    except asyncio.CancelledError:
        future.cancel()
        raise
    if not done:
        future.cancel()
        raise OutOfTimeError(f"took longer than timeout={timeout:g} seconds")
    if future.cancelled():  # by the function itself
        raise RuntimeError("it cancelled itself")
    return future.result()


def _raisable(error: BaseException) -> Exception:
    """The error, or one in its place that a future can hold and that does not end the loop (SystemExit)."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration | CancelledError):
        return error
    found = RuntimeError(f"{type(error).__name__}: {error}")
    found.__cause__ = error
    return found


class _Thread:
    """A daemon thread that makes one call after the other until it gets None, or nobody can call it."""

    def __init__(self) -> None:
        self._calls: Calls = queue.SimpleQueue()
        weakref.finalize(self, self._calls.put, None)
        threading.Thread(target=_make, args=(self._calls,), name="recrl-reward", daemon=True).start()

    def submit(self, call: Callable[[], Any] | None) -> Future[Any]:
        future: Future[Any] = Future()
        self._calls.put(None if call is None else (call, future))
        return future


Calls = queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]


def _make(calls: Calls) -> None:
    while (item := calls.get()) is not None:
        answer(*item)
        del item  # an idle thread holds no batch


def answer(call: Callable[[], Any], future: Future[Any]) -> BaseException | None:
    """Make a call, unless nobody waits for it any more; return what it raised."""
    if not future.set_running_or_notify_cancel():
        return None
    try:
        found = call()
    except BaseException as error:
        future.set_exception(_raisable(error))
        return error
    future.set_result(found)
    return None


class _Process:
    """One worker process, which runs :mod:`recrl.rewards.scoring.worker`."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: Connection) -> None:
        self._process, self._pipe = process, pipe
        # A long message waits until the process reads it, and the loop must not wait with it.
        self._thread = _Thread()
        self.kill = weakref.finalize(self, _kill, process, pipe)

    @classmethod
    async def start(cls, message: Any) -> _Process:
        ours, theirs = Pipe()
        # Not multiprocessing's own start: it would import the main script again, and so a whole trainer.
        process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            process_group=0,  # what the function starts ends with it
        )
        theirs.close()
        started = cls(process, ours)
        try:
            (await started.ask(message, WORKER_START))()
        except BaseException:
            started.kill()
            raise
        return started

    def alive(self) -> bool:
        return self._process.poll() is None

    async def ask(self, message: Any, timeout: float) -> Callable[[], Any]:
        """Send and wait for the answer, which returns or raises as the function did."""
        exchanged = asyncio.wrap_future(self._thread.submit(partial(_exchange, self._pipe, message)))
        try:
            raised, value = await _within(timeout, exchanged)
        except (EOFError, OSError):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            status = self._process.returncode
            raise WorkerDiedError(f"its process ended during the call, exit status {status}") from None

        def found() -> Any:
            if raised:
                raise value
            return value

        return found


def _exchange(pipe: Connection, message: Any) -> Any:
    pipe.send_bytes(pickle.dumps(message))
    return pickle.loads(pipe.recv_bytes())


def _kill(process: subprocess.Popen[bytes], pipe: Connection) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()  # it may have left its group
    process.wait()
    # Wakes the thread that may still be sending or waiting; the pipe is closed when nobody holds it any more.
    with suppress(OSError), socket.socket(fileno=os.dup(pipe.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


@cache
def loop() -> asyncio.AbstractEventLoop:
    """One loop for all rewards of the process, on its own thread.

    ``asyncio.run`` would not do: it fails inside a notebook's running loop, and a client that a reward keeps
    open between batches belongs to the loop that it was opened on.
    """
    made = asyncio.new_event_loop()
    threading.Thread(target=made.run_forever, name="recrl-rewards", daemon=True).start()
    return made


os.register_at_fork(after_in_child=loop.cache_clear)  # a fork has the loop, but not its thread

"""Processes that a command starts, and ends with itself.

``child``                a process that leads a group and ends with this one
``end``                  stop a process and all that it started
``shared_memory_swept``  takes away what it left when it was killed
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

_PR_SET_PDEATHSIG = 1


@contextmanager
def child(
    command: Sequence[str], environment: Mapping[str, str], grace: float = 15, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a group of its own, and ends with the context, or when this process is killed.

    The terminal's Ctrl-C reaches it through this process alone. The thread that calls this has to live as
    long: Linux takes its end for the parent's.

    Args:
        grace: Seconds between SIGTERM and SIGKILL.
        options: Options of ``subprocess.Popen``.
    """
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, preexec_fn=_end_with_parent(), **options
    )
    try:
        yield process
    finally:
        end(process, grace)


def _end_with_parent() -> Callable[[], None] | None:
    """Function by which Linux ends a child with its parent; elsewhere None: the child lives on."""
    if not sys.platform.startswith("linux"):
        return None
    libc, parent = ctypes.CDLL(None, use_errno=True), os.getpid()

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died before
            os._exit(1)

    return ask


def end(process: subprocess.Popen[bytes], grace: float = 15) -> None:
    """Stop a process that leads a group, and what is left of the group.

    Args:
        grace: Seconds between SIGTERM and SIGKILL.
    """
    until = time.monotonic() + grace
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    # Its children take away what they share (vLLM: hundreds of megabytes) when they may end by themselves.
    while _members(process.pid) and time.monotonic() < until:
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _members(group: int) -> list[int]:
    """Processes of a group that still run."""
    found = []
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


@contextmanager
def shared_memory_swept() -> Iterator[None]:
    """Take away, at the end, shared memory that processes of this user made meanwhile and left when they were
    killed, and that nobody maps any more."""
    before = _segments()
    try:
        yield
    finally:
        left = _segments() - before
        for maps in Path("/proc").glob("[0-9]*/maps") if left else ():
            with suppress(OSError):
                text = maps.read_text()
                left = {path for path in left if str(path) not in text}
        for path in left:
            path.unlink(missing_ok=True)


def _segments() -> set[Path]:
    """Segments of this user that Python's multiprocessing made."""
    found = set()
    for path in Path("/dev/shm").glob("psm_*"):
        with suppress(OSError):
            if path.stat().st_uid == os.getuid():
                found.add(path)
    return found

"""A process that calls one plain reward function for the engine.

``python -m recrl.rewards.scoring.worker FD``

It finds the function from the reward's config entry, says so, and answers every message of keyword arguments
with what the function returned or raised. It ends when the other end of its pipe closes.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from ..base import RewardSpecError
from ..registry import resolve
from ..spec import RewardSpec
from .binding import bind
from .calls import RemoteError


def main(descriptor: int) -> None:
    """Answer until the pipe closes."""
    # The process that asks decides when it is over: a signal to the whole group is for that one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe = Connection(descriptor)
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(pipe, messages), daemon=True).start()
    function: Any = None
    shared: Mapping[str, Any] = {}
    while True:
        message = messages.get()
        try:
            if function is None:
                function, shared = _prepared(*pickle.loads(message))
                answer: tuple[bool, Any] = False, None
            else:
                found = function(**{**pickle.loads(message), **shared})
                answer = False, found.tolist() if hasattr(found, "tolist") else found
            content = pickle.dumps(answer)
        except Exception as error:
            content = pickle.dumps((True, _portable(error)))
        pipe.send_bytes(content)


def _read(pipe: Connection, messages: queue.SimpleQueue[bytes]) -> None:
    """Read beside the function, so that a call that hangs does not outlive the process that asked."""
    while True:
        try:
            messages.put(pipe.recv_bytes())
        except (EOFError, OSError):
            os.killpg(0, signal.SIGKILL)  # what the function started too: its group is this process's own


def _prepared(
    path: list[str],
    folder: str,
    spec: RewardSpec,
    columns: Sequence[str],
    names: Sequence[str],
    digest: str,
    shared: Mapping[str, Any],
) -> tuple[Any, Any]:
    sys.path[:] = path
    os.chdir(folder)
    call = bind(resolve(spec), spec, columns, names)
    if call.digest != digest:
        raise RewardSpecError(
            f"reward {spec.name!r}: the file of {spec.use} changed while the run goes on, so a new worker "
            "would score by another function; put the old file back, or begin a new run"
        )
    return call.function, {**shared, **call.params}


def _portable(error: Exception) -> Exception:
    """The exception with its traceback's text, as something that can be pickled."""
    text = "".join(traceback.format_exception(error))
    try:
        copy: Exception = pickle.loads(pickle.dumps(error))
    except Exception:
        copy = RemoteError(f"{type(error).__name__}: {error}")
    copy.add_note(f"in a worker process:\n{text}")
    return copy


if __name__ == "__main__":
    main(int(sys.argv[1]))

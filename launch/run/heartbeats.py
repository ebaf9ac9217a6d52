"""Signs of life of a run's processes, so that one that hangs does not leave the others waiting.

A thread of every process touches a file of the run folder every few seconds and looks at those of the others.
A process that was stopped (SIGSTOP, a frozen machine) touches nothing; the others name it and end, long
before a collective would time out. Clocks of machines are never compared: what counts is for how long a
file's time has not changed here. A full disk does not matter, since touching takes no room.

The first process also says how far it is, and others wait for that by looking, without a collective: what it
does alone (tables, warm start, evaluation) may take longer than a collective's time-out.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from ...envs.storage.sealed import write
from ..signals import say_code

_LEAST, _MOST = 0.2, 5.0  # seconds between two signs
_LOOK_EVERY = 0.2  # seconds, while waiting


class Heartbeats:
    """The signs of life of one run.

    Args:
        folder: Folder that all processes see; empty.
        rank: Number of this process.
        size: Number of processes.
        patience: Seconds that a process may give no sign.
        on_silence: Function of the message when a process is silent; by default print it and end.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        size: int,
        patience: float,
        on_silence: Callable[[str], None] | None = None,
    ) -> None:
        self._folder, self._rank, self._size, self._patience = folder, rank, size, patience
        self._on_silence = on_silence or _end
        self._about: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "reached": [],
        }
        self._over = threading.Event()
        # Rank -> when its file was last seen to change, and the file's time then.
        self._seen: dict[int, tuple[float, int]] = {}
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; without other processes there is nothing to do."""
        if self._size == 1:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        now = time.monotonic()
        self._seen = {rank: (now, 0) for rank in range(self._size) if rank != self._rank}
        self._write()
        self._thread = threading.Thread(target=self._watch, name="recrl-heartbeats", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End, without anybody missing this process."""
        if self._thread is None:
            return
        self.reached("end")
        self._over.set()
        self._thread.join()
        self._thread = None

    def reached(self, place: str) -> None:
        """Say that this process is past a place."""
        if self._size > 1:
            self._about["reached"].append(place)
            self._write()

    def wait_for(self, place: str) -> None:
        """Return when the first process is past a place; signals are seen meanwhile."""
        while self._size > 1 and self._rank and place not in self._read(0).get("reached", ()):
            time.sleep(_LOOK_EVERY)

    def silent(self) -> dict[int, float]:
        """Ranks without a sign for longer than the patience, and for how many seconds."""
        now, late = time.monotonic(), {}
        for rank, (when, before) in self._seen.items():
            touched = self._touched(rank)
            if touched != before:
                self._seen[rank] = (now, touched)
            elif now - when > self._patience and "end" not in self._read(rank).get("reached", ()):
                late[rank] = now - when
        return late

    def _watch(self) -> None:
        pause = min(max(self._patience / 10, _LEAST), _MOST)
        last = time.monotonic()
        while not self._over.wait(pause):
            with suppress(OSError):
                os.utime(self._file(self._rank))
            now = time.monotonic()
            if now - last > self._patience / 2:
                # This process itself stood still, so it first has to look at the others again.
                self._seen = {rank: (now, touched) for rank, (_, touched) in self._seen.items()}
            last = now
            if late := self.silent():
                self._on_silence(self._blame(late))

    def _blame(self, late: dict[int, float]) -> str:
        """Name the silent, and end those of this machine that still exist."""
        names = []
        for rank, seconds in late.items():
            said = self._read(rank)
            where = f"process {said['pid']} on {said['host']}, " if said else "which never began, "
            names.append(f"rank {rank} ({where}silent for {seconds:.0f} s)")
            if said and said["host"] == self._about["host"]:
                _kill(said["pid"], said["started"])
        return (
            f"{' and '.join(names)} gives no sign of life, so all processes end; go on with --resume auto. "
            f"If it was only slow, raise train.heartbeat={self._patience:g} (seconds)"
        )

    def _write(self) -> None:
        write(self._file(self._rank), json.dumps(self._about))

    def _read(self, rank: int) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            content = json.loads(self._file(rank).read_bytes())
            return content if isinstance(content, dict) else {}
        return {}

    def _touched(self, rank: int) -> int:
        with suppress(OSError):
            return self._file(rank).stat().st_mtime_ns
        return 0

    def _file(self, rank: int) -> Path:
        return self._folder / f"{rank}.json"


def _kill(pid: int, started: float) -> None:
    """End a process that hangs, if it is still the one that was meant."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if abs(process.create_time() - started) < 1:
            process.send_signal(signal.SIGKILL)


def _end(message: str) -> None:
    """End this process, whose main thread may wait in a collective for good."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    say_code(1)
    os._exit(1)

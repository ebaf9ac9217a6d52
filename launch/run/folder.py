"""The run folder: whose it is, who works in it, and what may be taken away.

``RunFolder`` locks it, opens it for a new or a resumed run, and keeps an earlier run until the new one has
proven itself. A run folder carries a marker; only what a run writes (``ENTRIES``) is moved or deleted.
"""

import errno
import fcntl
import json
import logging
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...envs.storage.sealed import ASIDE, write
from ...rl.rollouts import access
from ..config.reading import dump
from ..config.schema import ConfigError, RunConfig

logger = logging.getLogger(__name__)

MARKER = "run.json"
LOCK = ".lock"
PREVIOUS = ".previous"
HEARTBEATS = ".heartbeats"
EARLIER = "earlier"
"""Folder of the reports that later evaluations took the place of, each under its date."""
_OF_A_REPORT = ("report.md", "evaluation.json", "examples.json", "facts.json", "plots")

ENTRIES = frozenset(
    {
        MARKER,
        "config.yaml",
        "catalog.json",
        "task",
        "warm_start.jsonl",
        "warm_start",
        ".warm_start.writing",
        "warm",
        ".warm.writing",
        "metrics.jsonl",
        "checkpoints",
        "validation.jsonl",
        "best",
        "policy",
        ".policy.writing",
        "answers",
        "evaluation.json",
        "examples.json",
        "facts.json",
        "report.md",
        "plots",
        EARLIER,
        "exchange",
        "stopped",
        HEARTBEATS,
    }
)
"""Names that a run writes into its folder."""

# What a run writes about its warm start, besides the policy.
_OF_A_WARM_START = ("warm_start.jsonl", "catalog.json", "task", MARKER)
# A run between its place and ``PREVIOUS``; the next start puts it back in its place.
_MOVING = ".previous.moving"
# End of the name of a run that is being deleted: half of one must never be taken for an earlier run.
_GOING = ".going"
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# What a refused start, a waiting server or an unfinished replacement leaves: no run yet.
_EMPTY = {MARKER, "config.yaml", LOCK, PREVIOUS, _MOVING, HEARTBEATS, access.KEY_FILE}
# Names by which a folder of an earlier version, which had no marker, is known.
_OF_A_RUN = {"warm", "metrics.jsonl", "checkpoints", "evaluation.json", "warm_start.jsonl"}


def keep_earlier(run: Path) -> None:
    """Copy the report of a run folder, with its plots and numbers, before another one takes its place."""
    report = run / _OF_A_REPORT[0]
    if not report.exists():
        return
    kept = run / EARLIER / time.strftime("%Y-%m-%d-%H%M%S", time.localtime(report.stat().st_mtime))
    if kept.exists():
        return
    aside = kept.with_name(f".{kept.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name in _OF_A_REPORT:
        if (run / name).is_dir():
            shutil.copytree(run / name, aside / name)
        elif (run / name).exists():
            shutil.copy2(run / name, aside / name)
    aside.rename(kept)


def copy_warm_start(source: Path, folder: Path) -> None:
    """Give a run the warm start of another one; ``resume="auto"`` goes on behind it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _OF_A_WARM_START:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, dirs_exist_ok=True)
        elif (source / name).exists():
            shutil.copy2(source / name, folder / name)
    aside = folder / ".warm.writing"
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source / "warm", aside)
    aside.rename(folder / "warm")


class RunFolder:
    """A folder of which one process at a time is the owner.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Own the folder; a holder that died holds nothing, and what it was moving is moved back.

        Raises:
            ConfigError: another process owns it; the message says which.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # where no folder can be made, such as /proc
            raise ConfigError(f"output={self.path} cannot be made; choose another folder") from error
        # A record lock: it ends with this process, and no child inherits it.
        handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                raise ConfigError(
                    f"{self.path} is in use{_holder(handle)}; wait for its end, stop it, or choose another "
                    "output=..."
                ) from error
            except OSError as error:
                if error.errno not in _WITHOUT_LOCKS:
                    raise
                logger.warning("%s: its file system has no locks; start one run at a time there", self.path)
            self._move_back()
            os.ftruncate(handle, 0)
            about = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%F %T")}
            os.pwrite(handle, json.dumps(about).encode(), 0)
            yield
            os.ftruncate(handle, 0)
        finally:
            os.close(handle)

    def refuse(self, resume: str | None, fresh: bool) -> None:
        """Refuse what would mix with, or take away, something that is there.

        Raises:
            ConfigError: the folder holds a run and neither ``resume`` nor ``fresh`` is given, or files of
                somebody else.
        """
        if resume is not None and fresh:
            raise ConfigError(
                f"--resume {resume} goes on with a run and --fresh replaces it; give one of them"
            )
        if fresh and Path.cwd().is_relative_to(self.path.resolve()):
            raise ConfigError(
                f"--fresh with output={self.path}: that is the working directory or holds it, and is never "
                "replaced; choose another output=..."
            )
        self.refuse_strangers()
        if resume is None and not fresh and self.has_run():
            raise ConfigError(
                f"{self.path} holds a run already; go on with --resume auto, replace it with --fresh, "
                "or choose another output=..."
            )

    def refuse_strangers(self) -> None:
        """Refuse a folder that somebody else uses, in which not even a lock is made.

        Raises:
            ConfigError: it holds files, and no run.
        """
        if self.occupied() and not self.is_run():
            names = ", ".join((self._strangers() or sorted(self._names()))[:3])
            raise ConfigError(
                f"output={self.path} holds {names} and is no run folder; choose another output=..."
            )

    def occupied(self) -> bool:
        """Whether there is anything but what a refused start leaves."""
        names = self._names()
        # A configuration without our marker is somebody's own.
        return not names <= _EMPTY or (bool(names & {"config.yaml", MARKER}) and not self._marked())

    def is_run(self) -> bool:
        """Whether a run wrote here: its marker, or all that an earlier version leaves."""
        names = self._names()
        return self._marked() or (
            "config.yaml" in names and bool(names & _OF_A_RUN) and not self._strangers()
        )

    def has_run(self) -> bool:
        """Whether more than a refused start is there."""
        return bool(self._names() & ENTRIES - _EMPTY)

    def open(self, config: RunConfig, about: dict[str, Any]) -> None:
        """Write marker and configuration."""
        # The marker first: a configuration without one would be taken for somebody else's.
        write(self.path / MARKER, json.dumps(about))
        write(self.path / "config.yaml", dump(config))

    def set_aside(self) -> None:
        """Move a run out of the way until :meth:`settle` or :meth:`put_back`.

        What an earlier replacement left, which did not prove itself, is deleted instead.
        """
        previous, moving = self.path / PREVIOUS, self.path / _MOVING
        if previous.exists():
            self._clear()
        elif names := self._names() & ENTRIES:
            moving.mkdir()
            for name in sorted(names, key=lambda name: name == MARKER):  # the marker last
                (self.path / name).rename(moving / name)
            moving.rename(previous)

    def settle(self) -> None:
        """Delete the run that was set aside: the new one has proven itself."""
        previous = self.path / PREVIOUS
        if previous.is_dir():
            going = previous.with_name(f"{PREVIOUS}.{secrets.token_hex(4)}{_GOING}")
            previous.rename(going)
            shutil.rmtree(going, ignore_errors=True)

    def put_back(self) -> bool:
        """Restore the run that was set aside; return whether there was one."""
        previous = self.path / PREVIOUS
        if not previous.is_dir():
            return False
        self._clear()
        previous.rename(self.path / _MOVING)
        self._move_back()
        return True

    def saved(self) -> dict[str, Any]:
        """Content of the marker; empty without one, or where it was damaged."""
        marker = self.path / MARKER
        with suppress(OSError, ValueError, RecursionError):
            content = json.loads(marker.read_bytes()) if marker.is_file() else {}
            return content if isinstance(content, dict) else {}
        return {}

    def sweep(self) -> None:
        """Take away what processes that were killed left of their own signs."""
        for path in (*self.path.glob(".seen-*"), *self.path.glob(f".*{ASIDE}")):
            path.unlink(missing_ok=True)
        for path in (self.path / HEARTBEATS, *self.path.glob(f"{PREVIOUS}.*{_GOING}")):
            shutil.rmtree(path, ignore_errors=True)

    def _move_back(self) -> None:
        """Put what was on its way, here or aside, where it belongs."""
        moving = self.path / _MOVING
        if moving.is_dir():
            for path in sorted(moving.iterdir(), key=lambda path: path.name != MARKER):
                path.rename(self.path / path.name)
            moving.rmdir()

    def _clear(self) -> None:
        for name in sorted(self._names() & ENTRIES, key=lambda name: name == MARKER):
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _names(self) -> set[str]:
        try:
            names = {path.name for path in self.path.iterdir()}
        except FileNotFoundError:
            return set()
        except NotADirectoryError as error:
            blocks = next(path for path in (self.path, *self.path.parents) if path.is_file())
            raise ConfigError(f"output={self.path}: {blocks} is a file; choose a folder's name") from error
        passing = (".seen-", f".{access.KEY_FILE}-")
        return {name for name in names if not (name.startswith(passing) or name.endswith((ASIDE, _GOING)))}

    def _marked(self) -> bool:
        """Whether the marker is there, and not a file of another program with its name."""
        return "recrl" in self.saved() or (self.path / _MOVING).exists()

    def _strangers(self) -> list[str]:
        return sorted(self._names() - ENTRIES - _EMPTY)


def _holder(handle: int) -> str:
    with suppress(ValueError, KeyError, TypeError):
        about = json.loads(os.pread(handle, 4096, 0))
        return f" by process {about['pid']} on {about['host']} since {about['since']}"
    return ""

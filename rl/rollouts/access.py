"""The key of a run's rollout servers.

The key is that of ``RECRL_API_KEY``, else one that whoever needs it first writes into the run folder, for its
owner alone. It is on no command line and in no log.
"""

import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from .base import RolloutError

KEY = "RECRL_API_KEY"
"""Environment variable that holds the key, of the server and of those who ask it."""

KEY_FILE = "server-key"
"""File of the key in a run folder, if the variable is not set."""

SHORTEST = 16
"""Least number of characters of a key."""

_LONGEST = 4096
_HOLDER = "set a key with `openssl rand -hex 16`"


def server_key(run: Path) -> str:
    """The key of a run's servers; made where there is none yet.

    Servers and ranks may call it at the same time: all get the same one.

    Args:
        run: Folder of the run.

    Raises:
        RolloutError: the variable holds no key, or the file is not this user's alone.
    """
    if KEY in os.environ:
        return checked_key(os.environ[KEY], KEY)
    path = run / KEY_FILE
    if not os.path.lexists(path):
        _write_key(path)
    return _read_key(path)


def checked_key(key: str, origin: str) -> str:
    """A key that is long enough, and that a header can carry.

    Args:
        origin: Origin of the key, for the error.

    Raises:
        RolloutError: it is not such a key; the error does not show it.
    """
    if len(key) < SHORTEST:
        what = "is empty" if not key else f"has {len(key)} characters"
        raise RolloutError(
            f"{origin} {what}, a key needs {SHORTEST} at least; {_HOLDER}, or unset {KEY} and one is made"
        )
    if len(key) > _LONGEST or not re.fullmatch(r"[!-~]+", key):
        raise RolloutError(
            f"{origin} holds a blank, a line break, another character that a header cannot carry, or too "
            f"many; {_HOLDER}"
        )
    return key


def _write_key(path: Path) -> None:
    """Write a key whole or not at all, and never readable by others."""
    aside = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(secrets.token_urlsafe(32))
        try:
            with suppress(FileExistsError):  # somebody else was first
                os.link(aside, path)
        finally:
            aside.unlink()
    except OSError as error:
        raise RolloutError(
            f"{path}: the key of the rollout servers cannot be written ({error.strerror}); mend that, or set "
            f"{KEY}, here and where the others run"
        ) from error


def _read_key(path: Path) -> str:
    try:
        # A named pipe must not be waited for.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise RolloutError(f"{path} cannot be opened as a key ({error.strerror}); delete it") from error
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o177:
            raise RolloutError(
                f"{path} must be a file of your own with mode 0600, it is {described(found)}: others may "
                f"know this key; delete it and start again, or set {KEY} if this disk changes owners"
            )
        return checked_key(os.read(file, _LONGEST + 1).decode("ascii", "replace"), str(path))
    finally:
        os.close(file)


def described(found: os.stat_result) -> str:
    """Words for what a path is, whose, and who may use it, for an error."""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFREG: "a file", stat.S_IFLNK: "a link"}
    kind = kinds.get(stat.S_IFMT(found.st_mode), "something else")
    owner = "yours" if found.st_uid == os.geteuid() else f"user {found.st_uid}'s"
    return f"{kind}, {owner}, mode {stat.S_IMODE(found.st_mode):04o}"

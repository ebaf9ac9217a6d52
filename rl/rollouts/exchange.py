"""The folder through which weights reach rollout servers as files.

Trainer and server each know the folder from their own settings. Only a version travels over HTTP: with a
path, whoever has the key could make the server read any file.
"""

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .access import described
from .base import RolloutError

EXCHANGE = "RECRL_SERVER_EXCHANGE"
"""Environment variable of a server with the folder, as its workers see it."""

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def weights_file(folder: Path, version: str) -> Path:
    """File of the weights of a version.

    Raises:
        ValueError: no version has that name.
    """
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise ValueError("no version of weights: it must be letters, digits, and . _ - between them")
    return folder / f"weights-{version}.safetensors"


def exchanged_file(version: str) -> Path:
    """File in which a server finds a version.

    Raises:
        ValueError: the server has no such folder, or no such version is in it.
        RolloutError: others may write there.
    """
    folder = os.environ.get(EXCHANGE)
    if not folder:
        raise ValueError("this server was not started with a folder for weights")
    path = weights_file(Path(folder), version)
    check_folder(path.parent)
    with suppress(OSError):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            return path
    raise ValueError(
        f"{path} is not there, or not the server's own; start the server with the rollout.servers, "
        "rollout.exchange and output of the training"
    )


def make_folder(path: Path) -> None:
    """Make the folder where it is missing, for its owner alone, and check it.

    Raises:
        RolloutError: it cannot be made, or others may write there.
    """
    try:
        with suppress(FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700)
    except OSError as error:
        raise RolloutError(
            f"rollout.exchange={path} cannot be made ({error.strerror}); set another"
        ) from error
    check_folder(path)


def check_folder(path: Path) -> None:
    """Refuse a folder to which others could bring weights of theirs; a missing one passes.

    Raises:
        RolloutError: it is a link or somebody else's, or others may write there.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise RolloutError(
            f"rollout.exchange={path} cannot be read ({error.strerror}); set another"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise RolloutError(
            f"rollout.exchange={path} must be a folder of your own that nobody else can write to, it is "
            f"{described(found)}; delete it, chmod go-w it, or set another"
        )


def private_file(path: Path) -> None:
    """Make a new empty file that only this user can read.

    Raises:
        OSError: it cannot be made.
    """
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


# Weights of a process that was killed would stay, in memory for good. So those in use are locked: a lock ends
# with its process. Where a file system has no locks nothing is swept.


@contextmanager
def unswept(folder: Path) -> Iterator[None]:
    """Nobody sweeps a folder meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def held(path: Path) -> int:
    """A descriptor; until it is closed nobody sweeps a file away, whatever its name is by then."""
    descriptor = os.open(path, os.O_RDONLY)
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def sweep(folder: Path) -> None:
    """Remove the weights that nobody holds, unless somebody is writing just now."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in folder.glob("weights-*"):
            with suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
    except OSError:
        pass
    finally:
        os.close(descriptor)

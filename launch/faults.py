"""Faults that a user can mend, in one line: which errors they are, and whose code is to blame.

``MENDABLE``    errors whose message tells the user what to do
``disk_fault``  a disk that is full, read-only or closed to this user, behind any error of any library
``cause``       what a reward of the user raised, behind the errors that report it
``blamed``      its traceback, from the user's code on
``place``       the file and line in that code
``fail``        ends the process with one line
"""

import errno
import os
import re
import shutil
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

from ..envs.faults import MendableError
from .signals import say_code

# A package that is not there is named by the error itself.
MENDABLE = (MendableError, ModuleNotFoundError)

_ELSEWHERE = "choose another output=... or data.cache=..."
_ROOM, _LEAVE = f"make room, or {_ELSEWHERE}", f"give this user leave to write there, or {_ELSEWHERE}"
# Faults that the user, and not this program, can do something about: what each is, and the fix.
_OF_THE_DISK = {
    errno.EACCES: ("permission denied", _LEAVE),
    errno.EDQUOT: ("the quota is used up", _ROOM),
    errno.EFBIG: ("a file may not become that large (ulimit -f)", _ROOM),
    errno.EIO: ("the disk fails", _ELSEWHERE),
    errno.EISDIR: ("a folder is in the way", _ELSEWHERE),
    errno.ENAMETOOLONG: ("the name is too long", _ELSEWHERE),
    errno.ENOSPC: ("no space is left", _ROOM),
    errno.ENOTDIR: ("a file is where a folder should be", _ELSEWHERE),
    errno.EPERM: ("permission denied", _LEAVE),
    errno.EROFS: ("the file system is read-only", _LEAVE),
}
# Libraries written in Rust and C++ keep nothing of an error but its text.
_IN_TEXT = re.compile(r"os error (\d+)|\[Errno (\d+)\]|errno[ :=]+(\d+)", re.IGNORECASE)
_WORDS = {
    "no space left on device": errno.ENOSPC,
    "file too large": errno.EFBIG,
    "disk quota exceeded": errno.EDQUOT,
    "read-only file system": errno.EROFS,
    "permission denied": errno.EACCES,
    "operation not permitted": errno.EPERM,
}


def cause(error: Exception) -> BaseException | None:
    """Error that a reward of the user raised, behind the errors that report it."""
    from ..rewards import RewardError, RewardSpecError
    from .config.schema import ConfigError

    fault: BaseException | None = error
    while isinstance(fault, ConfigError) and fault.__cause__ is not None:
        fault = fault.__cause__
    while isinstance(fault, RewardError | RewardSpecError):
        error, fault = fault, fault.__cause__
    return fault if isinstance(error, RewardError | RewardSpecError) else None


def disk_fault(error: BaseException) -> str | None:
    """Fault of the disk that an error comes from, on one line, with what to do; None if it is another."""
    for one in _chain(error):
        if "no usable temporary directory" in str(one).lower():
            return f"{' '.join(str(one).split())}; make room there, or name another folder by TMPDIR"
        number = one.errno if isinstance(one, OSError) else None
        if number not in _OF_THE_DISK:
            number = _number_in(str(one))
        if number in _OF_THE_DISK:
            path = next((e.filename for e in _chain(error) if isinstance(e, OSError) and e.filename), None)
            return _explained(number, path, one)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _number_in(text: str) -> int | None:
    if found := _IN_TEXT.search(text):
        return int(next(filter(None, found.groups())))
    return next((number for words, number in _WORDS.items() if words in text.lower()), None)


def _explained(number: int, path: object, error: BaseException) -> str:
    what, fix = _OF_THE_DISK[number]
    where = os.fsdecode(path) if isinstance(path, str | bytes) else None
    if where is None:
        return f"cannot write: {what} ({' '.join(str(error).split())[:200]}); {fix}"
    room = ""
    if number in (errno.ENOSPC, errno.EDQUOT):
        folder = next((p for p in Path(where).absolute().parents if p.is_dir()), Path("/"))
        room = f", {shutil.disk_usage(folder).free / 2**30:.2f} GiB are free there"
    return f"cannot write {where}: {what}{room}; {fix}"


def blamed(error: BaseException) -> str:
    """Traceback from the user's code on, without ours that called it; empty if it never gets there."""
    trace = error.__traceback__
    while trace is not None and not _of_the_user(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    if trace is None:
        return ""
    return "".join(traceback.format_exception(type(error), error, trace))


def place(error: BaseException) -> str | None:
    """``file:line`` of the user's code that an error was raised in or went through last; None without one."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _of_the_user(frame.filename)]
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    return f"{own[-1].filename}:{own[-1].lineno}" if own else None


def _of_the_user(file: str) -> bool:
    ours = [Path(__file__).parents[1] / floor for floor in ("envs", "rewards", "rl", "launch")]
    if any(Path(file).is_relative_to(floor) for floor in ours):
        return False
    standard = Path(threading.__file__).parent
    return "site-packages" in file or not (Path(file).is_relative_to(standard) or file.startswith("<frozen"))


def fail(message: str, code: int) -> NoReturn:
    """End with one line on stderr; with code 2 it is marked as an error."""
    prefix = "[red]error[/]: " if code == 2 else ""
    Console(stderr=True).print(prefix + escape(message), highlight=False, soft_wrap=True)
    say_code(code)
    raise SystemExit(code)

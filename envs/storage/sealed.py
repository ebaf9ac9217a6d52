"""Folders and files that are whole or not there: checkpoints, cached tables, what a run writes.

The files are written into a folder aside, sealed with a manifest, and the folder is renamed: a process that
is killed, or a disk that is full, leaves nothing under the name that others look for. What a copy or a bad
disk did to a folder afterwards is found by the manifest, which is protected itself. It protects from damage,
not from people: who can write the files can write the manifest.

``seal``     fingerprints of files, which are on the disk by then
``publish``  the manifest, and the name that others see
``finish``   the same for what a process that was killed left aside
``read``     what a manifest says
``fault``    why a folder is not whole
``write``    a file that is the old one or the new one
"""

import json
import os
import shutil
import zlib
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

MANIFEST = "manifest.json"

ASIDE = ".aside"
"""Suffix of a file that is being written."""

# CRC-32 of the rest of the manifest.
_CRC = "crc"

_BLOCK = 1 << 22  # bytes
_LARGEST = 1 << 26  # bytes of a manifest; it has about a hundred for each file

Fingerprints = dict[str, tuple[int, int]]
"""File -> size in bytes and CRC-32."""


class SealError(ValueError):
    """A folder has no manifest, or one that cannot be trusted; the message names it."""


def files(folder: Path) -> list[str]:
    """Names of all files below a folder, its manifest left out."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != MANIFEST)


def seal(folder: Path, names: Iterable[str]) -> Fingerprints:
    """Fingerprints of files, which are on the disk when this returns."""
    sealed = {}
    for name in names:
        with (folder / name).open("rb") as stream:
            os.fsync(stream.fileno())
        sealed[name] = fingerprint(folder / name)
    return sealed


def publish(written: Path, target: Path, facts: Mapping[str, Any], sealed: Fingerprints) -> None:
    """Give a folder that was written aside its manifest and its name.

    Args:
        written: Folder on the file system of ``target``, which it replaces.
        facts: Further content of the manifest, as JSON.
        sealed: Fingerprints of the folder's files.
    """
    content = {**facts, "files": sealed}
    with (written / MANIFEST).open("w") as stream:
        stream.write(json.dumps({**content, _CRC: checksum(content)}, indent=1))
        stream.flush()
        os.fsync(stream.fileno())
    for folder in {written, *((written / name).parent for name in sealed)}:
        _sync(folder)
    replace(written, target)


def replace(written: Path, target: Path) -> None:
    """Rename a folder to a name in place of whatever has it, a file or a torn link included."""
    remove(target)
    written.rename(target)
    _sync(target.parent)


def finish(written: Path, target: Path) -> None:
    """Publish what a process that was killed left aside, if it is whole; else remove it."""
    if fault(written) is None:
        replace(written, target)
    remove(written)


def remove(path: Path) -> None:
    """Remove a folder, a file or a link, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read(folder: Path, *, earlier: Collection[str] = ()) -> dict[str, Any]:
    """Content of a folder's manifest: the facts, and ``files``.

    Args:
        earlier: Facts of a manifest that may lack its own checksum, as earlier versions wrote it.

    Raises:
        SealError: the folder has no manifest, or a damaged one.
    """
    path = folder / MANIFEST
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise SealError(f"{path} is no file")
        if path.stat().st_size > _LARGEST:
            raise SealError(f"{path} has {path.stat().st_size} bytes, too many for a manifest")
        content = json.loads(path.read_bytes())
        written = content.pop(_CRC, None)
        content["files"] = {n: (int(size), int(crc)) for n, (size, crc) in content["files"].items()}
        unprotected = written is None and content.keys() == {"files", *earlier}
        if not unprotected and written != checksum(content):
            raise SealError(f"{path} does not hold what was written")
    except FileNotFoundError as error:
        raise SealError(f"{path} is missing: its writing did not come to an end") from error
    except SealError:
        raise
    except Exception as error:  # JSON may hold anything
        raise SealError(f"{path} cannot be read: {error}") from error
    for name in content["files"]:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise SealError(f"{path} names {name!r}, which is not in its folder")
    return content


def fault(folder: Path, *, deep: bool = True, earlier: Collection[str] = ()) -> str | None:
    """Why a folder is not whole; None if it is.

    Args:
        deep: Read every file; else only look at names and sizes.
        earlier: See ``read``.
    """
    try:
        sealed = read(folder, earlier=earlier)["files"]
        for name, (size, crc) in sealed.items():
            path = folder / name
            parents = [folder / parent for parent in PurePosixPath(name).parents][:-1]
            if any(part.is_symlink() for part in (path, *parents)):
                return f"{name} is a link, whose target is not sealed"
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes, {size} were written"
            if deep and fingerprint(path) != (size, crc):
                return f"{name} does not hold what was written"
    except (SealError, OSError, ValueError) as error:  # a name with a null byte is a ValueError
        return str(error)
    return None


def write(path: Path, text: str) -> None:
    """Write a file that is, whatever happens, the old one or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}{ASIDE}")
    try:
        with aside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise


def fingerprint(path: Path) -> tuple[int, int]:
    """Size in bytes and CRC-32 of a file."""
    size = crc = 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc


def checksum(content: Mapping[str, Any]) -> int:
    """CRC-32 of content as JSON."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _sync(folder: Path) -> None:
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)

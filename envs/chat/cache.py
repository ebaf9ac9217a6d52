"""Answers of language models on disk: what was asked once is not asked again.

A file holds one answer, under the hash of question and settings. Several processes may share a folder: a file
is the old one or the new one, never half of one. What is damaged is not there.
"""

import json
import os
import threading
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

_SHARDS = 256
_LARGEST = 1 << 20  # bytes of one answer


class Cache:
    """A folder of answers.

    Args:
        folder: Folder, made when the first answer comes.
        most: Number of answers that are kept, in about: the least recently used ones make room.

    Raises:
        ValueError: the folder is a file.
    """

    def __init__(self, folder: Path | str, most: int = 100_000) -> None:
        self.folder, self.most = Path(folder), most
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"cache={self.folder} is a file; name a folder")
        self._room = -(-most // _SHARDS)

    def get(self, key: str) -> dict[str, Any] | None:
        """The value under a key; None where there is none, or no whole one."""
        path = self._path(key)
        try:
            if path.stat().st_size > _LARGEST:
                return None
            content = path.read_bytes()
            crc, _, told = content.partition(b"\n")
            if int(crc, 16) != _sum(key, told):
                return None
            value = json.loads(told)
            os.utime(path)
        except (OSError, ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Keep a value of JSON; on a full or read-only disk it is not kept, and nothing else happens."""
        told = json.dumps(value).encode()
        path = self._path(key)
        aside = path.with_name(f".{key}.{os.getpid()}.{threading.get_ident()}")
        if len(told) + 10 > _LARGEST:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(b"%08x\n%s" % (_sum(key, told), told))
            aside.replace(path)
            self._make_room(path.parent)
        except OSError:
            with suppress(OSError):
                aside.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def _make_room(self, shard: Path) -> None:
        """Remove the least recently used answers of one of the 256 folders, and what killed writers left."""
        found = []
        with os.scandir(shard) as entries:
            for entry in entries:
                with suppress(OSError):  # another process may have removed it
                    found.append((entry.stat().st_mtime_ns, entry.path))
        if len(found) > self._room:
            for _, path in sorted(found)[: len(found) - self._room]:
                with suppress(OSError):
                    os.unlink(path)


def _sum(key: str, told: bytes) -> int:
    """Checksum of an answer and of the name that it stands under."""
    return zlib.crc32(told, zlib.crc32(key.encode()))

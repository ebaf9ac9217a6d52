"""Checkpoints with code in their files, and disks that are full."""

import pickle
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from recrl.envs.storage import sealed


class Poison:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return open, (str(self.marker), "w")


def plant(file: Path, marker: Path) -> None:
    """Put code into a file, in the format that it has: what torch wrote keeps the rest of its content."""
    if file.suffix in (".pt", ".pth"):
        content = torch.load(file, map_location="cpu", weights_only=False)
        torch.save({**content, "planted": Poison(marker)}, file)
    else:
        file.write_bytes(pickle.dumps(Poison(marker)))


def seal_again(folder: Path) -> None:
    """As somebody does who has changed files and wants it to go unnoticed."""
    facts = sealed.read(folder)
    del facts["files"]
    aside = folder.with_name(f"{folder.name}.aside")
    folder.rename(aside)
    (aside / sealed.MANIFEST).unlink()
    sealed.publish(aside, folder, facts, sealed.seal(aside, sealed.files(aside)))


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files cannot grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

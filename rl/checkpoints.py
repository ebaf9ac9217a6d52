"""Checkpoints that are whole or not there.

A checkpoint is written aside, sealed with a manifest of its files, and renamed to ``checkpoint-N``: a process
that is killed, or a disk that is full, leaves the earlier ones as they were. What a copy or a bad disk did to
one afterwards is found by the manifest.

``seal``       fingerprints of a process's share of the files
``publish``    the manifest, and the name that others see
``newest``     where a run goes on
``check``      whether these processes can go on from a checkpoint
"""

import json
import logging
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"

_BLOCK = 1 << 22  # bytes

# File -> size in bytes and CRC-32.
Fingerprints = Mapping[str, tuple[int, int]]


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or cannot be gone on from; the message names it and the fix."""


@dataclass(frozen=True)
class Manifest:
    """What a whole checkpoint says of itself.

    Attributes:
        step: Optimiser steps before it.
        processes: That wrote it.
        strategy: How they shared the work: ``zero1``, ``zero2``, ``zero3``, ``fsdp``, or ``replicated`` where
            each holds everything.
        seconds: That writing it took.
        files: Of which it consists, itself left out.
    """

    step: int
    processes: int
    strategy: str
    seconds: float
    files: Fingerprints


def seal(folder: Path, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Fingerprints of files, which are on the disk when this returns."""
    found = {}
    for name in names:
        with (folder / name).open("rb") as stream:
            os.fsync(stream.fileno())
            found[name] = _fingerprint(folder / name)
    return found


def files(folder: Path) -> list[str]:
    """Names of all files below a folder."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST
    )


def publish(written: Path, checkpoint: Path, manifest: Manifest) -> None:
    """Give a checkpoint that was written aside its manifest and its name."""
    with (written / MANIFEST).open("w") as stream:
        stream.write(json.dumps(asdict(manifest), indent=1))
        stream.flush()
        os.fsync(stream.fileno())
    if checkpoint.exists():  # torn, or of a run that went on from an earlier one
        shutil.rmtree(checkpoint)
    written.rename(checkpoint)
    directory = os.open(checkpoint.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a folder; newer ones that are torn are named in a warning."""
    numbered = {
        step: path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if (step := _step(path)) >= 0
    }
    for step in sorted(numbered, reverse=True):
        why = fault(numbered[step])
        if why is None:
            return numbered[step]
        logger.warning("%s is skipped: %s", numbered[step], why)
    return None


def fault(checkpoint: Path) -> str | None:
    """Why a checkpoint is not whole; None if it is."""
    try:
        manifest = read(checkpoint)
    except CheckpointError as error:
        return str(error)
    for name, expected in manifest.files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected[0]:
            return f"{name} has {path.stat().st_size} bytes, {expected[0]} were written"
        if _fingerprint(path) != expected:
            return f"{name} does not hold what was written"
    return None


def read(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint.

    Raises:
        CheckpointError: it has none, or one that cannot be read.
    """
    path = checkpoint / MANIFEST
    try:
        found = json.loads(path.read_text())
        found["files"] = {name: (size, crc) for name, (size, crc) in found["files"].items()}
        return Manifest(**found)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: its writing did not come to an end") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def check(checkpoint: Path, processes: int, strategy: str) -> Manifest:
    """The manifest of a checkpoint that these processes can go on from.

    Raises:
        CheckpointError: it is not whole, or its shards fit other processes only.
    """
    why = fault(checkpoint)
    if why is not None:
        raise CheckpointError(
            f"{checkpoint} cannot be gone on from: {why}. --resume auto takes the newest whole one"
        )
    manifest = read(checkpoint)
    before, now = (manifest.strategy, manifest.processes), (strategy, processes)
    if before != now and {before[0], now[0]} != {"replicated"}:
        raise CheckpointError(
            f"{checkpoint} was written by {before[1]} processes with {before[0]}, and {now[1]} with {now[0]} "
            f"cannot read its shards; go on with {before[1]} processes and {before[0]}, or start anew from "
            f"its weights with policy={checkpoint}. Checkpoints of ddp go on with any number of processes"
        )
    return manifest


def _fingerprint(path: Path) -> tuple[int, int]:
    size = crc = 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc


def _step(path: Path) -> int:
    """Of a checkpoint's folder; negative for another one."""
    number = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
    return int(number) if number.isdecimal() else -1

"""Checkpoints that are whole or not there, and whose files run no code.

A checkpoint is a sealed folder (:mod:`recrl.envs.storage.sealed`) with the name ``checkpoint-N``. One that a
copy or a bad disk damaged is found by its manifest and passed over. Planted code is refused where it is read:
a manifest does not help, since whoever writes the files writes the manifest.

``publish``  the manifest, and the name that others see
``newest``   where a run goes on
``check``    whether these processes can go on from a checkpoint
``reading``  the context in which one is read
``tidy``     what a process that was killed left behind
"""

import logging
import os
import pickle
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ...envs.faults import MendableError
from ...envs.storage import sealed
from ...envs.storage.sealed import MANIFEST, SealError

logger = logging.getLogger(__name__)

ASIDE = ".writing"
"""Folder beside the checkpoints that holds one while it is written."""

# Files of FSDP's checkpoints that torch reads with pickle's own loader, and all that they may hold.
_METADATA = "*.metadata"
_DCP = "torch.distributed.checkpoint"
_OF_FSDP = {
    f"{_DCP}.metadata": (
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "BytesStorageMetadata"),
        *("ChunkStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING"),
    ),
    f"{_DCP}.filesystem": ("_StorageInfo", "_StoragePrefix"),
    "torch": ("Size", "device"),
    "torch.serialization": ("_get_layout",),
    "collections": ("OrderedDict",),
    "pathlib": ("PosixPath", "Path"),
}

# If the first is set, torch reads tensors and plain values only; the second would allow anything.
_VALUES, _ANYTHING = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


class CheckpointError(MendableError, RuntimeError):
    """A checkpoint could not be written, or cannot be gone on from; the message names it and the fix."""


@dataclass(frozen=True)
class Manifest:
    """Facts that a whole checkpoint states of itself.

    Attributes:
        step: Optimiser steps before it.
        processes: Number of processes that wrote it.
        strategy: How they shared the work: ``zero0`` to ``zero3``, ``fsdp``, or ``replicated`` where each
            holds everything.
        seconds: Time that writing it took.
        files: Files of the checkpoint but for the manifest: name -> size in bytes and CRC-32.
    """

    step: int
    processes: int
    strategy: str
    seconds: float
    files: Mapping[str, tuple[int, int]]

    def __post_init__(self) -> None:
        counts = [(self.step, 0), (self.processes, 1)]
        possible = all(type(count) is int and count >= least for count, least in counts)
        if not possible or not re.fullmatch("replicated|fsdp|zero[0-3]", str(self.strategy)):
            raise ValueError(f"step={self.step!r}, processes={self.processes!r}, strategy={self.strategy!r}")


_FACTS = tuple(field.name for field in fields(Manifest) if field.name != "files")


def publish(written: Path, checkpoint: Path, manifest: Manifest) -> None:
    """Give a checkpoint that was written aside its manifest and its name."""
    facts = asdict(manifest)
    files = facts.pop("files")
    sealed.publish(written, checkpoint, facts, files)


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a folder; newer ones that are torn are named in a warning."""
    numbered = {
        step: path
        for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if (step := _step(path.name)) is not None
    }
    for step in sorted(numbered, reverse=True):
        why = fault(numbered[step])
        if why is None:
            return numbered[step]
        logger.warning("%s is skipped: %s", numbered[step], why)
    return None


def tidy(folder: Path) -> None:
    """Remove what a process that was killed left among the checkpoints of a run."""
    sealed.remove(folder / ASIDE)


def fault(checkpoint: Path) -> str | None:
    """Reason why a checkpoint is not whole; None if it is."""
    try:
        read(checkpoint)
    except CheckpointError as error:
        return str(error)
    return sealed.fault(checkpoint, earlier=_FACTS)


def read(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint.

    Raises:
        CheckpointError: it has none, or one that cannot be trusted.
    """
    try:
        manifest = Manifest(**sealed.read(checkpoint, earlier=_FACTS))
    except SealError as error:
        raise CheckpointError(str(error)) from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint / MANIFEST} cannot be read: {error}") from error
    if why := _contradiction(checkpoint, manifest):
        raise CheckpointError(f"{checkpoint}/{why}")
    return manifest


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
    for path in checkpoint.rglob(_METADATA):
        with reading(checkpoint, str(path.relative_to(checkpoint))), path.open("rb") as stream:
            _Allowed(stream).load()
    return manifest


@contextmanager
def reading(checkpoint: str | Path | None, part: str) -> Iterator[None]:
    """Context for reading a part of a checkpoint: no code in it runs, and errors are one line.

    Transformers, accelerate and DeepSpeed read with ``torch.load``, DeepSpeed its shards with
    ``weights_only=False``; torch's own switch overrules that. It is set only while reading: a reward may load
    what it likes while the run goes on.

    Args:
        checkpoint: Folder of the checkpoint; None if there is nothing to read.
        part: Name of the part, for the message.

    Raises:
        CheckpointError: it cannot be read.
    """
    if checkpoint is None:
        yield
        return
    before = {name: os.environ.pop(name, None) for name in (_VALUES, _ANYTHING)}
    os.environ[_VALUES] = "1"
    try:
        with torch.serialization.safe_globals(_of_deepspeed()):
            yield
    except (CheckpointError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise CheckpointError(f"{checkpoint} cannot be gone on from: {part}: {_said(error)}") from error
    finally:
        del os.environ[_VALUES]
        os.environ.update({name: value for name, value in before.items() if value is not None})


class _Allowed(pickle.Unpickler):
    """Reads what torch writes of tensors that are sharded by FSDP, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        known = name in _OF_FSDP.get(module, ())
        if known or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {module}.{name} was not allowed")


def _of_deepspeed() -> list[Any]:
    """Types in the shards of ZeRO, which hold figures and do nothing; none without DeepSpeed."""
    if "deepspeed" not in sys.modules:
        return []
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]


def _said(error: Exception) -> str:
    """An error in one line, without torch's advice to read the file nevertheless."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError):
        if planted := re.search(r"GLOBAL (\S+)", text):
            return f"it would call {planted[1]}, which no checkpoint needs; use one whose origin you trust"
        if inner := re.search(r"WeightsUnpickler error: (.+)", text):
            text = inner[1]
    return f"{type(error).__name__}: {next(iter(text.splitlines()), '')}"


def _contradiction(checkpoint: Path, manifest: Manifest) -> str | None:
    """What contradicts the manifest: the folder's name, or what transformers wrote; None if nothing does."""
    named = _step(checkpoint.name)
    if named is not None and named != manifest.step:
        return f"{MANIFEST} is of step {manifest.step}"
    if TRAINER_STATE_NAME not in manifest.files:
        return f"{TRAINER_STATE_NAME} is missing"
    try:
        found = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).global_step
    except Exception as error:  # whatever JSON can be
        return f"{TRAINER_STATE_NAME} cannot be read: {error}"
    return None if found == manifest.step else f"{TRAINER_STATE_NAME} is of step {found}, not {manifest.step}"


def _step(name: str) -> int | None:
    """Step in the name of a checkpoint's folder; None for another name."""
    found = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(0|[1-9][0-9]{{0,17}})", name)
    return int(found[1]) if found else None

"""The processes of a run, and launches that would quietly be something else."""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object

from ...envs.faults import MendableError

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds; processes of several machines with one home start together.
_YOUNG = 30.0

# Set by whatever starts several processes: torch, Open MPI, MPICH, MVAPICH.
_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


class LaunchError(MendableError, RuntimeError):
    """The processes are not what the launch asked for, or cannot work; the message names the fix."""


def distributed_state(timeout: float = 1800.0) -> PartialState:
    """State of the processes that take part; without a GPU they talk over gloo.

    Args:
        timeout: Seconds after which a collective fails that not all processes have come to; the first call's
            value counts.

    Raises:
        LaunchError: accelerate was asked for something that it would silently replace.
    """
    on_cpu = not torch.cuda.is_available()
    check_launch(on_cpu)
    if asked("ACCELERATE_USE_DEEPSPEED"):
        free_build_locks()
        if on_cpu:
            _without_compiler()
    return PartialState(cpu=on_cpu, timeout=timedelta(seconds=timeout))


def on_all_or_none(work: Callable[[], T], failure: type[Exception]) -> T:
    """Do this rank's part of something; if it fails on one rank, all stop together.

    A rank that failed alone would leave the others waiting for it.

    Args:
        failure: Exception to raise where it did not fail; its argument is the message of the first that did.
    """
    fault: Exception | None = None
    try:
        found = work()
    except Exception as error:
        fault = error
    faults = [text for text in gather_object([None if fault is None else str(fault)]) if text is not None]
    if faults:
        raise fault or failure(f"on another rank: {faults[0]}")
    return found


def leave() -> None:
    """Wait for the other processes and end the talk with them, as the last thing that a program does.

    The threads and callbacks of a process group that outlives the interpreter can abort a process whose work
    is done; its machine then counts as failed, and the launcher of the first one waits for it for minutes.
    """
    state = PartialState()
    state.wait_for_everyone()
    state.destroy_process_group()


def whole(parameters: Sequence[torch.Tensor], accelerator: Accelerator) -> AbstractContextManager[Any]:
    """Context in which parameters are whole; where ZeRO-3 shards them, every process has to enter it."""
    plugin = accelerator.state.deepspeed_plugin if hasattr(accelerator.state, "deepspeed_plugin") else None
    if plugin is None or plugin.zero_stage != 3:
        return nullcontext()
    from deepspeed import zero

    return zero.GatheredParameters(list(parameters))


@contextmanager
def unsharded() -> Iterator[None]:
    """Context in which a process may load a whole model of its own, also while ZeRO-3 shards another."""
    from transformers.integrations import deepspeed

    kept = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = kept


def check_launch(on_cpu: bool) -> None:
    """Refuse a launch that accelerate would start as something else.

    Raises:
        LaunchError: several processes of which one was started, or FSDP without a GPU, which is DDP.
    """
    started = any(name in os.environ for name in _SIZES)
    # Only accelerate's launcher of a single process sets this, and the address if it was asked for more.
    if asked("ACCELERATE_USE_CPU") and "MASTER_ADDR" in os.environ and not started:
        raise LaunchError(
            "accelerate was asked for several processes and started one: distributed_type MULTI_CPU and "
            "--cpu do that. Use distributed_type: MULTI_GPU, which works without a GPU too, as in "
            "configs/accelerate/ddp.yaml"
        )
    if on_cpu and asked("ACCELERATE_USE_FSDP"):
        raise LaunchError(
            "distributed_type FSDP without a GPU is silently DDP; use configs/accelerate/ddp.yaml or one of "
            "zero1, zero2 and zero3"
        )


def asked(name: str) -> bool:
    """Whether an environment variable of accelerate is set to true."""
    return os.environ.get(name, "").lower() in ("1", "true", "yes")


def free_build_locks(root: Path | None = None) -> None:
    """Remove locks of compilations that were killed: every later start would wait for them for good.

    DeepSpeed compiles by torch, whose lock is a file. Whoever compiles has it open; a lock that nobody here
    has open may be another machine's while it is young.

    Args:
        root: Folder of compiled extensions; by default torch's.
    """
    if root is None:
        from torch.utils.cpp_extension import get_default_build_root

        root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for lock in (*root.glob("*/lock"), *root.glob("*/*/lock")):
        with suppress(OSError):
            if time.time() - lock.stat().st_mtime > _YOUNG and not _is_open(lock):
                logger.warning("%s is of a compilation that was killed, and is removed", lock)
                lock.unlink()


def _is_open(path: Path) -> bool:
    """Whether a process of this machine that this user can look into has a file open."""
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if handle.readlink() == path:
                return True
    return False


def _without_compiler() -> None:
    """Keep DeepSpeed from compiling collectives over shared memory where there is no compiler: gloo does the
    same work."""
    if not all(shutil.which(tool) for tool in (os.environ.get("CXX", "g++"), "ninja")):
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

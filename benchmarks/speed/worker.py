"""One kind of one cell in a process of its own: makes its trainer and takes a step whenever it is told to.

Memory of one kind cannot hide in another's, and a step starts only when no other worker runs. Messages to
the parent are pairs: ``(READY, Start)`` once, ``(STEP, Step)`` for each step, and instead of either ``(FAULT,
text)`` or, for a GPU whose memory does not suffice, ``(OUT_OF_MEMORY, text)``.
"""

import os
import signal
import threading
import traceback
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path

from .cells import Cell

READY, STEP, OUT_OF_MEMORY, FAULT, GO = "ready", "step", "out of memory", "fault", "go"
LOG = "log"


@dataclass(frozen=True)
class Job:
    """What a worker does."""

    kind: str
    cell: Cell
    policy: Path
    """Folder of weights and tokenizer."""
    output: Path
    """Scratch folder of this worker; ``LOG`` in it holds what it printed."""
    steps: int
    seed: int
    device: str
    threads: int


@dataclass(frozen=True)
class Start:
    """A worker before its first step."""

    memory: int
    """Bytes in main memory, libraries and model included."""


@dataclass(frozen=True)
class Step:
    """One step, in seconds unless it says otherwise."""

    whole: float
    """From its beginning to after the optimiser's step."""
    rollout: float
    """Generation alone."""
    inputs: float
    """Generation, rewards, advantages and, where needed, old and reference log-probabilities."""
    forward_backward: float
    answer_tokens: float
    """Mean length of the answers."""
    peak: int
    """Most bytes in main memory so far, as the operating system counts."""
    device_peak: int | None
    """Most bytes that tensors took on the GPU so far."""
    full_rows: str | None
    """Why the forward passes read a prompt once for each answer; None when they read it once."""
    parts: dict[str, float]
    """What recrl's trainer says about the step, by the names of its metrics ``time/*``; empty for TRL's."""


def serve(job: Job, connection: Connection) -> None:
    """Main function of the process: one step for each ``GO``."""
    # Ctrl-C reaches every process of the terminal; the parent decides what follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    log = os.open(job.output / LOG, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(log, stream)
    # Here: what is imported reads the variables, and the log has their warnings.
    os.environ["HF_HUB_OFFLINE"] = "1"
    if job.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        from . import steps

        steps.take(job, connection)
    except Exception as error:
        # By name: only a worker that came that far has imported torch.
        what = OUT_OF_MEMORY if type(error).__name__ == "OutOfMemoryError" else FAULT
        connection.send((what, traceback.format_exc()))


def _end_with_parent() -> None:
    """A parent that was killed cannot end its workers: each watches for itself."""
    parent = parent_process()
    assert parent is not None, "a worker is started by a parent"
    wait([parent.sentinel])
    os._exit(1)

"""One kind of one cell in a process of its own: it makes its trainer and takes a step when it is told to.

Memory of one kind cannot hide in another's, and a step starts only when no other worker runs. Messages to
the parent are pairs: ``(READY, Start)`` once, ``(STEP, Step)`` or ``(STEP, Sampled)`` for each step, and
instead of either ``(FAULT, text)`` or, for a GPU whose memory does not suffice, ``(OUT_OF_MEMORY, text)``.
"""

import os
import signal
import threading
import traceback
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait

from recrl.rl.trainer.without_vllm import import_trl

from .messages import FAULT, LOG, OUT_OF_MEMORY, Job


def serve(job: Job, connection: Connection) -> None:
    """Main function of the process: one step for each ``GO``."""
    # Ctrl-C reaches every process of the terminal; the parent decides what follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    log = os.open(job.output / LOG, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(log, stream)
    # Imports follow: they read the variables, and the log has their warnings.
    os.environ["HF_HUB_OFFLINE"] = "1"
    if job.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        if job.cell.samples:
            from . import answers

            answers.take(job, connection)
        else:
            import_trl()
            from . import steps

            steps.take(job, connection)
    except Exception as error:
        # The error is known by its name: only a worker that came that far has imported torch.
        what = OUT_OF_MEMORY if type(error).__name__ == "OutOfMemoryError" else FAULT
        connection.send((what, traceback.format_exc()))


def _end_with_parent() -> None:
    """Watch for the parent's end: one that was killed cannot end its workers."""
    parent = parent_process()
    assert parent is not None, "a worker is started by a parent"
    wait([parent.sentinel])
    os._exit(1)

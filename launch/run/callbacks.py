"""What a run does after each step of its training.

``Recorder``   writes ``metrics.jsonl`` and moves the display
``Interrupt``  stops all processes at the same step when one of them got a signal
``StepLog``    a file of JSON lines, one a step, which a resumed run goes on with
``read_steps`` its lines
"""

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from ...envs.storage.sealed import write
from ...rl.trainer.constrained import ConstrainedGRPOTrainer
from ..signals import Stop

logger = logging.getLogger(__name__)


class StepLog:
    """JSON lines, one a step.

    Args:
        path: Path of the file; its lines of steps from the first one written on are replaced.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun = False

    def begin(self, first: int) -> None:
        """Keep the lines of earlier steps than ``first``; the last may be half a line."""
        if self._path.exists():
            whole = self._path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            numbered = enumerate(whole, start=1)
            damaged = [i for i, line in numbered if line.endswith("\n") and _step(line) is None]
            if damaged:
                told = (self._path, damaged[0], len(damaged))
                logger.warning("%s, line %d: damaged lines are left out, %d in all", *told)
            write(self._path, "".join(line for line in whole if _earlier(line, first)))
        self._begun = True

    def append(self, step: int, values: dict[str, Any]) -> None:
        """Write the line of a step."""
        if not self._begun:
            self.begin(step)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")

    def sync(self) -> None:
        """Bring what was written to the disk, before a checkpoint relies on it."""
        if self._path.exists():
            with self._path.open("rb") as stream:
                os.fsync(stream.fileno())


def read_steps(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a file that :class:`StepLog` writes; none without one."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return [json.loads(line) for line in lines if _earlier(line, sys.maxsize)]


def _earlier(line: str, first: int) -> bool:
    step = _step(line)
    return step is not None and step < first


def _step(line: str) -> int | None:
    """Step of a line; None for one that is not whole."""
    try:
        found = json.loads(line)["step"] if line.endswith("\n") else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if type(found) is int else None


class Recorder(TrainerCallback):
    """Appends every log to ``metrics.jsonl`` and moves the display.

    Args:
        path: ``metrics.jsonl``; steps after the checkpoint that a run goes on from are written anew.
        advance: Function that moves the display.
        first: Number of steps of that checkpoint.
    """

    def __init__(self, trainer: ConstrainedGRPOTrainer, path: Path, advance: Any, first: int) -> None:
        self.trainer, self.log, self.advance = trainer, StepLog(path), advance
        if trainer.accelerator.is_main_process:
            self.log.begin(first + 1)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if not state.is_world_process_zero or not logs or "objective" not in logs:
            return
        rows = self.trainer.duals.report()
        statuses = {f"constraint/{row.name}/status": row.status for row in rows}
        for row in rows:
            if row.status == "infeasible_suspected":
                statuses[f"constraint/{row.name}/explanation"] = row.explanation()
        self.log.append(state.global_step, {**logs, **statuses})
        # None where no answer of the batch has a score.
        objective = "no score" if logs["objective"] is None else f"{logs['objective']:.3f}"
        self.advance(state.global_step, f"{self.trainer.problem.objective} {objective}", tuple(rows))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.log.sync()


class Interrupt(TrainerCallback):
    """Ctrl-C or SIGTERM: finish the step, write a checkpoint, stop.

    Args:
        stop: The wish of this process's user.

    Attributes:
        agreed: The signal that all processes stop for, at the same step, whichever got it.
    """

    def __init__(self, trainer: ConstrainedGRPOTrainer, stop: Stop) -> None:
        self.trainer, self.stop = trainer, stop
        self.agreed: signal.Signals | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        accelerator = self.trainer.accelerator
        received = torch.tensor([int(self.stop.received or 0)], device=accelerator.device)
        number = int(accelerator.gather(received).max())
        if number:
            self.agreed = signal.Signals(number)
            control.should_save = control.should_training_stop = True

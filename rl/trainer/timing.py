"""Time of the parts of a training step.

It is wall time of the host. A GPU runs behind: its work is counted where the host next waits for it, which
within a rollout, a reward or an optimiser step happens before the part ends.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

from transformers import TrainerCallback

Part = Literal[
    "rollout",
    "weight_sync",
    "rewards",
    "constraints",
    "old_and_reference",
    "forward_backward",
    "optimizer_step",
    "other",
]
PARTS: tuple[Part, ...] = get_args(Part)


class StepClock(TrainerCallback):
    """Seconds of each part of a step; a part that runs inside another is not counted twice.

    Attributes:
        step: Seconds by part since the last optimiser step; what no part claims is ``other``.
        total: Seconds by part since the start.
    """

    def __init__(self, metrics: dict[str, Any]) -> None:
        self.step = dict.fromkeys(PARTS, 0.0)
        self.total = dict.fromkeys(PARTS, 0.0)
        self._metrics = metrics
        self._inside: list[Part] = ["other"]
        self._since = time.perf_counter()

    @contextmanager
    def part(self, name: Part) -> Iterator[None]:
        """Count what runs inside as ``name``."""
        self._switch()
        self._inside.append(name)
        try:
            yield
        finally:
            self._switch()
            self._inside.pop()

    def rest(self, name: Part) -> None:
        """Count what no part claims as ``name`` until the step ends."""
        self._switch()
        self._inside[0] = name

    def _switch(self) -> None:
        now = time.perf_counter()
        self.step[self._inside[-1]] += now - self._since
        self._since = now

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._since = time.perf_counter()
        self.step = dict.fromkeys(PARTS, 0.0)

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        """Go on: the gradient accumulates further."""
        self.rest("other")

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Log the step, now that the optimiser has stepped. Logging and saving count for the next one."""
        self.rest("other")
        for name, seconds in self.step.items():
            self.total[name] += seconds
            self._metrics["train"][f"time/{name}"].append(seconds)
        self.step = dict.fromkeys(PARTS, 0.0)

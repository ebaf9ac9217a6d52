"""What TensorBoard gets of a training: the metrics of every step, under names that its filter can pick.

``metrics.jsonl`` names a constraint by what it says (``constraint/novelty >= 0.3/slack``); TensorBoard has
``constraint/novelty/slack`` in place of that, and the bound as a value of its own.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from transformers.integrations import TensorBoardCallback

from ..optimizer.constraints import Constraint
from ..optimizer.duals import ConstraintReport

_PREFIX = "constraint/"


def short_names(constraints: Sequence[Constraint]) -> dict[str, str]:
    """Name of a constraint -> its reward, with as much else as tells it from others."""
    short = {c.name: "-".join(_parts(c)) for c in constraints}
    taken = Counter(short.values())
    ends = {c.name: "least" if c.sense == ">=" else "most" for c in constraints}
    short = {name: f"{of}-{ends[name]}" if taken[of] > 1 else of for name, of in short.items()}
    taken = Counter(short.values())
    return {name: of if taken[of] == 1 else name for name, of in short.items()}


def _parts(constraint: Constraint) -> list[str]:
    return [
        constraint.reward,
        *([constraint.segment.value] if constraint.segment is not None else []),
        *([constraint.kind] if constraint.kind != "mean" else []),
    ]


class FilterableTensorBoard(TensorBoardCallback):
    """Callback of transformers that writes short names.

    Args:
        constraints: Constraints of the training.
        report: Function that reports their state.
    """

    def __init__(
        self, constraints: Sequence[Constraint], report: Callable[[], Sequence[ConstraintReport]]
    ) -> None:
        super().__init__()
        self._names, self._report = short_names(constraints), report

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        renamed = {self._renamed(key): value for key, value in (logs or {}).items() if value is not None}
        if logs and "objective" in logs:
            renamed |= {f"{_PREFIX}{self._names[row.name]}/bound": row.bound for row in self._report()}
        super().on_log(args, state, control, logs=renamed, **options)

    def _renamed(self, key: str) -> str:
        name, slash, field = key.removeprefix(_PREFIX).rpartition("/")
        if not key.startswith(_PREFIX) or name not in self._names:
            return key
        return f"{_PREFIX}{self._names[name]}{slash}{field}"

"""What TensorBoard gets of a run besides its training: warm start, evaluation and some answers.

Each stage is a folder beside the training's events, below ``checkpoints/runs``.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...envs.task import Task

_RUNS = Path("checkpoints") / "runs"


@contextmanager
def events(run: Path, stage: str, trackers: Sequence[str]) -> Iterator[Any]:
    """Writer of a stage's events; None where ``train.report_to`` does not name TensorBoard."""
    if "tensorboard" not in trackers:
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter  # a second, which other commands need not wait for

    writer: Any = SummaryWriter(str(run / _RUNS / stage), flush_secs=10)
    try:
        yield writer
    finally:
        writer.close()


def write_evaluation(
    writer: Any, result: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], task: type[Task], step: int
) -> None:
    """Write means of rewards and metrics by policy, and the answers that a report shows.

    Args:
        result: Content of ``evaluation.json``.
        examples: Content of ``examples.json``.
        step: Number of training steps.
    """
    for population, found in result["populations"].items():
        means = {
            f"sampled/{reward}/{policy}": row["mean"]
            for reward, by_policy in found["sampled"]["rewards"].items()
            for policy, row in by_policy.items()
            if row  # else no answer has a score
        }
        means |= {
            f"deployed/{metric}/{policy}": row["mean"]
            for policy, metrics in found["deployed"]["metrics"].items()
            for metric, row in metrics.items()
        }
        for name, mean in means.items():
            writer.add_scalar(f"{population}/{name}".replace(" ", "_"), mean, step)
    for number, example in enumerate(examples, 1):
        writer.add_text(f"answers/{number}", "\n".join(task.shown(example)), step)

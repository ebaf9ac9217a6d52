"""Who takes part in ``recrl ab``: a baseline by its name, or the policy of a finished run.

``Parties``  the task that both answer, and the two arms
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...envs import task as tasks
from ...envs.simulator.arms import Arm, answering, baseline, check
from ...envs.tags.task import Tags
from ...envs.task import evenly
from ..config.schema import RunConfig
from ..run.finished import finished_policy
from ..run.progress import Display
from .named import TASK


@dataclass(frozen=True)
class Parties:
    """The task, and who answers it.

    Attributes:
        task: Task of both.
        arms: The first and the second.
        floors: Bounds that ``quota`` meets.
    """

    task: Tags
    arms: tuple[Arm, Arm]
    floors: dict[str, float]

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        configs: dict[str, RunConfig],
        origin: int,
        which: str,
        output: Path,
        shoppers: int | None = None,
    ) -> "Parties":
        """Make both arms.

        Args:
            origin: First week, for whose users a run's prices are fitted.
            output: Folder in which answers of policies are kept.
            shoppers: Largest number of users that prices are fitted on; None for all.

        Raises:
            SimulatorError: as of :func:`recrl.envs.simulator.arms.check`.
        """
        config = configs[TASK]
        task = check(tasks.make(config.task, config.data))
        floors = dict(config.floors)
        arms = [
            _policy(name, configs[name], task, origin, which, output, shoppers)
            if name in configs
            else baseline(name, task, floors)
            for name in names
        ]
        return cls(task, (arms[0], arms[1]), floors)


def _policy(
    name: str,
    config: RunConfig,
    task: Tags,
    origin: int,
    which: str,
    output: Path,
    shoppers: int | None,
) -> Arm:
    """The deployed lists of a run, under prices by which its constraints hold for the users of the start."""
    from ..run.recommending import FITTED_ON, Recommending

    folder = finished_policy(Path(name), which)
    task = task.as_trained(config.folder)
    audience = task.audience(task.data.panel.monday(origin))
    fitted = evenly(len(audience.names), min(FITTED_ON, shoppers or FITTED_ON))
    answers = output / "answers" / f"{Path(name).resolve().name}-{which}"
    answers.mkdir(parents=True, exist_ok=True)
    asked = Recommending(config, task, audience, fitted, folder, answers, Display(enabled=False))
    prices = asked.fit()
    return answering(name, task, lambda rows: asked.answers(rows, prices.priced))

"""The parties of ``recrl ab`` as they are named, told apart and refused before anything heavy is imported.

``is_run``      whether a party is a run folder
``configured``  the configuration of every run, and of the task
"""

from collections.abc import Sequence
from pathlib import Path

from ..config.reading import load
from ..config.schema import ConfigError, RunConfig
from ..run.finished import finished_policy

TASK = ""
"""Name under which the configuration of the task stands."""


def is_run(name: str) -> bool:
    """Whether a party is a run folder rather than a baseline."""
    return (Path(name) / "config.yaml").is_file() or "/" in name


def configured(
    names: Sequence[str], config: str, overrides: Sequence[str], which: str
) -> dict[str, RunConfig]:
    """Configuration of every party that is a run, and of the task (:data:`TASK`).

    Args:
        config: Configuration of the task where no party is a run; else the first run says.

    Raises:
        ConfigError: a run is not finished, or two runs answer different tasks.
    """
    runs = {}
    for name in dict.fromkeys(names):
        if is_run(name):
            finished_policy(Path(name), which)
            runs[name] = load(str(Path(name) / "config.yaml"), [f"output={name}"])
    first = next(iter(runs.values())) if runs else load(config, overrides)
    for name, found in runs.items():
        if (found.task, found.data) != (first.task, first.data):
            raise ConfigError(
                f"{name} answers another task, or other data, than {next(iter(runs))}; compare runs whose "
                "sections task and data are the same"
            )
    return {**runs, TASK: first}

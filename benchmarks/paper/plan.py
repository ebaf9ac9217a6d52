"""The stages of ``paper.yaml``: their commands, and which of them wait for others."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from recrl.launch.config import plain_yaml

from .. import BenchmarkError

COMMITTED = Path(__file__).with_name("paper.yaml")

_FOLDER = re.compile(r"\{(\w+)\}")
_STARTS = {"recrl": ["-m", "recrl.launch.cli"], "python": []}


@dataclass(frozen=True)
class Stage:
    """A stage.

    Attributes:
        name: Its name, and that of its folder.
        commands: Commands, one after the other, with ``{stage}`` for the folder of a stage.
    """

    name: str
    commands: tuple[str, ...]

    @property
    def needs(self) -> set[str]:
        """Stages whose folders its commands read."""
        return {name for one in self.commands for name in _FOLDER.findall(one)} - {self.name}

    def arguments(self, number: int, folders: Mapping[str, Path]) -> list[str]:
        """Arguments of Python for one of its commands."""
        filled = _FOLDER.sub(lambda found: shlex.quote(str(folders[found[1]])), self.commands[number])
        start, *rest = shlex.split(filled)
        return [*_STARTS[start], *rest]


def read(path: Path) -> dict[str, Stage]:
    """Stages of a file, by name.

    Raises:
        BenchmarkError: it is no such file, a command is none of recrl and Python, or names a stage that
            does not come before its own.
    """
    from .tables import TABLES

    known = {*TABLES, "base"}
    try:
        told = plain_yaml.read(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise BenchmarkError(f"--plan {path}: {error}") from error
    stages: dict[str, Stage] = {}
    if not isinstance(told, dict) or (told.keys() - known):
        raise BenchmarkError(f"--plan {path}: give commands by stage; stages: {', '.join(sorted(known))}")
    for name, commands in told.items():
        stage = Stage(name, tuple(commands))
        for command in stage.commands:
            if shlex.split(command)[0] not in _STARTS:
                raise BenchmarkError(f"--plan {path}: {name}: {command}: begin it with recrl or python -m")
        if unknown := stage.needs - stages.keys():
            raise BenchmarkError(
                f"--plan {path}: {name} needs {', '.join(sorted(unknown))}, which come after it"
            )
        stages[name] = stage
    return stages

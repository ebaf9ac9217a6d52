"""Every snippet of docs/agents.md runs, and its keys and commands are there."""

import re
import shlex
from pathlib import Path

from places import ROOT

from recrl.envs import task as tasks
from recrl.envs.agents.settings import ExpertConfig, Mix
from recrl.envs.data.settings import DataConfig
from recrl.launch.config.reading import load
from recrl.launch.run.resources import RESOURCES
from recrl.rewards import RewardEngine

GUIDE = (ROOT / "docs" / "agents.md").read_text()


def test_programs_run():
    names: dict = {}
    for program in re.findall(r"^```python\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL):
        exec(program, names)
    assert names["team"].answered == 2


def test_keys_and_defaults_are_named():
    settings = load("agents", []).task
    assert isinstance(settings, ExpertConfig)
    for key in ("slots", "final", "personas", "clock"):
        assert f"`{key}` {getattr(settings, key):g}" in GUIDE
    assert all(f"`{kind}`" in GUIDE for kind in Mix.model_fields)


def test_commands_train_on_what_rows_hold(cache, panel_task):
    commands = [
        shlex.split(line, comments=True) for line in GUIDE.splitlines() if line.startswith("recrl train")
    ]
    folders = set()
    for _, _, name, *overrides in commands:
        config = load(name, overrides)
        task = tasks.make(config.task, DataConfig(cache=cache))
        # A reward that reads a column which rows lack is refused here.
        RewardEngine(
            config.rewards, resources={**task.resources, **dict.fromkeys(RESOURCES)}, columns=task.names
        )
        folders.add((config.task.use, config.folder))
    assert folders == {("expert", Path("runs/agents")), ("arbiter", Path("runs/arbiter"))}

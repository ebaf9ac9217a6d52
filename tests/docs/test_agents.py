"""Every snippet of docs/agents.md runs, and its keys and commands are there."""

import re

from places import ROOT

from recrl.envs.agents.settings import ExpertConfig, Mix
from recrl.launch.config.reading import load

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
    assert load("agents", ["task.use=arbiter"]).task.use == "arbiter"

"""Every snippet of docs/chat.md runs, in order and in one program; all settings and reasons are named."""

import json
import re

import pytest
import yaml
from places import ROOT

from recrl.envs.chat.models import REASONS
from recrl.envs.chat.settings import ChatConfig
from recrl.launch.config.reading import validate

GUIDE = (ROOT / "docs" / "chat.md").read_text()
SNIPPETS = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
RUN = {"name": "x", "rewards": ["recall"], "optimizer": {"objective": "recall"}}


def test_programs_run():
    programs = [text for kind, text in SNIPPETS if kind == "python"]
    assert len(programs) >= 6
    exec(compile("\n".join(programs), "chat.md", "exec"), {})


@pytest.mark.parametrize("text", [text for kind, text in SNIPPETS if kind == "yaml"])
def test_sections_are_accepted(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reasons.jsonl").write_text(json.dumps({"prompt": "why?"}))
    given = yaml.safe_load(text)
    optimizer = {"objective": "distinct_n"} if "task" in given else RUN["optimizer"]
    validate({**RUN, "optimizer": optimizer, "rewards": [optimizer["objective"]], **given}, "chat.md")


def test_settings_and_reasons_are_named():
    assert [name for name in ChatConfig.model_fields if name not in GUIDE] == []
    assert [reason for reason in REASONS if f"| `{reason}` |" not in GUIDE] == []

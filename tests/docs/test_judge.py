"""Every snippet of the guide to judges runs, in order, in a folder of its own."""

import json
import re
import shlex

import polars as pl
import pytest
import yaml
from places import ROOT
from whole_runs import here

from recrl.launch.judging.labels import Label
from recrl.rewards.judge.suite.families import HELD_OUT, TRAINING

GUIDE = (ROOT / "docs" / "judge.md").read_text()
SNIPPETS = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
PROGRAMS = [text for kind, text in SNIPPETS if kind == "python" and not text.startswith("# ")]
COMMANDS = [line for kind, text in SNIPPETS if kind == "bash" for line in text.splitlines()]
PLOTS = ("macro-f1", "families", "calibration")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With the guide's files; the working folder."""
    for _, text in SNIPPETS:
        if (name := re.match(r"# (\S+\.(?:py|yaml))\n", text)) is not None:
            (tmp_path / name[1]).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_guide_shows_a_rubric_a_checker_a_dimension_and_every_command():
    assert len(PROGRAMS) == 2
    assert [shlex.split(line)[1:3] for line in COMMANDS] == [["judge", "bench"]] * 2 + [
        ["judge", "label"],
        ["judge", "bench"],
    ]
    rubric = next(text for kind, text in SNIPPETS if kind == "yaml")
    assert len(rubric.splitlines()) == 5


@pytest.mark.parametrize("text", PROGRAMS)
def test_a_program_of_the_guide_runs(folder, text):
    exec(compile(text, "judge.md", "exec"), {})


def test_the_guide_names_every_family_and_the_schema_of_ratings():
    for family, learned in (*((one, "yes") for one in TRAINING), *((one, "no") for one in HELD_OUT)):
        assert re.search(rf"^\| {family} \|.*\| {learned} \|$", GUIDE, re.MULTILINE), family
    (told,) = (text for kind, text in SNIPPETS if kind == "json")
    assert set(json.loads(told)) == set(Label.model_fields)
    Label.model_validate_json(told)


@pytest.mark.slow
def test_the_commands_of_the_guide_run(folder, cache, panel_task, monkeypatch):
    answers = iter("basbx")
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    own = {
        "name": "own",
        "task": {"use": "explanations"},
        "rewards": ["claim_count"],
        "optimizer": {"objective": "claim_count"},
        "data": {"cache": str(cache)},
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(own))
    said = []
    for number, command in enumerate(COMMANDS):
        program, *arguments = shlex.split(command)
        assert program == "recrl"
        small = ["--config", "own.yaml", "--pairs", "130"]
        if "bench" in arguments:
            small += ["--steps", "2" if number == 0 else "0"]
        else:
            small += ["--items", "4"]
        said.append(here(*arguments, *small))
        if number == 0:
            first = json.loads((folder / "runs/judge/judge.json").read_text())
    assert "human agreement: not measured" in said[0]
    agent = first["judges"]["agent judge"]
    assert agent["parts"]["held-out families"]["macro-F1"]["value"] > 0.95
    assert agent["injections"]["obeyed"] == 0
    assert agent["coverage"]["value"] == 1
    assert set(first["judges"]) >= {"one pass", "context-blind", "majority", "by length", "by type"}
    assert all((folder / "runs/judge/plots" / f"{name}.png").is_file() for name in PLOTS)
    findings = pl.read_parquet(folder / "runs/judge/findings.parquet")
    assert findings["dimension"].n_unique() == 7
    assert pl.read_parquet(folder / "runs/mine/findings.parquet")["dimension"].n_unique() == 2
    assert "4 of 4 texts graded" in said[2]
    # The replay gives the same figures, and those of the person besides.
    again = json.loads((folder / "runs/judge/judge.json").read_text())
    assert again.pop("human")["grades"] == 4
    assert first.pop("human") is None
    assert again == first
    assert "4 grades of 1 people" in said[3]

"""What the benchmark of judges refuses, and lists of tags; tests/docs/test_judge.py has explanations."""

import json

import pytest
from places import ROOT
from whole_runs import here


def test_a_task_without_facts_has_no_suite(tmp_path):
    sums = [f'{{"prompt": "{i} + 1", "references": ["{i + 1}"]}}\n' for i in range(100)]
    (tmp_path / "sums.jsonl").write_text("".join(sums))
    settings = (f"task.path={tmp_path / 'sums.jsonl'}", "--config", str(ROOT / "configs" / "prompts.yaml"))
    said = here("judge", "bench", *settings, code=2)
    assert "texts of known grades are made of rows of the explanations task" in " ".join(said.split())


def test_judgements_that_are_not_there_are_refused_before_anything_is_read(tmp_path):
    said = here("judge", "bench", "--replay", str(tmp_path / "none.parquet"), code=2)
    assert "no such file" in said


@pytest.mark.slow
def test_judges_are_tested_on_lists_of_tags(tmp_path, cache, panel_task):
    said = here(
        *("judge", "bench", f"data.cache={cache}", "--config", "demo", "--pairs", "80", "--steps", "0"),
        *("--output", str(tmp_path)),
    )
    assert "human agreement: not measured" in said
    found = json.loads((tmp_path / "judge.json").read_text())
    assert found["rubric"] == "tags"
    agent = found["judges"]["agent judge"]
    assert agent["parts"]["all held out"]["macro-F1"]["value"] > 0.95
    assert agent["flips"]["all"]["value"] == 0
    assert agent["injections"]["obeyed"] == 0
    assert found["judges"]["context-blind"]["parts"]["held-out families"]["macro-F1"]["value"] < 0.9
    assert agent["parts"]["held-out authors"]["macro-F1"]["value"] is None

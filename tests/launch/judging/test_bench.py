"""The benchmark of judges on the real panel, small."""

import json

import pytest
import yaml
from whole_runs import here

PLOTS = ("macro-f1", "families", "calibration")


@pytest.mark.slow
def test_the_benchmark_judges_reports_and_replays(tmp_path, cache, panel_task):
    (tmp_path / "own.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "own",
                "task": {"use": "explanations"},
                "rewards": ["claim_count"],
                "optimizer": {"objective": "claim_count"},
                "data": {"cache": str(cache)},
            }
        )
    )
    usual = ("judge", "bench", "--config", str(tmp_path / "own.yaml"), "--pairs", "130", "--steps", "2")
    said = here(*usual, "--output", str(tmp_path / "one"))
    assert "human agreement: not measured" in said
    found = json.loads((tmp_path / "one" / "judge.json").read_text())
    agent = found["judges"]["agent judge"]
    assert agent["parts"]["held-out families"]["macro-F1"]["value"] > 0.95
    assert agent["injections"]["obeyed"] == 0
    assert agent["coverage"]["value"] == 1
    assert set(found["judges"]) >= {"one pass", "context-blind", "majority", "by length", "by type"}
    assert all((tmp_path / "one" / "plots" / f"{name}.png").is_file() for name in PLOTS)
    kept = tmp_path / "one" / "judgements.parquet"
    here(*usual, "--output", str(tmp_path / "two"), "--replay", str(kept))
    assert (tmp_path / "two" / "judge.json").read_bytes() == (tmp_path / "one" / "judge.json").read_bytes()
    assert (tmp_path / "two" / "report.md").read_bytes() == (tmp_path / "one" / "report.md").read_bytes()
    assert "another suite" in here(*usual, "--seed", "1", "--replay", str(kept), code=2)
    assert "no such file" in here(*usual, "--replay", str(tmp_path / "none.parquet"), code=2)


def test_a_task_without_facts_has_no_suite(tmp_path, cache, panel_task):
    said = here("judge", "bench", f"data.cache={cache}", "--config", "demo", code=2)
    assert "made of rows of the explanations task" in said

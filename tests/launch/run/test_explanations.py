"""The explanations task, from its configuration to a report and to ``recrl explain``: a run of seconds."""

import json

import pytest
from whole_runs import here

SMALL = """\
name: small
output: {output}
data: {{cache: {cache}}}
task: {{use: explanations, max_train_episodes: 60}}
policy: {{model: tiny, tiny: {{hidden: 32, layers: 1, vocabulary: 500}}}}
warm_start: {{steps: 3, prompts_per_step: 4, lists_per_prompt: 2, rehearsal: 0}}
rewards: [specificity, item_diversity, claim_precision, claim_count, item_named, text_length, attribute_leak]
optimizer:
  objective: specificity
  constraints:
    - item_diversity >= 0.5 (mean)
    - claim_count >= 1 (mean)
    - item_named >= 0.9 (mean)
    - attribute_leak <= 0 (gate)
train: {{steps: 2, prompts_per_step: 4, group_size: 4}}
evaluation: {{max_episodes: 24, candidates: 2}}
"""


@pytest.mark.slow
def test_a_run_ends_with_a_gallery_and_explains_an_item(tmp_path, cache, panel_task):
    run, config = tmp_path / "run", tmp_path / "small.yaml"
    config.write_text(SMALL.format(output=run, cache=cache))
    here("train", str(config))
    result = json.loads((run / "evaluation.json").read_text())
    deployed = result["populations"]["unseen households"]["deployed"]
    assert {
        "one template",
        "eight templates",
        "eight templates, rarest goods",
        "nearest household",
        "warm start",
        "trained",
    } <= set(deployed["metrics"])
    assert {"item_diversity", "retrieved", "words", "specificity", "claim_precision"} <= set(
        deployed["metrics"]["eight templates"]
    )
    assert set(deployed["exposure"]["trained"]) == {"distinct-2", "self-BLEU"}
    named = {row["name"] for row in deployed["constraints"]}
    assert any(name.startswith("item_diversity") for name in named)
    assert result["diversity_floor"] == 0.5
    assert (run / "plots" / "deployed-unseen-households.png").is_file()
    report = (run / "report.md").read_text()
    assert report.count("** for household ") == 20
    assert "## Gallery" in report
    held = result["hold"]["trained"]
    assert any(name.startswith("item_diversity") for name in held["not held"])
    user = panel_task.panel.users[3]
    said = here("explain", str(run), "--user", user, "--item", "yogurt", "--at", "2017-11-20")
    assert said.strip()
    here("explain", str(run), "--user", user, "--item", "yogurt", "--at", "then", code=2)
    assert "is not in the catalogue" in here("explain", str(run), "--user", user, "--item", "tofu", code=2)

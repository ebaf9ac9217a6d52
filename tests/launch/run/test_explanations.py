"""The explanations task, from its configuration to a report and to ``recrl explain``: a run of seconds."""

import json

import polars as pl
import pytest
from whole_runs import here

from recrl.rewards.judge.findings import replayed
from recrl.rewards.judge.rubric import load
from recrl.rewards.shipped.judged import JudgeScore
from recrl.rl.reward_model.training import read

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


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache, panel_task):
    folder = tmp_path_factory.mktemp("explanations")
    config = folder / "small.yaml"
    config.write_text(SMALL.format(output=folder / "run", cache=cache))
    here("train", str(config))
    return folder / "run"


def test_a_run_ends_with_a_gallery_and_explains_an_item(run, panel_task):
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
    verdicts = [line for line in said.splitlines() if line.startswith("  ")]
    assert verdicts
    assert all(line.startswith(("  true ", "  FALSE", "  it claims nothing")) for line in verdicts)
    here("explain", str(run), "--user", user, "--item", "yogurt", "--at", "then", code=2)
    assert "is not in the catalogue" in here("explain", str(run), "--user", user, "--item", "tofu", code=2)


def test_its_texts_are_graded_and_the_grades_become_a_reward(run, tmp_path):
    graded, judge = tmp_path / "graded.jsonl", tmp_path / "judge"
    kinds = ("--sampled", "1", "--taught", "2", "--borrowed", "1")
    said = here("judge", "grade", str(run), "--output", str(graded), "--rows", "24", *kinds)
    assert "bad" in said
    contexts = read(graded)
    assert [len(one.texts) for one in contexts] == [4] * 24
    # What the task teaches is true; what it teaches of others, and what an untrained policy writes, is bad.
    taught = [grade for one in contexts for grade in one.grades[1:3]]
    others = [grade for one in contexts for grade in (one.grades[0], one.grades[3])]
    assert sum(grade > 0 for grade in taught) > 0.8 * len(taught)
    assert sum(grade == 0 for grade in others) > 0.8 * len(others)
    kept = replayed(pl.read_parquet(graded.with_suffix(".parquet")), load("explanations").superior)
    assert [one.grade for one in kept] == [grade for one in contexts for grade in one.grades]
    distil = ("judge", "distill", str(run), "--grades", str(graded), "--output", str(judge))
    said = here(*distil, "--steps", "2")
    assert "in the judge's order" in said
    card = json.loads((judge / "judge.json").read_text())
    assert card["contexts"] + card["held out"] == 24
    scores = JudgeScore(str(judge))([one.prompt for one in contexts], [one.texts[1] for one in contexts])
    assert all(0 < score < 1 for score in scores)
    # Only what a distillation wrote is replaced.
    here(*distil, "--steps", "2")
    (judge / "judge.json").unlink()
    assert "holds no distilled judge" in here(*distil, code=2)
    assert "are 1 candidates" in here(
        "judge", "grade", str(run), "--sampled", "1", *kinds[2:3], "0", "--borrowed", "0", code=2
    )
    assert "loss=" in here(*distil, "--loss", "best", code=2)
    assert "no such file" in here("judge", "grade", str(run), "--rubric", "none.yaml", code=2)


def test_its_writer_is_compared_with_and_without_a_guideline(run, tmp_path):
    command = ["styled", str(run), "--output", str(tmp_path), "--rows", "30", "--draws", "2"]
    here("bench", *command)
    result = json.loads((tmp_path / "styled.json").read_text())
    assert set(result["means"]) - {"guided"} == set(result["differences"])
    assert result["means"]["eight templates"]["precision"]["mean"] == 1.0
    assert "| eight templates, matched |" in (tmp_path / "report.md").read_text()

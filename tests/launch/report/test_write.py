"""Reports of runs that are long over."""

import json
import shutil

import numpy as np
import pytest
import yaml
from places import ROOT

from recrl.envs.markdown import text
from recrl.launch.report.files import ReportError
from recrl.launch.report.summary import FACTS
from recrl.launch.report.training import _settled
from recrl.launch.report.write import write
from recrl.rl.evaluation.tables import _share

COMMITTED = ROOT / "docs" / "results" / "long"


def test_a_committed_result_still_renders_with_its_figures(tmp_path):
    for name in ("config.yaml", "evaluation.json", "metrics.jsonl"):
        shutil.copy(COMMITTED / name, tmp_path / name)
    (tmp_path / "examples.json").write_text("[]")  # it was not committed
    rendered = write(tmp_path).read_text()
    committed = (COMMITTED / "report.md").read_text()
    figures = committed[: committed.index("## Training")]
    assert figures.count("|") > 100
    summary = rendered[rendered.index("## In short") : rendered.index("## Test:")]
    assert rendered.replace(summary, "").startswith(figures)
    assert (tmp_path / "plots" / "deployed-unseen-users.png").stat().st_size > 1000


@pytest.fixture
def finished(tmp_path):
    """A run folder with the committed figures."""
    for name in ("config.yaml", "evaluation.json", "metrics.jsonl"):
        shutil.copy(COMMITTED / name, tmp_path / name)
    (tmp_path / "examples.json").write_text("[]")
    return tmp_path


def test_a_name_is_shown_as_it_is_whatever_plots_and_markdown_read_in_it(finished):
    name = r"$\frac$ [/red] `x`|*"
    for path in (finished / "config.yaml", finished / "evaluation.json", finished / "metrics.jsonl"):
        told = json.dumps(name) if path.suffix != ".yaml" else f"'{name}'"
        content = path.read_text().replace('"recall"', told).replace(" recall\n", f" {told}\n")
        path.write_text(content.replace("rewards/recall/", f"rewards/{json.dumps(name)[1:-1]}/"))
    rendered = write(finished).read_text()
    assert f"Maximise **{text(name)}** subject to" in rendered
    assert f"| {text(name)} | " in rendered


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "noise": lambda path: path.write_bytes(bytes(range(256))),
    "another type": lambda path: path.write_text("[7]\n7\n"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("name", ["evaluation.json", "examples.json", "metrics.jsonl"])
def test_a_damaged_file_of_a_run_is_one_line(finished, name):
    whole = (finished / name).read_bytes()
    for kind, damage in DAMAGE.items():
        if (kind, name) == ("another type", "examples.json"):
            continue
        damage(finished / name)
        with pytest.raises(ReportError, match=name) as error:
            write(finished)
        assert "\n" not in str(error.value)
        if kind == "a folder":
            (finished / name).rmdir()
        (finished / name).write_bytes(whole)


def in_short(folder, **facts):
    (folder / FACTS).write_text(json.dumps(facts))
    rendered = write(folder).read_text()
    return rendered[rendered.index("## In short") : rendered.index("## Test:")]


def test_the_first_lines_say_when_nothing_valid_was_written(finished):
    said = in_short(finished, answers=1234, valid={"warm start": 0.2, "trained": 0.0})
    assert "**Nothing valid was written**: not one of 1,234 answers that the trained policy sampled" in said
    assert "**Little valid was written**: 20% of 1,234 answers that the warm start policy sampled" in said
    assert "valid was written" not in in_short(finished, answers=1234, valid={"trained": 0.99})


def test_the_first_lines_say_how_much_was_trained_on_and_how_far_the_test_is_from_it(finished):
    config = yaml.safe_load((finished / "config.yaml").read_text())
    log = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((finished / "evaluation.json").read_text())
    said = in_short(finished, episodes=10_000)
    prompts = len(log) * config["train"]["prompts_per_step"]
    assert f"{prompts:,} prompts by constrained GRPO ({prompts / 10_000:.2g} an episode)" in said
    assert "of 10,000 training episodes" in said
    late = [row["rewards/recall/mean"] for row in log[-(len(log) // 5) :]]
    (population, *_) = result["populations"].values()
    test = population["sampled"]["rewards"]["recall"]["trained"]["mean"]
    train = float(np.mean(late))
    assert f"| recall | {train:.3f} | {test:.3f} | {test - train:+.3f} |" in said
    assert "| novelty | " in said


def test_settings_and_the_pairs_that_agree_least_are_shown(finished):
    rendered = write(finished).read_text()
    config = yaml.safe_load((finished / "config.yaml").read_text())
    settings = rendered[rendered.index("## Settings") : rendered.index("## Ten answers")]
    assert f"| train.learning_rate | {config['train']['learning_rate']:g} |" in settings
    assert f"| warm_start.steps | {config['warm_start']['steps']} |" in settings
    conflict = rendered[
        rendered.index("## Conflict") : rendered.index("| reward |", rendered.index("## Conf"))
    ]
    log = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    late = log[-(len(log) // 5) :]
    means = {
        key.removeprefix("conflict/corr/"): np.mean([row[key] for row in late if row.get(key) is not None])
        for key in late[-1]
        if key.startswith("conflict/corr/")
    }
    assert len(means) > 10
    assert f"Of {len(means)} pairs, the 10 that agree least." in conflict
    shown = {line.split("|")[1].strip() for line in conflict.splitlines() if "~" in line}
    assert shown == set(sorted(means, key=means.get)[:10])


def log_of(prices, name="novelty >= 0.3"):
    return [{f"constraint/{name}/price": price, f"constraint/{name}/slack": 0.02} for price in prices]


@pytest.mark.parametrize(
    ("late", "settled"),
    [
        ([0.5] * 20, True),
        ([0.45, 0.55] * 10, True),
        ([0.3, 0.7] * 10, False),
        ([0.0] * 20, True),
        ([0.0, 0.4] * 10, False),
    ],
)
def test_a_price_that_still_moves_is_said_not_to_have_settled(late, settled):
    said = "\n".join(_settled(log_of([9.0] * 80 + late), ["novelty >= 0.3"]))
    assert ("Not settled" in said) != settled
    assert f"{np.mean(late):.3f} [" in said
    assert "+0.020" in said


def test_a_handful_of_steps_says_nothing_of_prices():
    assert _settled(log_of([0.1, 0.9] * 10), ["novelty >= 0.3"]) == []


def test_steps_without_a_score_are_left_out():
    said = "\n".join(_settled(log_of([0.2] * 80 + [None, 0.4] * 10), ["novelty >= 0.3"]))
    assert "All prices have settled" in said


def test_a_reference_of_zero_has_no_share(finished):
    evaluation = json.loads((finished / "evaluation.json").read_text())
    deployed = evaluation["populations"]["unseen users"]["deployed"]
    (reference,) = (key.removeprefix("share of ") for key in deployed if key.startswith("share of "))
    deployed[f"share of {reference}"] = None
    (finished / "evaluation.json").write_text(json.dumps(evaluation))
    assert "which is 0: " in write(finished).read_text()
    assert _share(np.array([0.5]), np.array([0.0])) is None
    assert _share(np.array([0.5, 0.1]), np.array([0.2, 0.4])) == pytest.approx(1.0)


def test_an_objective_that_no_answer_has_a_value_of_is_said(finished):
    evaluation = json.loads((finished / "evaluation.json").read_text())
    deployed = evaluation["populations"]["unseen users"]["deployed"]
    for key in [key for key in deployed if key.startswith(("difference to ", "share of "))]:
        del deployed[key]
    for table in deployed["metrics"].values():
        del table["recall@10"]
    (finished / "evaluation.json").write_text(json.dumps(evaluation))
    said = write(finished).read_text()
    assert "**Nothing can be said of the recall@10 of deployed answers**: no episode has one." in said

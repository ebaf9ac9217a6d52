"""Losses against one another: shares and differences against hand-made scores, and a campaign of seconds."""

import json

import numpy as np
import pytest
from made_up import CATALOG, rows
from whole_runs import here

from recrl.launch.config.reading import load
from recrl.launch.config.schema import ConfigError
from recrl.launch.judging.losses import ARMS, COMPARISONS, HELD, Plan, _same_plan, figures, right
from recrl.rewards.judge.suite.ranked import ranked

KINDS = ("rich truth", "plain truth", "rich lie", "plain lie")


def test_a_share_is_that_of_the_pairs_that_a_comparison_speaks_of():
    scores = (3.0, 1.0, 2.0, 1.0)
    expected = {
        "plain truth over rich lie": 0,
        "superior over average": 1,
        "truth over lie, equally rich": 0.75,  # rich: right; plain: a tie
        "all pairs": (1 + 1 + 1 + 0 + 0.5) / 5,
    }
    for name, speaks in COMPARISONS.items():
        assert right(KINDS, scores, speaks) == expected[name]
    assert np.isnan(right(("rich lie", "plain lie"), (1.0, 2.0), COMPARISONS["all pairs"]))


def test_arms_are_compared_on_the_same_contexts():
    drawn = [
        [one for one in ranked(rows(0, 30), rows(1000, 30), CATALOG, 42, seed=seed) if one.part != "training"]
        for seed in range(2)
    ]
    perfect = [[[float(grade) for grade in one.grades] for one in each] for each in drawn]
    half = [[[0.0] * len(one.grades) for one in each] for each in drawn]
    mixed = [perfect[0], half[1]]
    found = figures(drawn, {"perfect": perfect, "half": half, "mixed": mixed})
    for name in COMPARISONS:
        for part in HELD:
            assert found["shares"][name]["perfect"][part] == {"mean": 1, "low": 1, "high": 1}
            assert found["shares"][name]["half"][part] == {"mean": 0.5, "low": 0.5, "high": 0.5}
            less = found["differences"][name]
            assert less["half"][part] == {"mean": 0.5, "low": 0.5, "high": 0.5, "seeds": 2}
            assert less["mixed"][part]["seeds"] == 1
            assert 0 < less["mixed"][part]["low"] < less["mixed"][part]["high"] < 0.5


@pytest.mark.slow
def test_a_campaign_goes_on_with_the_arms_that_are_missing(tmp_path, cache, panel_task):
    command = [
        *("judge", "losses", f"data.cache={cache}", "policy.tiny={hidden: 16, layers: 1, vocabulary: 500}"),
        *("--contexts", "40", "--seeds", "1", "--output", str(tmp_path)),
    ]
    said = here(*command, "--steps", "1")
    assert "seed 0, list-wise 1/1 loss" in said
    result = json.loads((tmp_path / "losses.json").read_text())
    assert set(result["differences"]["all pairs"]) == set(ARMS) - {"list-wise"}
    report = (tmp_path / "report.md").read_text()
    assert "1 seeds; each arm starts from random weights" in report
    assert (tmp_path / "plots" / "losses.png").stat().st_size > 1000
    (tmp_path / "scores" / "seed-0, point-wise.json").unlink()
    said = here(*command, "--steps", "1")
    assert "point-wise 1/1" in said
    assert "list-wise" not in said
    again = json.loads((tmp_path / "losses.json").read_text())
    assert again["shares"] == result["shares"]
    assert "arms of other settings, data or weights" in here(*command, "--steps", "2", code=2)


def test_arms_of_another_seed_configuration_or_start_are_not_taken(tmp_path):
    start, output = tmp_path / "policy", tmp_path / "out"
    start.mkdir()
    (start / "model.safetensors").write_bytes(b"one")
    plan = Plan(start=start)
    config = load("explanations", [])
    _same_plan(config, plan, output)
    _same_plan(config, plan, output)
    with pytest.raises(ConfigError, match="other settings"):
        _same_plan(config.model_copy(update={"seed": 7}), plan, output)
    (start / "model.safetensors").write_bytes(b"two")
    with pytest.raises(ConfigError, match="weights"):
        _same_plan(config, plan, output)

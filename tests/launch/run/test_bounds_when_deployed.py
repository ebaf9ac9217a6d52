"""Three constraints at once, of both kinds, hold in what a run deploys."""

import json

import pytest
from small_run import settings

from recrl.launch.run import pipeline as run
from recrl.launch.run.progress import Display
from recrl.launch.run.setup import prepare_setup
from recrl.rewards import RewardSpecError

BOUNDS = {"novelty": 0.7, "diversity": 0.78, "calendar_fit": 0.7}


@pytest.mark.slow
def test_novelty_diversity_and_calendar_fit_are_all_met_beside_the_ranking(tmp_path, cache, panel_task):
    bounds = [f"{name} >= {bound}" for name, bound in BOUNDS.items()]
    config = settings(
        *(tmp_path / "run", cache, f"rewards={json.dumps(['recall', *BOUNDS])}"),
        f"optimizer.constraints={json.dumps([f'{bound} (mean)' for bound in bounds])}",
        "evaluation.max_episodes=48",
    )
    folder = run.train(config)
    result = json.loads((folder / "evaluation.json").read_text())
    constraints = result["populations"]["unseen users"]["deployed"]["constraints"]
    assert [row["name"] for row in constraints] == bounds
    for policy in ("warm start", "trained"):
        assert min(row[f"{policy}, no prices"]["slack"]["mean"] for row in constraints) < -0.02
    for policy in ("warm start", "trained", "priced"):
        for row, price in zip(constraints, result["hold"][policy]["prices"], strict=True):
            assert row[policy]["slack"]["mean"] >= -1e-6, (policy, row["name"])
            assert price["met"]
            assert price["held"] - price["bound"] == pytest.approx(row[policy]["slack"]["mean"], abs=1e-6)
    report = (folder / "report.md").read_text()
    section = report[report.index("## Prices of what is shown") : report.index("## Training")]
    assert "one of 16 answers to each prompt is chosen" in section
    for policy in ("warm start", "trained", "priced"):
        for row in constraints:
            assert f"| {policy} | {row['name']} |" in section
    assert "cannot be met" not in section


def test_a_reward_that_cannot_be_served_but_says_so_is_refused_first(tmp_path, cache, panel_task):
    rewards = json.dumps(["recall", "novelty", "duplicates", {"name": "hit", "serving": True}])
    config = settings(tmp_path / "run", cache, f"rewards={rewards}")
    with pytest.raises(RewardSpecError, match=r"'hit': serving=True, but it reads the outcome \(target\)"):
        prepare_setup(config, Display(False))

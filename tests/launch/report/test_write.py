"""Reports of runs that are long over."""

import shutil

import numpy as np
import pytest
from places import ROOT

from recrl.launch.report.sections import _settled
from recrl.launch.report.write import write

COMMITTED = ROOT / "docs" / "results" / "long"


def test_a_committed_result_still_renders_with_its_figures(tmp_path):
    for name in ("config.yaml", "evaluation.json", "metrics.jsonl"):
        shutil.copy(COMMITTED / name, tmp_path / name)
    (tmp_path / "examples.json").write_text("[]")  # it was not committed
    rendered = write(tmp_path).read_text()
    committed = (COMMITTED / "report.md").read_text()
    figures = committed[: committed.index("## Training")]
    assert figures.count("|") > 100
    assert rendered.startswith(figures)
    assert (tmp_path / "plots" / "deployed-unseen-users.png").stat().st_size > 1000


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
    text = "\n".join(_settled(log_of([9.0] * 80 + late), ["novelty >= 0.3"]))
    assert ("Not settled" in text) != settled
    assert f"{np.mean(late):.3f} [" in text
    assert "+0.020" in text


def test_a_handful_of_steps_says_nothing_of_prices():
    assert _settled(log_of([0.1, 0.9] * 10), ["novelty >= 0.3"]) == []


def test_steps_without_a_score_are_left_out():
    text = "\n".join(_settled(log_of([0.2] * 80 + [None, 0.4] * 10), ["novelty >= 0.3"]))
    assert "All prices have settled" in text

"""The bench of teams: its arms by hand, what is read, and a report of committed figures."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from places import ROOT

from recrl.benchmarks import BenchmarkError
from recrl.benchmarks.agents import arms, reading, report
from recrl.benchmarks.agents.measure import CELLS
from recrl.envs.agents.measures import together, union

RESULTS = ROOT / "docs" / "results" / "agents"
OPTIONS, K, M = 100, arms.PERSONAS, arms.SLOTS


@pytest.fixture(scope="module")
def track():
    rng = np.random.default_rng(0)
    scores = rng.random((5, OPTIONS))
    rows = [{"user": i, "origin": 1, "target": [1, 2], "lookback": []} for i in range(5)]
    task = SimpleNamespace(catalog=range(OPTIONS))
    return SimpleNamespace(scores=lambda rows: scores, rows=rows, task=task, best=np.argsort(-scores, axis=1))


def test_arms_have_the_same_budget_of_tags(track):
    named = {
        "one": arms.one_list(track, track.rows),
        "random": arms.disjoint(track, track.rows),
        "flat": arms.flat(track, track.rows, 0.5),
        "alike": arms.flat(track, track.rows, 0.0),
    }
    assert {lists.shape for lists in named.values()} == {(5, K, M)}
    assert np.array_equal(named["one"].reshape(5, -1), track.best[:, : K * M])
    assert (union(named["random"], OPTIONS) <= 1).all()
    duplicate = {
        name: together(track.rows, lists, OPTIONS)["duplicate work"].mean() for name, lists in named.items()
    }
    assert duplicate["one"] == duplicate["random"] == 0
    assert duplicate["alike"] == pytest.approx(1 - 1 / K)
    assert 0 < duplicate["flat"] < duplicate["alike"]


def test_a_shared_beginning_is_counted_and_read_once():
    model = reading._decoder(50)
    prompts = [[1, 2, 3, 4, 5], [1, 2, 3, 6], [1, 2, 3, 7, 8, 9]]
    tokens, read = reading._packed(model, prompts)
    assert tokens == 3 + 2 + 1 + 3
    alone, one_by_one = reading._unshared(model, prompts)
    assert alone == 15
    with torch.no_grad():
        packed, rows = read().last_hidden_state, [found.last_hidden_state for found in one_by_one()]
    # The row is [1 2 | 3 4 | 3 6 | 3 7 8], each field as wide as the widest: 6 sees what it sees alone.
    width = 3
    for field, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        at = 2 + field * width
        count = len(prompt) - 3
        assert torch.allclose(packed[0, at : at + count], row[0, 2 : 2 + count], atol=1e-4)


def test_the_committed_report_is_that_of_its_figures(tmp_path):
    for cell in CELLS:
        shutil.copy(RESULTS / f"{cell}.json", tmp_path)
    assert report.write(tmp_path).read_text() == (RESULTS / "report.md").read_text()
    assert (tmp_path / "plots" / "agents.png").stat().st_size > 10_000
    with pytest.raises(BenchmarkError, match="holds no figures; run recrl bench agents"):
        report.write(tmp_path / "plots")

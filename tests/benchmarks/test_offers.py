"""The offers benchmark: its figures against other computations, and a report of the committed result."""

import json
import shutil

import numpy as np
import pytest
from places import ROOT
from sklearn.metrics import brier_score_loss, roc_auc_score

from recrl.benchmarks.offers import measure, report

COMMITTED = ROOT / "docs" / "results" / "offers"


@pytest.fixture
def ranked():
    random = np.random.default_rng(0)
    taken = random.random(4000) < 0.1
    return np.round(random.normal(size=4000) + taken, 1), taken, random.integers(300, size=4000)


def test_auc_counts_ties_half(ranked):
    scores, taken, _ = ranked
    assert measure.auc(scores, taken) == pytest.approx(roc_auc_score(taken, scores))
    assert np.isnan(measure.auc(scores[taken], taken[taken]))


def test_an_interval_draws_whole_households():
    households = np.repeat(np.arange(4), 10).astype(np.int32)
    values = households.astype(float)
    seen = []
    measure.interval(
        lambda rows: seen.append(np.bincount(households[rows], minlength=4)) or 0.0, households, 0
    )
    assert len(seen) == measure.RESAMPLES
    assert all((counts % 10 == 0).all() and counts.sum() == 40 for counts in seen)
    low, high = measure.interval(lambda rows: float(values[rows].mean()), households, 0)
    assert 0 < low < 1.5 < high < 3


def test_calibration_of_probabilities_that_are_right_and_of_those_twice_too_large(ranked):
    random = np.random.default_rng(1)
    probable = random.random(50_000) * 0.2
    taken = random.random(50_000) < probable
    right, large = measure.calibration(probable, taken), measure.calibration(2 * probable, taken)
    assert right["ece"] < 0.01
    assert large["ece"] == pytest.approx(0.1, abs=0.01)
    assert right["brier"] == pytest.approx(brier_score_loss(taken, probable))


def test_within_leaves_out_groups_without_a_choice():
    scores = np.array([3.0, 1, 2, 5, 5, 1])
    taken = np.array([True, False, False, True, True, False])
    groups = np.array([1, 1, 1, 2, 2, 3])
    assert measure.within(scores, taken, groups) == (1.0, 1)


def test_the_committed_result_reaches_its_target_and_renders(tmp_path):
    shutil.copy(COMMITTED / report.RESULT, tmp_path)
    found = json.loads((tmp_path / report.RESULT).read_text())
    assert found["ranking"]["ranker"]["auc"] >= 0.77
    assert report.write(tmp_path).read_text() == (COMMITTED / "report.md").read_text()

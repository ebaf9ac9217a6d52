"""The baselines come out at the figures of the protocol."""

import numpy as np
import pytest

from recrl.envs.data.panel import top
from recrl.envs.data.prepared import prepare
from recrl.envs.data.settings import DataConfig
from recrl.envs.tags import baselines, metrics

K = 10


@pytest.fixture(scope="module")
def recalls(panel_task):
    rows = panel_task.split("test").to_dicts()
    found = {
        name: metrics.per_episode(panel_task, rows, ranked(rows))
        for name, ranked in baselines.lists(panel_task, K, 0.3).items()
    }
    return rows, found


@pytest.mark.parametrize(
    ("name", "figure"),
    [("own frequency", 0.261), ("popularity", 0.201), ("EASE", 0.202), ("recency", 0.261), ("random", 0.038)],
)
def test_recall_of_all_users(recalls, name, figure):
    assert recalls[1][name]["recall@10"].mean() == pytest.approx(figure, abs=0.005)


def test_recall_of_unseen_users(recalls):
    rows, found = recalls
    unseen = np.array([row["unseen"] for row in rows])
    assert found["own frequency"]["recall@10"][unseen].mean() == pytest.approx(0.258, abs=0.005)
    assert found["quota"]["recall@10"][unseen].mean() == pytest.approx(0.231, abs=0.005)
    assert found["quota"]["novelty"][unseen].mean() == pytest.approx(0.303, abs=0.005)


@pytest.mark.parametrize(
    ("name", "never_before", "lookback"),
    [
        ("popularity", 0.225, 0.210),
        ("EASE", 0.244, 0.237),
        ("random", 0.063, 0.053),
        ("own frequency", 0.225, 0.242),
    ],
)
def test_recall_of_novel_tags_when_only_novel_tags_are_ranked(panel_task, name, never_before, lookback):
    """Under "never before" and under the fixed 20-week look-back; ties and old favourites part the two."""
    rows = panel_task.split("test").to_dicts()
    scores = baselines.SCORERS[name](panel_task, rows)
    n_tags = len(panel_task.catalog)
    target = baselines.member_mask(rows, "target", n_tags)
    for column, figure in (("history", never_before), ("lookback", lookback)):
        known = baselines.member_mask(rows, column, n_tags)
        novel = target & ~known
        hits = np.take_along_axis(novel, top(scores, K, known), axis=1).sum(axis=1)
        some = novel.any(axis=1)
        assert (hits[some] / novel.sum(axis=1)[some]).mean() == pytest.approx(figure, abs=0.005), column


def test_quota_meets_its_floor_with_distinct_tags(panel_task):
    rows = panel_task.split("test").to_dicts()
    for floor in (0.0, 0.25, 0.5):
        lists = baselines.quota(panel_task, rows, K, floor)
        found = metrics.per_episode(panel_task, rows, lists)
        assert found["duplicates"].max() == 0
        assert found["novelty"].mean() >= floor


def test_quota_without_a_floor_is_own_frequency_within_the_lookback(panel_task):
    rows = panel_task.split("test").head(200).to_dicts()
    lists = baselines.quota(panel_task, rows, 3, 0.0)
    for row, chosen in zip(rows, lists.tolist(), strict=True):
        recent = [tag for tag in row["history"] if tag in set(row["lookback"])]
        assert chosen[: len(recent)] == recent[:3]


@pytest.mark.slow
def test_the_type_track_comes_out_at_its_figures(cache):
    """About 1,350 tags ``category > type``: harder, and own frequency leads by more."""
    task = prepare(DataConfig(track="type", cache=cache))
    assert 1300 <= len(task.catalog) <= 1400
    rows = task.split("test").to_dicts()
    for name, figure in (("own frequency", 0.174), ("popularity", 0.103), ("EASE", 0.114)):
        scores = baselines.SCORERS[name](task, rows)
        found = metrics.per_episode(task, rows, top(scores, K))
        assert found["recall@10"].mean() == pytest.approx(figure, abs=0.005), name

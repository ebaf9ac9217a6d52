"""The ranker of counts: what it reads, and what it reaches under a bound."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from recrl.envs.data.panel import top
from recrl.envs.tags.baselines import member_mask, quota
from recrl.envs.tags.metrics import per_episode
from recrl.envs.tags.ranker import TagRanker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows(panel_task):
    return panel_task.split("test").filter(pl.col("unseen")).to_dicts()


def test_its_probabilities_are_those_of_unseen_users_later(panel_task, ranker, rows):
    """Ten equal parts by probability: in each, about as many are bought as it says."""
    probable = ranker.probabilities(rows).ravel()
    bought = member_mask(rows, "target", len(panel_task.catalog)).ravel()
    parts = np.array_split(np.argsort(probable), 10)
    said = np.array([probable[part].mean() for part in parts])
    found = np.array([bought[part].mean() for part in parts])
    assert found[-1] > 0.3
    assert (np.diff(said) > 0).all()
    assert (np.diff(found) > 0).all()
    # Households buy less in the later weeks than in those that it learned from.
    assert said == pytest.approx(found, abs=0.08)


def test_it_beats_the_simple_rule_at_the_same_novelty(panel_task, ranker, rows):
    gains = ranker.gains(rows)
    novel = ~member_mask(rows, "lookback", len(panel_task.catalog))
    low, high = 0.0, 1.0
    for _ in range(30):
        price = (low + high) / 2
        found = per_episode(panel_task, rows, top(gains + price * novel, 10))
        low, high = (price, high) if found["novelty"].mean() < 0.3 else (low, price)
    simple = per_episode(panel_task, rows, quota(panel_task, rows, 10, 0.3))
    assert found["novelty"].mean() == pytest.approx(0.3, abs=0.002)
    assert found["recall@10"].mean() > simple["recall@10"].mean() + 0.005


def test_it_reads_nothing_from_the_origin_on(panel_task, ranker, rows):
    """Features stay what they are when all later purchases are others."""
    origin = rows[0]["origin"]
    chosen = [row for row in rows if row["origin"] == origin][:50]
    panel = panel_task.panel
    late = panel.week >= origin
    other = replace(
        panel, tag=np.where(late, (panel.tag + 7) % panel.n_tags, panel.tag).astype(panel.tag.dtype)
    )
    before = ranker.features(chosen)
    spoilt = TagRanker.__new__(TagRanker)
    spoilt._data = replace(panel_task, panel=other)
    spoilt.__dict__["_item_weights"] = ranker._item_weights
    np.testing.assert_array_equal(spoilt.features(chosen), before)
    assert not np.array_equal(spoilt.features([{**row, "origin": origin + 1} for row in chosen]), before)

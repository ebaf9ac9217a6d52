"""The sequential baseline: it learns an order that counts do not show, and nothing that it may not."""

import datetime as dt
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from recrl.envs.data.events import Events
from recrl.envs.data.prepared import Data, build, restore
from recrl.envs.data.settings import Protocol
from recrl.envs.tags import baselines, sequential
from recrl.envs.tags.metrics import per_episode
from recrl.envs.tags.sequential import SequenceModel

TAGS = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    """Users who buy one tag a week, each the one that follows theirs on a circle."""
    rows = [
        {"user": f"u{user}", "week": week, "tag": f"tag {(user + week) % TAGS:02d}"}
        for user in range(60)
        for week in range(1, 46)
    ]
    schema = {"user": pl.String, "week": pl.Int32, "tag": pl.String}
    events = Events(pl.LazyFrame(rows, schema=schema), dt.date(2024, 1, 1), 1, 45)
    folder = tmp_path_factory.mktemp("circle") / "task"
    build(events, Protocol(min_tag_users=2, window=1), "x", folder)
    return restore(folder)


@pytest.fixture(scope="module")
def model(data) -> SequenceModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequential, "_STEPS", 80)
        return SequenceModel(data)


def recall(data: Data, scores) -> float:
    rows = data.split("test").to_dicts()
    shown = baselines.top(scores(data, rows), 1)
    return float(per_episode(data, rows, shown)["recall@1"].mean())


def test_it_learns_what_follows_what(data, model):
    assert recall(data, model.scores) > 0.9
    assert recall(data, baselines.SCORERS["own frequency"]) < 0.4


def test_scores_do_not_depend_on_what_comes_later_or_on_the_other_rows(data, model):
    rows = data.split("test").to_dicts()
    first = model.scores(data, rows)
    origin = min(row["origin"] for row in rows)
    tag = data.panel.tag.copy()
    tag[data.panel.week >= origin] = 0
    other = SequenceModel.__new__(SequenceModel)
    other.__dict__ = {**model.__dict__, "_data": replace(data, panel=replace(data.panel, tag=tag))}
    at = [i for i, row in enumerate(rows) if row["origin"] == origin]
    alone = other.scores(data, [rows[i] for i in at])
    assert alone == pytest.approx(first[at], abs=1e-4)


def test_training_sees_only_what_may_be_learned(data, model, monkeypatch):
    """The same weights, whatever unseen users buy and training users buy later."""
    monkeypatch.setattr(sequential, "_STEPS", 5)
    panel, end = data.panel, data.protocol.statistics_end
    allowed = ~panel.unseen[panel.user] & (panel.week < end)
    weights = []
    for keep in (allowed, ~allowed):
        tag = panel.tag.copy()
        tag[~keep] = np.random.default_rng(0).permutation(tag[~keep])
        weights.append(SequenceModel(replace(data, panel=replace(panel, tag=tag)))._network.tags)
    usual = SequenceModel(data)._network.tags
    assert torch.equal(weights[0], usual)
    assert not torch.equal(weights[1], usual)


def test_it_is_trained_without_touching_the_random_state(data, monkeypatch):
    monkeypatch.setattr(sequential, "_STEPS", 2)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    SequenceModel(data)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("protocol", [{"split": "last"}, {"split": "ratio", "repeats": False}])
def test_it_takes_every_protocol(protocol, tmp_path, monkeypatch):
    monkeypatch.setattr(sequential, "_STEPS", 5)
    draw = np.random.default_rng(0)
    rows = [
        {"user": f"u{user}", "week": int(week), "tag": f"tag {int(tag)}"}
        for user in range(60)
        for week in draw.choice(np.arange(1, 30), draw.integers(1, 8), replace=False)
        for tag in draw.choice(9, 2, replace=False)
    ]
    schema = {"user": pl.String, "week": pl.Int32, "tag": pl.String}
    events = Events(pl.LazyFrame(rows, schema=schema), dt.date(2024, 1, 1), 1, 30)
    build(events, Protocol(min_tag_users=2, min_active_weeks=1, **protocol), "x", tmp_path / "task")
    data = restore(tmp_path / "task")
    scores = SequenceModel(data).scores(data, data.split("test").to_dicts())
    assert scores.shape == (data.split("test").height, 9)
    assert np.isfinite(scores).all()

"""The protocol: windows, splits, vocabulary, and that nothing leaks."""

import datetime as dt
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from recrl.envs.data.episodes import is_unseen
from recrl.envs.data.events import Events
from recrl.envs.data.panel import Panel
from recrl.envs.data.prepared import build, prepare, restore
from recrl.envs.data.settings import DataConfig, DataError, Protocol
from recrl.envs.tags.baselines import ease, member_mask, popularity


def test_the_panel_gives_the_protocols_counts(panel_task):
    report = panel_task.report
    assert report["lines read"] == 1_469_307
    assert 264 <= report["tags"] <= 271
    assert panel_task.protocol.train_origins == tuple(range(21, 34))
    assert panel_task.protocol.validation_origins == (37,)
    assert panel_task.protocol.test_origins == (41, 45, 49)
    assert panel_task.protocol.statistics_end == 37
    assert panel_task.panel.monday(2) == dt.date(2017, 1, 2)
    assert 0.17 < panel_task.panel.unseen.mean() < 0.23


def test_splits_do_not_mix_users_or_weeks(panel_task):
    table = panel_task.table
    assert not table.filter(pl.col("split") != "test")["unseen"].any()
    assert table.filter(pl.col("split") == "train")["origin"].max() + panel_task.protocol.window <= 37
    test = panel_task.split("test")
    assert 0 < test["unseen"].sum() < test.height


def test_an_episode_holds_exactly_the_weeks_it_may(panel_task):
    """Recomputed from the raw triples for a hundred random episodes."""
    panel, protocol = panel_task.panel, panel_task.protocol
    for row in panel_task.table.sample(100, seed=0).iter_rows(named=True):
        mine = panel.user == row["user"]
        week, tag, origin = panel.week[mine], panel.tag[mine], row["origin"]
        window = (week >= origin) & (week < origin + protocol.window)
        assert row["target"] == sorted(set(tag[window].tolist()))
        recent = (week < origin) & (week >= origin - 20)
        assert row["lookback"] == sorted(set(tag[recent].tolist()))
        before = week < origin
        counts = dict(zip(*np.unique(tag[before], return_counts=True), strict=True))
        assert dict(zip(row["history"], row["history_weight"], strict=True)) == counts
        assert row["history_weight"] == sorted(row["history_weight"], reverse=True)
        last = {t: int(origin - week[before & (tag == t)].max()) for t in row["history"]}
        assert dict(zip(row["history"], row["history_last"], strict=True)) == last
        active = np.unique(week[before])
        assert len(active) >= 4
        assert active.max() >= origin - 8
        assert row["segment"] == ("cold" if len(active) < 10 else "warm")


def test_both_segments_are_in_every_split_and_follow_the_protocol(panel_task, tmp_path):
    shares = panel_task.table.group_by("split").agg((pl.col("segment") == "cold").mean())
    assert shares["segment"].min() > 0.02
    assert shares["segment"].max() < 0.98
    protocol = Protocol(min_tag_users=2, cold_weeks=25).resolved(1, 40)
    events = small_events()  # everybody buys every week from the first on
    build(events, protocol, "x", tmp_path / "task")
    table = restore(tmp_path / "task").table
    weeks = table["origin"] - 1
    assert 0 < (weeks < 25).sum() < table.height
    assert ((table["segment"] == "cold") == (weeks < 25)).all()
    with pytest.raises(ValueError, match=r"cold_weeks\n.*must be a whole number from 1 to 1,000"):
        Protocol(cold_weeks=0)


def scrambled_future(panel: Panel, keep: np.ndarray, seed: int) -> Panel:
    """The same panel with the tags of all entries outside ``keep`` permuted."""
    tag = panel.tag.copy()
    tag[~keep] = np.random.default_rng(seed).permutation(tag[~keep])
    return Panel(panel.users, panel.unseen, panel.n_tags, panel.week_zero, panel.user, panel.week, tag)


def test_no_learned_statistic_sees_test_users_or_late_weeks(panel_task):
    """Scrambling what a statistic may not see leaves it unchanged; scrambling what it may see does not."""
    panel, end = panel_task.panel, panel_task.protocol.statistics_end
    allowed = ~panel.unseen[panel.user] & (panel.week < end)
    changed = scrambled_future(panel, allowed, 0)
    assert np.array_equal(panel.buyers(0, end), changed.buyers(0, end))
    assert np.array_equal(panel.popularity(33), changed.popularity(33))
    assert not np.array_equal(panel.buyers(0, end), scrambled_future(panel, ~allowed, 0).buyers(0, end))

    # EASE's weights: scores for one history must not depend on the rest of the forbidden data.
    seen_users = np.flatnonzero(~panel.unseen)[:50].astype(np.int32)
    table = pl.DataFrame({"origin": np.full(50, 37, np.int32), "user": seen_users})
    other = replace(panel_task, panel=changed)
    assert np.array_equal(ease(panel_task, table.to_dicts()), ease(other, table.to_dicts()))


def test_popularity_at_a_test_origin_looks_back_only(panel_task):
    panel = panel_task.panel
    changed = scrambled_future(panel, panel.week < 41, 0)
    table = pl.DataFrame({"origin": [41], "user": [0]}, schema={"origin": pl.Int32, "user": pl.Int32})
    other = replace(panel_task, panel=changed)
    assert np.array_equal(popularity(panel_task, table.to_dicts()), popularity(other, table.to_dicts()))


def small_events(weeks: int = 40, users: int = 30) -> Events:
    rows = [
        {"user": f"u{u}", "week": w, "tag": f"tag{t}"}
        for u in range(users)
        for w in range(1, weeks + 1)
        for t in {u % 5, w % 7, 6}
    ]
    return Events(
        purchases=pl.LazyFrame(rows, schema={"user": pl.String, "week": pl.Int32, "tag": pl.String}),
        week_zero=dt.date(2024, 1, 1),
        first_week=1,
        last_week=weeks,
    )


def test_the_vocabulary_counts_training_users_before_the_cut(tmp_path):
    events = small_events()
    late = pl.LazyFrame(
        [{"user": f"u{u}", "week": 40, "tag": "late"} for u in range(30)]
        + [{"user": f"u{u}", "week": 3, "tag": "theirs"} for u in range(30) if is_unseen(f"u{u}", 0.2)],
        schema=events.purchases.collect_schema(),
    )
    events = Events(pl.concat([events.purchases, late]), events.week_zero, 1, 40)
    build(events, Protocol(min_tag_users=2), "x", tmp_path / "task")
    tags = restore(tmp_path / "task").catalog.tags
    assert "late" not in tags
    assert "theirs" not in tags
    assert len(tags) == 7


def test_data_that_are_too_short_say_so(tmp_path):
    with pytest.raises(DataError, match=r"cover weeks 1\.\.12, too short for data\.protocol\.train_origins"):
        build(small_events(12), Protocol(min_tag_users=2), "x", tmp_path / "task")
    with pytest.raises(DataError, match="training would see the test period"):
        Protocol(train_origins=(30,), statistics_end=33).resolved(1, 60)
    with pytest.raises(DataError, match=r"lower data\.protocol\.min_tag_users"):
        build(small_events(), Protocol(min_tag_users=500), "x", tmp_path / "task")
    assert not list(tmp_path.iterdir())


def test_an_empty_split_names_itself(tmp_path):
    events = small_events(40)
    quiet = Events(events.purchases.filter(pl.col("week") < 27), events.week_zero, 1, 40)
    with pytest.raises(DataError, match=r"the test split \(origins \[29, 33, 37\]\) has no episode"):
        build(quiet, Protocol(min_tag_users=2), "x", tmp_path / "task")


def test_the_cache_is_keyed_on_content(panel_task, cache, monkeypatch):
    def explode(*_: object, **__: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr("recrl.envs.data.prepared.build", explode)
    again = prepare(DataConfig(cache=cache))
    assert again.table.equals(panel_task.table)
    assert np.array_equal(again.panel.tag, panel_task.panel.tag)
    assert again.catalog.fingerprint == panel_task.catalog.fingerprint
    with pytest.raises(AssertionError, match="built again"):
        prepare(DataConfig(cache=cache, protocol=Protocol(lookback=10)))


def test_masks_put_each_list_in_its_row():
    mask = member_mask([{"target": [0, 2]}, {"target": []}, {"target": [1]}], "target", 3)
    assert mask.tolist() == [[True, False, True], [False] * 3, [False, True, False]]

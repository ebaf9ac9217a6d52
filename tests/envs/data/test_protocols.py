"""Protocols for other rhythms than the week: steps, each user's last steps, no repeats, and the k-core."""

import datetime as dt
from collections import defaultdict

import numpy as np
import polars as pl
import pytest

from recrl.envs.data import calendar, logs
from recrl.envs.data.core import core
from recrl.envs.data.events import Events
from recrl.envs.data.prepared import Data, build, fingerprint, prepare, restore
from recrl.envs.data.settings import DataConfig, DataError, Protocol
from recrl.envs.tags.baselines import lists
from recrl.envs.tags.prompts import prompted_rows

FIRST = dt.date(2023, 12, 14)


def events(users: int = 150, days: int = 60, seed: int = 0, tags: int = 12) -> Events:
    """Users who are there on some days, now and then."""
    draw = np.random.default_rng(seed)
    rows = [
        {"user": f"u{user}", "week": int(day), "tag": f"tag {int(tag):02d}"}
        for user in range(users)
        for day in sorted(draw.choice(np.arange(1, days + 1), draw.integers(1, 15), replace=False))
        for tag in draw.choice(tags, draw.integers(1, 4), replace=False)
    ]
    schema = {"user": pl.String, "week": pl.Int32, "tag": pl.String}
    return Events(pl.LazyFrame(rows, schema=schema), FIRST, 1, days, step="day")


def task(folder, protocol: Protocol, size: int = 2_000_000, **kwargs) -> Data:
    build(events(**kwargs), protocol, "x", folder / "task", size=size)
    return restore(folder / "task")


def bought(data: Data) -> dict[int, dict[int, set[int]]]:
    """User -> day -> tags."""
    found: dict[int, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for user, day, tag in zip(data.panel.user, data.panel.week, data.panel.tag, strict=True):
        found[int(user)][int(day)].add(int(tag))
    return found


LAST = Protocol(step="day", split="last", min_active_weeks=1, active_within=60, window=5, min_tag_users=2)


@pytest.mark.parametrize("step", ["hour", "day", "week", "month"])
def test_every_time_has_its_step(step):
    zero = calendar.step_zero(FIRST, step)
    times = [dt.datetime.combine(FIRST, dt.time(5)) + dt.timedelta(hours=7 * n) for n in range(2000)]
    numbers = (
        pl.DataFrame({"time": times}).select(calendar.numbers_of(pl.col("time"), zero, step)).to_series()
    )
    assert numbers.to_list() == [calendar.number_of(time, zero, step) for time in times]
    assert numbers[0] == (24 + 5 if step == "hour" else 1)
    for time, number in zip(times, numbers, strict=True):
        begin, end = (
            calendar.start_of(zero, n, step) for n in (number, number + (24 if step == "hour" else 1))
        )
        assert begin <= time.date() < end


@pytest.mark.parametrize("gap", [1, 3, 10])
def test_purchases_that_follow_closely_are_one_session(tmp_path, gap):
    usual, data = task(tmp_path / "days", LAST), task(tmp_path, LAST.model_copy(update={"session_gap": gap}))
    expected: dict[int, dict[int, set[int]]] = {}
    for user, days in bought(usual).items():
        sessions: dict[int, set[int]] = {}
        last = begin = -1000
        for day in sorted(days):
            begin = day if day - last > gap else begin
            last = day
            sessions.setdefault(begin, set()).update(days[day])
        expected[user] = sessions
    assert {user: dict(days) for user, days in bought(data).items()} == expected
    tests = {row["user"]: row for row in data.split("test").iter_rows(named=True)}
    assert len(tests) == sum(len(sessions) > 1 for sessions in expected.values())
    assert all(row["target"] == sorted(expected[user][max(expected[user])]) for user, row in tests.items())


def log(path, first: dt.datetime, days: int):
    times = [first + dt.timedelta(days=n, hours=n % 24) for n in range(days)]
    half = days // 2
    pl.DataFrame({"user": ["a", "b"] * half, "time": times, "tag": ["x", "y"] * half}).write_parquet(path)
    return path


def test_a_month_counts_if_the_log_goes_on_to_its_end(tmp_path):
    path = log(tmp_path / "a.parquet", dt.datetime(2024, 1, 20), 100)  # to April 28
    whole, all_of_it = (logs.load(path, step="month", whole=whole) for whole in (True, False))
    assert whole.week_zero == dt.date(2023, 12, 1)
    assert (whole.last_week, all_of_it.last_week) == (3, 4)
    months = all_of_it.purchases.collect().group_by("week").len().sort("week")
    assert months.rows() == [(1, 12), (2, 29), (3, 31), (4, 28)]
    assert whole.purchases.collect()["week"].max() == 3
    assert logs.load(path, step="day").last_week == 100


def test_the_last_days_of_a_user_are_his_test_and_validation(tmp_path):
    """Recomputed from the purchases of every user."""
    data = task(tmp_path, LAST)
    everything = bought(data)
    assert data.split("test").height == sum(len(days) > 1 for days in everything.values())
    for row in data.table.iter_rows(named=True):
        days = sorted(everything[row["user"]])
        of = {"test": days[-1], "validation": days[-2]}
        if row["split"] == "train":
            assert row["origin"] in days[1:-2][-LAST.user_origins :]
            window = range(row["origin"], min(row["origin"] + 5, of["validation"]))
        else:
            assert row["origin"] == of[row["split"]]
            window = [row["origin"]]
        target = set().union(*(everything[row["user"]].get(day, ()) for day in window))
        assert row["target"] == sorted(target)
        before = [day for day in days if day < row["origin"]]
        assert set(row["history"]) == set().union(*(everything[row["user"]][day] for day in before))
        weights = {tag: sum(tag in everything[row["user"]][day] for day in before) for tag in row["history"]}
        assert row["history_weight"] == [weights[tag] for tag in row["history"]]
        assert row["history_weight"] == sorted(row["history_weight"], reverse=True)
    assert not data.table.filter(pl.col("split") != "test")["unseen"].any()
    trained = data.split("train").group_by("user").len()["len"]
    assert trained.max() == LAST.user_origins


def test_a_ratio_holds_the_last_share_of_each_users_days(tmp_path):
    data = task(
        tmp_path, LAST.model_copy(update={"split": "ratio", "test_share": 0.2, "validation_share": 0.2})
    )
    everything = bought(data)
    for row in data.split("test").iter_rows(named=True):
        days = sorted(everything[row["user"]])
        held = [day for day in days if day >= row["origin"]]
        assert len(held) == max(1, len(days) - int(len(days) * 0.8))
        assert row["target"] == sorted(set().union(*(everything[row["user"]][day] for day in held)))
    of_users = data.split("test").select("user", test="origin")
    for split in ("train", "validation"):
        joined = data.split(split).join(of_users, on="user")
        assert joined.height > 20
        assert (joined["origin"] < joined["test"]).all()


@pytest.mark.parametrize("split", ["last", "ratio"])
def test_nothing_is_learned_of_days_that_are_held_out(tmp_path, split):
    data = task(tmp_path, LAST.model_copy(update={"split": split}))
    episodes = data.table.filter(pl.col("split") != "train").group_by("user").agg(pl.col("origin").min())
    held = dict(episodes.iter_rows())
    counts = data.panel.counts(0, 100, training_users=True).toarray()
    everything = bought(data)
    assert len(held) < len(everything)  # of a single day nothing is held out
    for user in everything:
        kept = [day for day in everything[user] if day < held.get(user, 1000) and not data.panel.unseen[user]]
        for tag in range(len(data.catalog)):
            assert counts[user, tag] == sum(tag in everything[user][day] for day in kept)
    # Popularity, which breaks ties of the histories, is the panel's whatever the ranges.
    parts = tmp_path / "parts"
    build(events(), data.protocol.model_copy(update={"statistics_end": None}), "x", parts, size=200)
    key = ["split", "user", "origin"]
    assert restore(parts).table.sort(key).equals(data.table.sort(key))
    row = data.split("test").row(-1, named=True)
    popular, weight = data.panel.popularity(row["origin"]), row["history_weight"]
    order = [(-w, -popular[tag], tag) for tag, w in zip(row["history"], weight, strict=True)]
    assert order == sorted(order)


def test_without_repeats_a_target_is_new_to_the_user(tmp_path):
    data = task(tmp_path, LAST.model_copy(update={"repeats": False}))
    assert all(not set(row["target"]) & set(row["history"]) for row in data.table.iter_rows(named=True))
    usual = task(tmp_path / "usual", LAST)
    key = ["split", "user", "origin"]
    joined = data.table.join(usual.table, on=key, suffix=" usual")
    for row in joined.iter_rows(named=True):
        assert set(row["target"]) == set(row["target usual"]) - set(row["history"])
    lost = data.losses["test"]["with nothing but repeats (data.protocol.repeats=false)"]
    assert lost == usual.split("test").height - data.split("test").height > 0
    rows = data.split("test").to_dicts()
    for name, ranked in lists(data, 3, 0.5).items():
        for tags, row in zip(ranked(rows).tolist(), rows, strict=True):
            room = min(3, len(data.catalog) - len(row["history"]))
            assert not set(tags) & set(row["history"]), name
            assert [tag >= 0 for tag in tags] == [True] * room + [False] * (3 - room)


def test_the_core_is_the_largest_set_of_users_and_tags_that_have_enough_of_each_other():
    found = events(users=60, tags=40)
    pairs = set(found.purchases.select("user", "tag").unique().collect().iter_rows())
    while True:
        users = {user for user, _ in pairs}
        kept = {
            (user, tag)
            for user, tag in pairs
            if sum(u == user for u, _ in pairs) >= 8 and sum(t == tag for _, t in pairs) >= 8
        }
        if kept == pairs:
            break
        pairs = kept
    assert 0 < len(users) < 60
    left = core(found, 8)
    assert set(left.purchases.select("user", "tag").collect().iter_rows()) == pairs
    assert left.report["users outside of data.protocol.k_core (dropped)"] == 60 - len(users)
    with pytest.raises(DataError, match=r"data\.protocol\.k_core=70 leaves nobody"):
        core(found, 70)


def test_a_prompt_names_the_step(tmp_path):
    data = task(tmp_path, LAST)
    text = prompted_rows(data.split("test").head(1), data.catalog, 3, step="day")[0]["prompt"][1]["content"]
    assert "daily:" in text
    assert "weekly" not in text


def test_the_panel_of_weeks_has_no_days(tmp_path):
    with pytest.raises(DataError, match=r"data\.protocol\.step=day: the Complete Journey panel tells weeks"):
        prepare(DataConfig(cache=tmp_path, protocol=Protocol(step="day")))


def test_settings_that_are_left_alone_identify_the_tables_of_earlier_versions(tmp_path):
    """Runs that began with these tables go on with them."""
    assert fingerprint(DataConfig()) == "5fc0dc0048cc63ae"
    known = {fingerprint(DataConfig())}
    for change in (
        {"k_core": 2},
        {"repeats": False},
        {"split": "last"},
        {"step": "day"},
        {"user_origins": 3},
    ):
        known.add(fingerprint(DataConfig(protocol=Protocol(**change))))
    assert len(known) == 6

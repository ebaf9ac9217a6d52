"""A user's own logs: what is read, what is refused and how, what is dropped and counted."""

import datetime as dt
import json

import polars as pl
import pytest

from recrl.envs.data import logs
from recrl.envs.data.prepared import prepare
from recrl.envs.data.settings import DataConfig, DataError, LogColumns, Protocol

START = dt.datetime(2024, 1, 3, 12)  # a Wednesday


def events(weeks: int = 45, users: int = 40) -> list[dict]:
    return [
        {"user": f"u{u}", "time": START + dt.timedelta(weeks=w, hours=u), "tag": f"tag {t}"}
        for u in range(users)
        for w in range(weeks)
        for t in sorted({u % 5, w % 7, 6})
    ]


def parquet(path, rows):
    pl.DataFrame(rows).write_parquet(path)
    return path


def rows_of(found):
    return found.purchases.collect().sort("user", "week", "tag")


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))
    return path


def test_parquet_and_json_lines_give_the_same_events(tmp_path):
    rows = events()
    one = logs.load(parquet(tmp_path / "a.parquet", rows))
    other = logs.load(jsonl(tmp_path / "a.jsonl", [{**r, "time": r["time"].isoformat()} for r in rows]))
    assert rows_of(one).equals(rows_of(other))
    assert one.week_zero == dt.date(2023, 12, 25)
    assert rows_of(one)["week"].min() == 1
    # The last Wednesday's week is not over, so it is no week yet.
    assert rows_of(one)["week"].max() == one.last_week == 44


def test_a_log_becomes_a_task(tmp_path):
    path = parquet(tmp_path / "logs.parquet", events())
    config = DataConfig(source=str(path), cache=tmp_path / "cache", protocol=Protocol(min_tag_users=3))
    task = prepare(config)
    assert set(task.catalog.tags) == {f"tag {t}" for t in range(7)}
    assert task.protocol.test_origins == (33, 37, 41)
    row = task.split("test").row(0, named=True)
    assert task.catalog.id("tag 6") in row["target"]


def test_mapped_columns_and_profiles(tmp_path):
    rows = [
        {"who": "a", "at": "2024-01-01", "what": "x", "bio": "old"},
        {"who": "a", "at": "2024-02-01", "what": "x", "bio": "new"},
        {"who": "b", "at": "2024-02-05", "what": "y", "bio": None},
    ]
    columns = LogColumns(user="who", time="at", tag="what", profile="bio")
    found = logs.load(jsonl(tmp_path / "x.jsonl", rows), columns)
    assert found.profiles == {"a": "new"}


def test_purchases_of_a_tag_within_a_week_are_merged_and_counted(tmp_path):
    rows, protocol = events(), Protocol(min_tag_users=3)
    once, twice = (
        prepare(DataConfig(source=str(parquet(tmp_path / name, more)), cache=tmp_path, protocol=protocol))
        for name, more in (("a.parquet", rows), ("b.parquet", rows + rows[:17]))
    )
    counted = "repeated purchases of a tag in a week (merged)"
    assert once.report["rows read"] + 17 == twice.report["rows read"] == len(rows) + 17
    assert once.report[counted] + 17 == twice.report[counted] == 17
    assert once.table.equals(twice.table)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"time": "yesterday"}, r"row 4: column 'time' holds 'yesterday', which is no time"),
        ({"time": "2024-13-45"}, r"row 4: column 'time' holds '2024-13-45', which is no time"),
        ({"time": None}, r"row 4: column 'time' holds None"),
        ({"user": None}, r"row 4: column 'user' holds None, which is no user"),
        ({"tag": "  "}, r"row 4: column 'tag' holds '  ', which is no tag"),
    ],
)
def test_a_bad_row_is_named_or_dropped_and_counted(tmp_path, spoil, message):
    rows = [{**r, "time": r["time"].isoformat()} for r in events(10, 4)]
    rows[3] = {**rows[3], **spoil}
    path = jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match=message) as caught:
        logs.load(path)
    assert "data.bad_rows=drop" in str(caught.value)
    found = logs.load(path, bad_rows="drop")
    assert found.report["rows with a missing or unreadable user, time or tag (dropped)"] == 1


def test_a_missing_column_is_named_with_what_there_is(tmp_path):
    path = parquet(tmp_path / "a.parquet", [{"user": "a", "when": START, "tag": "x"}])
    with pytest.raises(
        DataError, match=r"no column 'time' \(data\.columns\.time\); it has \['tag', 'user', 'when'\]"
    ):
        logs.load(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match=r"cannot read '\.xlsx' files; a log file ends with \.parquet, "):
        logs.load(tmp_path / "a.xlsx")
    with pytest.raises(DataError, match=r"cannot read '\.parquet\.gz' files"):
        logs.load(tmp_path / "a.parquet.gz")
    with pytest.raises(DataError, match="no such file"):
        logs.load(tmp_path / "a.parquet")
    broken = tmp_path / "broken.parquet"
    broken.write_text("not parquet")
    with pytest.raises(DataError, match="no readable Parquet file"):
        logs.load(broken)
    with pytest.raises(DataError, match="it must be a datetime"):
        logs.load(parquet(tmp_path / "n.parquet", [{"user": "a", "time": 3, "tag": "x"}]))


def test_a_log_without_a_usable_row(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"user": "a", "time": "never", "tag": "x"}])
    with pytest.raises(DataError, match=r"holds no usable row \(1 read, 1 bad\)"):
        logs.load(path, bad_rows="drop")

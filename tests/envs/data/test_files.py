"""Several files as one log: folders, patterns, the order of names, and parts that differ."""

import datetime as dt

import polars as pl
import pytest

from recrl.envs.data import files, logs
from recrl.envs.data.settings import DataError, LogColumns

START = dt.datetime(2024, 1, 3)


def part(first_week: int, user: object = "a", **columns: object) -> pl.DataFrame:
    times = [START + dt.timedelta(weeks=first_week + week) for week in range(5)]
    return pl.DataFrame({"user": [user] * 5, "time": times, "tag": ["x", "y", "x", "y", "x"], **columns})


@pytest.fixture
def parts(tmp_path):
    """Parts as Spark writes them, and what it leaves beside them."""
    folder = tmp_path / "parts"
    (folder / "2024").mkdir(parents=True)
    for number in range(3):
        part(5 * number).write_parquet(folder / "2024" / f"part-{number}.PARQUET")
    (folder / "2024" / ".part-0.parquet.crc").write_bytes(b"\0")
    (folder / "_temporary").mkdir()
    part(90).write_parquet(folder / "_temporary" / "part-9.parquet")
    for name in ("_SUCCESS", "README.txt", "part-3.parquet"):
        (folder / name).write_bytes(b"")
    return folder


def test_a_folder_of_parts_and_a_pattern_are_one_log(parts, tmp_path):
    pl.concat([part(0), part(5), part(10)]).write_parquet(tmp_path / "one.parquet")
    one = logs.load(tmp_path / "one.parquet")
    for source in (parts, f"{parts}/2024/*.PARQUET", f"{parts}/**/part-[0-2].*"):
        found = logs.load(source)
        assert found.report == one.report
        assert found.purchases.collect().sort("week").equals(one.purchases.collect().sort("week"))
    assert logs.load(parts).reading["files"] == (
        f"3 Parquet files of {parts}, from part-0.PARQUET to part-2.PARQUET"
    )


def test_files_are_read_in_the_order_of_their_names(tmp_path):
    for name in ("b.csv", "a.csv", "c/a.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("user,time,tag\n")
    assert [str(path.relative_to(tmp_path)) for path in files.resolve(tmp_path)] == [
        "a.csv",
        "b.csv",
        "c/a.csv",
    ]


def test_the_content_of_every_part_identifies_the_log(parts):
    before = files.fingerprint(parts)
    assert files.fingerprint(f"{parts}/2024/*") == before
    part(11).write_parquet(parts / "2024" / "part-2.PARQUET")
    assert files.fingerprint(parts) != before


def test_parts_that_are_read_differently_are_one_log_and_are_named(parts):
    part(15, user=7).write_parquet(parts / "2024" / "part-3.parquet")
    part(20, tag=[["x"], ["y", "z"], ["x"], ["x"], ["x"]]).write_parquet(parts / "2024" / "part-4.parquet")
    found = logs.load(parts)
    assert set(found.purchases.collect()["user"]) == {"a", "7"}
    assert set(found.purchases.collect()["tag"]) == {"x", "y", "z"}
    assert found.reading["differences"] == (
        "part-3.parquet: column 'user': whole numbers, but part-0.PARQUET: column 'user': text; "
        "part-4.parquet: column 'tag': lists of text, but part-0.PARQUET: column 'tag': text"
    )


def test_parts_of_text_are_looked_at_one_by_one(tmp_path):
    """Seconds and milliseconds, whole numbers and what a join has left of them, words and lists."""
    (tmp_path / "a.csv").write_text("user,time,tag\n1,1704067200,x\n2,1704153600,y\n")
    (tmp_path / "b.csv").write_text("user,time,tag\n1.0,1704672000000,\"['x', 'z']\"\n,1704758400000,['y']\n")
    (tmp_path / "c.csv").write_text("user,time,tag\n1,2024-01-15T00:00:00+00:00,x\n2,2024-01-29,y\n")
    found = logs.load(tmp_path, bad_rows="drop")
    purchases = found.purchases.collect().sort("week", "tag").rows()
    assert purchases == [("1", 1, "x"), ("2", 1, "y"), ("1", 2, "x"), ("1", 2, "z"), ("1", 3, "x")]
    assert found.report["rows with a missing or unreadable user, time or tag (dropped)"] == 1
    said = found.reading["differences"]
    assert (
        "b.csv: column 'time': milliseconds since 1970, but a.csv: column 'time': seconds since 1970" in said
    )
    assert "b.csv: column 'tag': lists, but a.csv: column 'tag': text" in said
    assert "c.csv: column 'time': ISO 8601 text, in part with time zones or without seconds, but" in said


def test_tables_with_other_orders_of_columns_are_one_log(tmp_path):
    (tmp_path / "a.csv").write_text("user,time,tag\na,2024-01-01,x\na,2024-01-08,y\n")
    (tmp_path / "b.csv").write_text("tag;time;user\nx;2024-01-15;b\n\nx;2024-01-29;b\n")
    found = logs.load(tmp_path).purchases.collect().sort("week")
    assert found["user"].to_list() == ["a", "a", "b"]
    assert found["week"].to_list() == [1, 2, 3]


def test_a_bad_row_is_named_with_its_file(parts):
    part(15, user=None).write_parquet(parts / "2024" / "part-3.parquet")
    with pytest.raises(DataError, match=r"part-3\.parquet, row 1: column 'user' holds None"):
        logs.load(parts)
    damaged = part(20).with_columns(tag=pl.Series(["x", "x", " ", "x", "x"]))
    damaged.write_parquet(parts / "2024" / "part-2.PARQUET")
    with pytest.raises(DataError, match=r"part-2\.PARQUET, row 3: column 'tag' holds ' ', which is no tag"):
        logs.load(parts)
    assert logs.load(parts, bad_rows="drop").report["rows read"] == 20


def test_parts_without_rows_change_nothing(parts):
    before = logs.load(parts)
    part(15).with_columns(user=pl.lit(1), time=pl.lit(2)).clear().write_parquet(
        parts / "2024" / "part-3.parquet"
    )
    again = logs.load(parts)
    assert again.report == before.report
    assert "differences" not in again.reading


def test_a_column_may_have_any_name(tmp_path):
    (tmp_path / "a.csv").write_text("row,fault,raw user\na,2024-01-01,x\na,2024-01-09,y\nb,2024-01-20,x\n")
    columns = LogColumns(user="row", time="fault", tag="raw user")
    assert logs.load(tmp_path / "a.csv", columns).purchases.collect().height == 2


def test_a_part_without_a_column_is_named(parts):
    part(15).drop("tag").write_parquet(parts / "2024" / "part-3.parquet")
    with pytest.raises(DataError, match=r"part-3\.parquet has no column 'tag'"):
        logs.load(parts)


def test_sources_without_files_and_of_several_formats_are_refused(parts, tmp_path):
    with pytest.raises(DataError, match=r"\*\.csv: no log file has such a name; a log file ends with"):
        logs.load(f"{parts}/*.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: a folder without a log file"):
        logs.load(tmp_path / "empty")
    (parts / "a.csv").write_text("user,time,tag\n")
    with pytest.raises(DataError, match=r"part-0.* is Parquet, a\.csv is CSV; name those of one format"):
        logs.load(parts)

"""Formats of logs: the same rows are the same events in each, and the types of columns are found and said."""

import csv
import datetime as dt
import gzip
import io
import json
import random

import movielens
import polars as pl
import pytest

from recrl.envs.data import delimited, logs
from recrl.envs.data.prepared import prepare
from recrl.envs.data.settings import DataConfig, DataError, LogColumns, Protocol

LOG = movielens.weekly()
DROPPED = "rows with a missing or unreadable user, time or tag (dropped)"


def purchases(found):
    return found.purchases.collect().unique().sort("user", "week", "tag")


def delimited_text(separator: str, tags, times=lambda seconds: seconds) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=separator, lineterminator="\n")
    writer.writerow(["user", "time", "tag"])
    writer.writerows((user, times(when), tags(found)) for user, when, found in LOG)
    return stream.getvalue()


def json_lines(tags) -> str:
    rows = ({"user": user, "time": when, "tag": tags(found)} for user, when, found in LOG)
    return "".join(json.dumps(row) + "\n" for row in rows)


def iso(seconds: int) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat()


EXPECTED = pl.DataFrame(
    [
        {"user": user, "time": dt.datetime.fromtimestamp(when, dt.UTC).replace(tzinfo=None), "tag": tag}
        for user, when, tags in LOG
        for tag in tags
    ]
)
TEXTS = {
    "a.csv": delimited_text(",", "|".join),
    "b.CSV": delimited_text(";", "|".join),
    "c.tsv": delimited_text("\t", "|".join),
    "d.csv.gz": delimited_text(",", "|".join, lambda seconds: seconds * 1000),
    "e.inter": delimited_text("\t", "|".join, float).replace(
        "user\ttime\ttag", "user_id:token\ttimestamp:float\titem_id:token"
    ),
    "f.jsonl.gz": json_lines(list),
    "g.ndjson": json_lines("|".join),
    "h.csv": delimited_text(",", list),  # as pandas writes lists: ['a', 'b']
    "i.csv": delimited_text(",", lambda tags: json.dumps(list(tags))),
    "j.csv": delimited_text(",", "|".join, iso),
    "k.csv": "\ufeff" + delimited_text(",", "|".join, lambda s: iso(s)[:16]).replace("\n", "\r\n"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_log_is_the_same_in_every_format(tmp_path, name):
    EXPECTED.write_parquet(tmp_path / "same.parquet")
    content = TEXTS[name].encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    found = logs.load(tmp_path / name, LogColumns(tag_separator="|"))
    assert purchases(found).equals(purchases(logs.load(tmp_path / "same.parquet")))
    assert found.report == {"rows read": len(LOG), DROPPED: 0}


def test_lists_without_a_separator_are_text_and_the_setting_is_said(tmp_path):
    (tmp_path / "a.csv").write_text(TEXTS["a.csv"])
    found = logs.load(tmp_path / "a.csv", LogColumns())
    words = "column 'tag': text, much of it with | (lists: data.columns.tag_separator='|')"
    assert found.reading["tag"] == words
    found = logs.load(tmp_path / "a.csv", LogColumns(tag_separator="|"))
    assert found.reading["tag"] == "column 'tag': lists, separated by '|'"


def test_lists_of_tags_in_parquet_are_rows_of_their_own(tmp_path):
    EXPECTED.write_parquet(tmp_path / "same.parquet")
    whole = purchases(logs.load(tmp_path / "same.parquet"))
    lists = EXPECTED.group_by("user", "time", maintain_order=True).agg("tag")
    for kind in (pl.List(pl.String), pl.Array(pl.String, 2), pl.List(pl.Categorical)):
        lists.with_columns(pl.col("tag").cast(kind)).write_parquet(tmp_path / "lists.parquet")
        found = logs.load(tmp_path / "lists.parquet")
        assert purchases(found).equals(whole)
        assert found.report["rows read"] == len(LOG)
        assert found.reading["tag"] == "column 'tag': lists of text"


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("seconds", 1), ("milliseconds", 10**3), ("microseconds", 10**6), ("nanoseconds", 10**9)],
)
def test_the_size_of_a_number_tells_its_unit(tmp_path, unit, factor):
    numbers = [when * factor for _, when, _ in LOG]
    table = pl.DataFrame({"user": [u for u, *_ in LOG], "time": numbers, "tag": "x"})
    for kind in (pl.Int64, pl.Float64, pl.String):
        table.with_columns(pl.col("time").cast(kind)).write_parquet(tmp_path / "a.parquet")
        found = logs.load(tmp_path / "a.parquet")
        assert found.reading["time"] == f"column 'time': {unit} since 1970, 2024-01-03 to 2024-11-06"
        assert found.week_zero == dt.date(2023, 12, 25)


def test_a_time_that_is_no_such_number_is_named(tmp_path):
    rows = [f"{u},{t},x" for u, t, _ in LOG]
    rows[4] = "u0,881,x"
    (tmp_path / "a.csv").write_text("\n".join(["user,time,tag", *rows]))
    expected = r"row 5: column 'time' holds '881', which is no time \(the others are seconds since 1970\)"
    with pytest.raises(DataError, match=expected):
        logs.load(tmp_path / "a.csv")
    assert logs.load(tmp_path / "a.csv", bad_rows="drop").report[DROPPED] == 1


def test_several_columns_are_one_profile(tmp_path):
    """The last value of each in time; a user without any has none."""
    table = pl.DataFrame(
        {
            "user": ["a", "a", "b", "c"],
            "time": ["2024-01-01", "2024-02-01", "2024-02-01", "2024-02-05"],
            "tag": "x",
            "age": [34.0, float("nan"), 20.0, None],
            "home_town": ["Oslo", "Rome", None, None],
        }
    )
    table.write_parquet(tmp_path / "a.parquet")
    found = logs.load(tmp_path / "a.parquet", LogColumns(profile=["age", "home_town"]))
    assert found.profiles == {"a": "age 34, home town Rome", "b": "age 20"}
    assert found.reading["profile"] == "column 'age': floats; column 'home_town': text"


def test_films_of_recbole_and_of_a_table_are_one_task(tmp_path):
    """The same ratings as a ``.inter`` file and as compressed CSV; every column that a user would name."""
    log = [*movielens.rows(ratings=8000, users=120)]
    protocol = Protocol(min_tag_users=5, min_active_weeks=1, active_within=20)
    given = {"profile": ["age", "gender"], "tag": "genres"}
    one = DataConfig(
        source=str(movielens.write(tmp_path / "ml.inter", log)),
        columns=LogColumns(**given),
        cache=tmp_path,
        protocol=protocol,
    )
    other = one.model_copy(
        update={
            "source": str(movielens.write(tmp_path / "ml.csv.gz", log)),
            "columns": LogColumns(time="timestamp", tag_separator="|", **given),
        }
    )
    recbole, table = prepare(one), prepare(other)
    assert set(recbole.catalog.tags) == set(movielens.GENRES)
    assert recbole.table.equals(table.table)
    assert recbole.reading["user"] == "column 'user_id': whole numbers"
    assert recbole.reading["tag"] == "column 'genres': lists, separated by ' '"
    assert table.table["profile"].str.contains(r"^age \d+, gender [MF]$").all()


def test_a_file_without_a_line_of_names_says_so(tmp_path):
    (tmp_path / "u.tsv").write_text("196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    with pytest.raises(DataError, match=r"its first line, '196.t242.t3.t881250949', must name the columns"):
        logs.load(tmp_path / "u.tsv")
    (tmp_path / "a.csv").write_text("user,time,tag,tag\na,b,c,d\n")
    with pytest.raises(DataError, match="its first line names 'tag' twice"):
        logs.load(tmp_path / "a.csv")


# A row of a table as text -> what is said of it.
ROWS = {
    "torn": (b"u1,17", "column 'time' holds '17', which is no time"),
    "a field too many": (b"u1,1704283200,x,y", "4 fields, but the first line names 3 columns"),
    "an open quotation mark": (b'u1,1704283200,"x', "a quotation mark that is not closed"),
    "no UTF-8": (b"u1,1704283200,\xff", "no UTF-8"),
    "nobody": (b",1704283200,x", "column 'user' holds None, which is no user"),
}


@pytest.mark.parametrize("damage", ROWS)
def test_a_damaged_row_of_a_table_is_named_or_dropped_and_counted(tmp_path, damage):
    line, message = ROWS[damage]
    good = [f"{u},{t},{tags[0]}".encode() for u, t, tags in LOG]
    path = tmp_path / "a.csv"
    path.write_bytes(b"\n".join([b"user,time,tag", *good[:7], line, *good[8:], b""]))
    with pytest.raises(DataError, match=message) as caught:
        logs.load(path)
    assert f"{path}, row 8: " in str(caught.value)
    found = logs.load(path, bad_rows="drop")
    assert found.report == {"rows read": len(LOG), DROPPED: 1}


def test_a_damaged_row_of_a_table_harms_no_other_row(tmp_path):
    """Polars reads as many rows as Python, and the whole ones alike; or it stops."""
    draw, path, stopped = random.Random(0), tmp_path / "log.csv", 0
    good = delimited_text(",", lambda tags: f'{tags[0]}, "{tags[1]}"').split("\n")[:20]
    header, body = good[0].encode() + b"\n", "\n".join(good[1:]).encode()
    layout = delimited.Layout(("user", "time", "tag"), ",", '"')
    for _ in range(300):
        content = bytearray(body)
        at = draw.randrange(len(content))
        content[at : at + draw.choice((0, 1, 1, 5))] = bytes([draw.choice(b'",\nax\xff')])
        path.write_bytes(header + content)
        patient = delimited.patient([path], layout).collect()
        whole = [next(csv.reader([row])) for row in good[1:] if row.encode() in content.split(b"\n")]
        whole = [(*row, None) for row in whole]
        assert [row for row in patient.rows() if row in whole] == whole
        try:
            quick = delimited.quick([path], layout).collect()
        except pl.exceptions.PolarsError:
            stopped += 1
            continue
        assert quick.height == patient.height, bytes(content)
        assert [row for row in quick.rows() if row in whole] == whole
    assert 50 < stopped < 290


def test_a_torn_compressed_file_is_one_line(tmp_path):
    content = gzip.compress(json_lines(list).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz is no readable .*: Compressed file ended"):
        logs.load(tmp_path / "a.jsonl.gz")
    (tmp_path / "b.csv.gz").write_bytes(b"user,time,tag\n")
    with pytest.raises(DataError, match=r"b\.csv\.gz is no readable CSV file: Not a gzipped file"):
        logs.load(tmp_path / "b.csv.gz")

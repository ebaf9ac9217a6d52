"""Ordinary damage of logs: one line that names file, row and fix, or a counted drop; never a traceback."""

import datetime as dt
import io
import json
import os
import random
import resource

import polars as pl
import pyarrow.parquet as pq
import pytest

from recrl.envs.data import lines, logs, parquet
from recrl.envs.data.patient import FAULT
from recrl.envs.data.prepared import prepare
from recrl.envs.data.settings import DataConfig, DataError, LogColumns, Protocol

START = dt.datetime(2024, 1, 3)
DROPPED = "rows with a missing or unreadable user, time or tag (dropped)"


def row(number: int) -> dict:
    user, week = divmod(number, 45)
    when = START + dt.timedelta(weeks=week)
    return {"user": f"u{user}", "time": when.isoformat(), "tag": f"tag {(user + week) % 5}"}


ROWS = [row(number) for number in range(45 * 40)]
GOOD = [json.dumps(one).encode() for one in ROWS]


def spoiled(**changes: object) -> bytes:
    return json.dumps({**ROWS[7], **changes}).encode()


def config(path, **settings) -> DataConfig:
    return DataConfig(
        source=str(path), cache=path.parent / "cache", protocol=Protocol(min_tag_users=2), **settings
    )


def refused(path, **settings) -> str:
    """The message of a log that is refused, one line of moderate length."""
    with pytest.raises(DataError) as caught:
        prepare(config(path, **settings))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 700
    assert str(path) in message
    return message


def refusal(path) -> str | None:
    """The message of a log that may be refused."""
    try:
        logs.load(path)
    except DataError as error:
        return str(error)
    return None


# One line of JSON lines -> what is said of it, in row 8.
LINES = {
    "torn": (b'{"user": "u1", "ti', "no JSON: "),
    "no UTF-8": (GOOD[0].replace(b"u0", b"\xff\xfe"), "no UTF-8"),
    "a list": (b"[1, 2]", "no JSON object"),
    "a number": (b"7", "no JSON object"),
    "free text": (b"hello world", "no JSON: 'hello world'"),
    "two objects": (GOOD[1] + GOOD[2], "no JSON: "),
    "NaN": (b'{"user": NaN, "time": "2024-01-03", "tag": "x"}', "no JSON: "),
    "half of a pair": (b'{"user": "\\ud800\xff", "time": "2024-01-03", "tag": "x"}', "no UTF-8"),
    "very deep": (b'{"user": ' + b"[" * 9999 + b"]" * 9999 + b"}", "no JSON: "),
    "no key": (b'{"user": "u1", "time": "2024-01-03"}', "column 'tag' holds None, which is no tag"),
    "null": (spoiled(user=None), "column 'user' holds None, which is no user"),
    "empty list of tags": (spoiled(tag=[]), r"column 'tag' holds '\[\]', which is no tag"),
    "list of objects": (spoiled(tag=[{"a": 1}]), "column 'tag' holds '.*', which is no tag"),
    "list with a gap": (spoiled(tag=["a", None]), "column 'tag' holds '.*', which is no tag"),
    "user is an object": (spoiled(user={"id": 1}), "column 'user' holds .*, which is no user"),
    "year 1": (spoiled(time="0001-01-01"), "column 'time' holds '0001-01-01', which is no time"),
    "year 9999": (spoiled(time="9999-12-31"), "column 'time' holds '9999-12-31', which is no time"),
    "year 292277": (spoiled(time="292277-01-01"), "which is no time"),
    "a number of seconds": (spoiled(time=1704067200), "column 'time' holds '1704067200', which is no time"),
    "zero width": (spoiled(tag="\u200b\u2060"), "which is no tag"),
    "markup alone": (spoiled(tag="<>:"), "column 'tag' holds '<>:', which is no tag"),
    "10 MB of tag": (spoiled(tag="x" * 10_000_000), "holds 'x+..., which is no tag"),
    "10 MB of user": (spoiled(user="x" * 10_000_000), "holds 'x+..., which is no user"),
}


@pytest.mark.parametrize("damage", LINES)
def test_a_damaged_line_is_named_or_dropped_and_counted(tmp_path, damage):
    line, message = LINES[damage]
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\n".join([*GOOD[:7], line, *GOOD[8:], b""]))
    with pytest.raises(DataError, match=message) as caught:
        logs.load(path)
    assert f"{path}, row 8: " in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert "data.bad_rows=drop" in str(caught.value)
    found = logs.load(path, bad_rows="drop")
    assert found.report == {"rows read": len(GOOD), DROPPED: 1}


def test_a_log_without_its_damaged_lines_gives_the_same_task(tmp_path):
    """What is read line by line is what Polars reads."""
    whole, damaged = tmp_path / "whole.jsonl", tmp_path / "damaged.jsonl"
    whole.write_bytes(b"\n".join(GOOD))
    damaged.write_bytes(b"\xef\xbb\xbf" + b"\n".join([*GOOD[:99], b'{"user', b"", *GOOD[99:], GOOD[3][:30]]))
    one, other = prepare(config(whole)), prepare(config(damaged, bad_rows="drop"))
    assert one.table.equals(other.table)
    assert other.report[DROPPED] == 2
    assert "row 100: no JSON" in refused(damaged)


def test_both_readers_agree_on_any_damage(tmp_path):
    """Polars reads what Python reads, or stops; it skips nothing in silence."""
    draw, path, stopped = random.Random(0), tmp_path / "log.jsonl", 0
    names = dict.fromkeys(["user", "time", "tag"], pl.String())
    for _ in range(200):
        content = bytearray(b"\n".join(GOOD[:20]))
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(content))
            content[at : at + draw.choice((0, 1, 1, 5))] = bytes([draw.randrange(256)])
        path.write_bytes(content)
        patient = lines.patient([path], names).collect()
        try:
            quick = lines.quick([path], names).collect()
        except pl.exceptions.PolarsError:
            stopped += 1
            continue
        assert not patient[FAULT].is_not_null().any(), bytes(content)
        assert quick.equals(patient), bytes(content)
    assert stopped > 20


TIMES = [START + dt.timedelta(weeks=week) for week in range(45)]


def table(**columns: object) -> pl.DataFrame:
    good = {"user": ["a"] * 45, "time": TIMES, "tag": ["x", "y", "z"] * 15}
    return pl.DataFrame({**good, **columns})


# A Parquet column -> what is said of it.
COLUMNS = {
    "lists as users": ({"user": [["a"]] * 45}, r"column 'user' \(data.columns.user\) is List\(String\)"),
    "structs as tags": ({"tag": [{"a": 1}] * 45}, r"column 'tag' \(data.columns.tag\) is Struct"),
    "structs as times": ({"time": [{"a": 1}] * 45}, r"column 'time' \(data.columns.time\) is Struct"),
    "lists of structs as tags": ({"tag": [[{"a": 1}]] * 45}, r"column 'tag' \(data.columns.tag\) is Struct"),
    "numbers as times": ({"time": [1.5] * 45}, "it must be a datetime, a date or ISO 8601 text"),
    "nulls": ({"tag": [None] * 45}, "row 1: column 'tag' holds None, which is no tag"),
    "year 292277": (
        {"time": pl.Series([2**62] * 45).cast(pl.Datetime("ms"))},
        "row 1: column 'time' holds 'a year outside of 1900 to 2199', which is no time",
    ),
    "before Christ": (
        {"time": pl.Series([-(2**62)] * 45).cast(pl.Datetime("us", "Europe/Berlin"))},
        "row 1: column 'time' holds 'a year outside of 1900 to 2199', which is no time",
    ),
    "day 2**31": (
        {"time": pl.Series([2**31 - 1] * 45, dtype=pl.Int32).cast(pl.Date)},
        "row 1: column 'time'",
    ),
    "bytes": ({"tag": [b"\xff\xfe"] * 45}, "cannot be read: "),
}


@pytest.mark.parametrize("damage", COLUMNS)
def test_a_column_of_parquet_that_cannot_be_used_is_named(tmp_path, damage):
    columns, message = COLUMNS[damage]
    path = tmp_path / "log.parquet"
    table(**columns).write_parquet(path)
    with pytest.raises(DataError, match=message):
        logs.load(path)
    refused(path)
    refused(path, bad_rows="drop")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_user_that_is_no_number_is_named_or_dropped(tmp_path, number):
    path = tmp_path / "log.parquet"
    table(user=[1.0, number] + [2.0] * 43).write_parquet(path)
    with pytest.raises(DataError, match=f"row 2: column 'user' holds {number}, which is no user"):
        logs.load(path)
    found = logs.load(path, bad_rows="drop")
    assert found.report[DROPPED] == 1
    assert set(found.purchases.collect()["user"]) == {"1", "2"}


def test_profiles_are_single_values(tmp_path):
    path = tmp_path / "log.parquet"
    table(profile=[["a"]] * 45).write_parquet(path)
    with pytest.raises(DataError, match="column 'profile'"):
        logs.load(path, LogColumns(profile="profile"))


def test_integers_of_any_size_are_users(tmp_path):
    path = tmp_path / "log.jsonl"
    ids = (-5, 0, 2**80, "2e3")
    path.write_bytes(b"\n".join(spoiled(user=user) for user in ids))
    found = logs.load(path).purchases.collect()["user"].to_list()
    assert found == []  # one day is no whole week
    path.write_bytes(b"\n".join([*(spoiled(user=user) for user in ids), *GOOD]))
    assert {"-5", "0", str(2**80), "2e3"} < set(logs.load(path).purchases.collect()["user"])


# Whole files -> what is said of them.
FILES = {
    "empty.jsonl": (b"", "it is empty"),
    "blank.jsonl": (b"\n \n", "it is empty"),
    "empty.parquet": (b"", "no readable Parquet file"),
    "noise.jsonl": (bytes(range(128, 256)) * 9, "row 1: no UTF-8"),
    "noise.parquet": (bytes(range(256)) * 9, "no readable Parquet file"),
    "wide.jsonl": (b"\n".join(GOOD).decode().encode("utf-16"), "it is UTF-16 text; write it as UTF-8"),
    "twice.jsonl": (
        b'{"user": "a", "time": "2024-01-03", "tag": "x", "tag": "y"}',
        "row 1 holds 'tag' twice",
    ),
    "array.jsonl": (b'[{"user": "a"}]', "row 1: no JSON object"),
    "pretty.jsonl": (json.dumps(ROWS[0], indent=1).encode(), "row 1: no JSON: '{'"),
    "zeros.jsonl": (bytes(1 << 16), "row 1: no JSON"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_log_says_why(tmp_path, name):
    content, message = FILES[name]
    (tmp_path / name).write_bytes(content)
    assert message in refused(tmp_path / name)
    assert message in refused(tmp_path / name, bad_rows="drop")


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    (tmp_path / "folder.parquet").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "zeros.jsonl").symlink_to("/dev/zero")
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    assert "a folder without a log file; " in refused(tmp_path / "folder.parquet")
    for name in ("pipe.jsonl", "zeros.jsonl"):
        assert "a device or a pipe; give a regular file" in refused(tmp_path / name)
    assert "no such file" in refused(tmp_path / "gone.jsonl")


def test_damaged_parquet_names_the_rows_that_cannot_be_read(tmp_path):
    path = tmp_path / "log.parquet"
    pl.DataFrame(ROWS).write_parquet(path, row_group_size=450)
    content = path.read_bytes()
    for length in (10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert "no readable Parquet file" in refused(path)
    third = pq.read_metadata(io.BytesIO(content)).row_group(2).column(1)
    start = third.dictionary_page_offset or third.data_page_offset
    path.write_bytes(
        content[:start] + bytes(third.total_compressed_size) + content[start:][third.total_compressed_size :]
    )
    assert f"{path} (row group 3 of 4, rows 901 to 1350) cannot be read: " in refused(path)


def test_any_damaged_page_is_one_line_and_nothing_else_on_the_terminal(tmp_path, capfd):
    """Some make Polars panic, which writes its own stack to stderr."""
    draw, path, refusals = random.Random(0), tmp_path / "log.parquet", []
    pq.write_table(pl.DataFrame(ROWS).to_arrow(), path, row_group_size=450, compression="zstd")
    content, kept = path.read_bytes(), pq.read_metadata(path)
    for _ in range(120):
        group = draw.randrange(kept.num_row_groups)
        column = kept.row_group(group).column(draw.randrange(3))
        damaged = bytearray(content)
        for _ in range(3):
            start = column.dictionary_page_offset or column.data_page_offset
            damaged[start + draw.randrange(column.total_compressed_size)] = draw.randrange(256)
        path.write_bytes(damaged)
        if message := refusal(path):
            refusals.append((message, f"{path} (row group {group + 1} of 4, rows {450 * group + 1} "))
    assert len(refusals) > 60
    assert all(len(message.splitlines()) == 1 for message, _ in refusals)
    unreadable = [(message, place) for message, place in refusals if " cannot be read: " in message]
    assert len(unreadable) > 50
    assert all(message.startswith(place) for message, place in unreadable)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "left"), [(KeyError, "words"), (pl.exceptions.PanicException, ""), (None, "words")]
)
def test_only_what_a_panic_writes_is_dropped(capfd, error, left):
    def speak() -> None:
        with parquet.quiet():
            os.write(2, b"words")
            if error is not None:
                raise error("x")

    if error is None:
        speak()
    else:
        with pytest.raises(error):
            speak()
    assert capfd.readouterr().err == left


def test_an_id_of_each_row_is_no_tag_and_is_refused_before_memory_is_gone(tmp_path):
    path = tmp_path / "log.parquet"
    many = 500_000
    pl.select(
        user=pl.int_range(many) % 100,
        time=pl.lit(START) + pl.duration(hours=pl.int_range(many) % 10_000),
        tag=pl.format("{}-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", pl.int_range(many)),
    ).write_parquet(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = refused(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB
    assert "different tags, more than data.max_tags=200000: is it an id of each row?" in message
    assert "different users, more than data.max_users=99" in refused(path, max_users=99)


def test_tags_that_read_alike_are_one_and_counted(tmp_path):
    spellings = {"tag 0": ["tag 0", "TAG 0", "ｔａｇ　0"], "tag 1": ["tag 1", "tag\n1", "tag\u200b 1"]}
    plain, odd = tmp_path / "plain.jsonl", tmp_path / "odd.jsonl"
    plain.write_bytes(b"\n".join(GOOD))
    odd.write_bytes(
        b"\n".join(
            json.dumps({**one, "tag": spellings.get(one["tag"], [one["tag"]])[i % 30 % 3 if i % 5 == 0 else 0]
                        if one["tag"] in spellings else one["tag"]}).encode()
            for i, one in enumerate(ROWS)
        )
    )  # fmt: skip
    one, other = prepare(config(plain)), prepare(config(odd))
    assert other.catalog.tags == one.catalog.tags == tuple(f"tag {t}" for t in range(5))
    assert one.table.equals(other.table)
    assert one.report["tags spelled in more than one way (merged)"] == 0
    assert other.report["tags spelled in more than one way (merged)"] == 2

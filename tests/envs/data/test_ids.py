"""Ids of users and tags: each is one user, whatever a join has left of them."""

import datetime as dt
import hashlib
import json

import polars as pl
import pytest

from recrl.envs.data import files, logs
from recrl.envs.data.prepared import fingerprint
from recrl.envs.data.settings import DataConfig, DataError, LogColumns, Protocol

DROPPED = "rows with a missing or unreadable user, time or tag (dropped)"
TIMES = [dt.datetime(2024, 1, 1) + dt.timedelta(weeks=week) for week in range(6)]


def table(users: object, kind: pl.DataType | None = None, **columns: object) -> pl.DataFrame:
    return pl.DataFrame(
        {"user": pl.Series(users, dtype=kind, strict=False), "time": TIMES, "tag": "x", **columns}
    )


def written(folder, frame: pl.DataFrame) -> list:
    """A table in the formats in which a join leaves it."""
    frame.write_parquet(folder / "a.parquet")
    frame.to_pandas().to_csv(folder / "a.csv", index=False)
    with (folder / "a.jsonl").open("w") as stream:
        for row in frame.iter_rows(named=True):
            user = row["user"] if row["user"] == row["user"] else None
            stream.write(json.dumps({**row, "user": user, "time": str(row["time"])}) + "\n")
    return [folder / name for name in ("a.parquet", "a.csv", "a.jsonl")]


def users(found) -> set[str]:
    return set(found.purchases.collect()["user"])


def test_floats_that_are_whole_numbers_are_read_as_those(tmp_path):
    for path in written(tmp_path, table([1.0, 2.0, -3.0, 0.0, -0.0, 2.0**53 - 1])):
        found = logs.load(path)
        assert users(found) <= {"1", "2", "-3", "0", str(2**53 - 1)}, path
        assert found.reading["user"] == "column 'user': floats that are whole numbers", path
    table(range(6)).write_parquet(tmp_path / "whole.parquet")
    table([float(n) for n in range(6)]).write_parquet(tmp_path / "floats.parquet")
    assert users(logs.load(tmp_path / "whole.parquet")) == users(logs.load(tmp_path / "floats.parquet"))


@pytest.mark.parametrize("user", [2.0**60 + 512, 2.0**53, 1.5, -(2.0**70)])
def test_floats_that_may_be_several_users_are_refused_with_column_and_row(tmp_path, user):
    for path in written(tmp_path, table([1.0, 2.0, user, 4.0, 5.5 - 0.5, 6.0])):
        with pytest.raises(DataError, match=r"row 3: column 'user' holds .*, which is no user \(floats that"):
            logs.load(path)
        found = logs.load(path, bad_rows="drop")
        assert found.report[DROPPED] == 1, path


def test_narrow_floats_have_narrower_bounds(tmp_path):
    table([1, 2, 2**24 - 1, 2**24, 5, 6], pl.Float32()).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 4: column 'user' holds 16777216\.0, which is no user"):
        logs.load(tmp_path / "a.parquet")


def test_tables_of_float_ids_are_not_those_of_earlier_versions(tmp_path):
    """These took floats for text."""
    texts, floats = (DataConfig(source=str(tmp_path / name)) for name in ("a.parquet", "b.parquet"))
    table(["1", "2", "3", "4", "5", "6"]).write_parquet(tmp_path / "a.parquet")
    table([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).write_parquet(tmp_path / "b.parquet")
    content = files.fingerprint(tmp_path / "a.parquet")
    earlier = {
        "format": 2,
        "source": content,
        "columns": {"user": "user", "time": "time", "tag": "tag", "profile": None},
        "bad_rows": "error",
        "protocol": {
            name: getattr(Protocol(), name)
            for name in ("window", "lookback", "min_active_weeks", "active_within", "cold_weeks",
                         "min_tag_users", "unseen_share", "train_origins", "validation_origins",
                         "test_origins", "statistics_end")
        },
        "at_once": 2_000_000,
    }  # fmt: skip

    def known(identity: dict) -> str:
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    assert fingerprint(texts) == known(earlier)
    assert fingerprint(floats) != known({**earlier, "source": files.fingerprint(tmp_path / "b.parquet")})


def test_missing_users_are_nobody(tmp_path):
    for path in written(tmp_path, table([1.0, float("nan"), 2.0, 3.0, float("nan"), 4.0])):
        with pytest.raises(DataError, match=r"row 2: column 'user' holds (nan|None), which is no user"):
            logs.load(path)
        found = logs.load(path, bad_rows="drop")
        assert found.report[DROPPED] == 2, path
        assert users(found) <= {"1", "2", "3", "4"}, path


@pytest.mark.parametrize("word", ["nan", "NaN", "<NA>", "None", "null"])
def test_words_for_a_missing_user_are_nobody(tmp_path, word):
    """Text that ``astype(str)`` makes of a missing value."""
    table(["a", word, "b", word, "c", "d"]).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="row 2: column 'user' holds "):
        logs.load(tmp_path / "a.parquet")
    assert logs.load(tmp_path / "a.parquet", bad_rows="drop").report[DROPPED] == 2


def test_whole_numbers_of_any_size_and_text_stay_as_they_are(tmp_path):
    large = [2**60, 2**60 + 1, 2**60 + 2, 5, 6, 7]
    for path in written(tmp_path, table(large)):
        assert users(logs.load(path)) == {str(n) for n in large[:-1]}, path
    text = ["1e5", "100000", "007", "7", "2.50", "2.5"]
    table(text).write_parquet(tmp_path / "a.parquet")
    assert users(logs.load(tmp_path / "a.parquet")) == set(text[:-1])


def test_tags_are_read_like_users(tmp_path):
    table(["a"] * 6, tag=[1.0, 2.0, 3.0, 1.0, 2.0, 3.0]).write_parquet(tmp_path / "a.parquet")
    assert set(logs.load(tmp_path / "a.parquet").purchases.collect()["tag"]) == {"1", "2", "3"}
    table(["a"] * 6, tag=[1.0, 2.5, 3.0, 1.0, 2.0, 3.0]).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 2: column 'tag' holds 2\.5, which is no tag"):
        logs.load(tmp_path / "a.parquet")


def test_a_column_that_is_named_twice_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"data\.columns\.user and data\.columns\.tag are both 'user'"):
        LogColumns(tag="user")
    with pytest.raises(ValueError, match=r"data\.columns\.tag and data\.columns\.profile are both 'tag'"):
        LogColumns(profile=("age", "tag"))
    # RecBole's own name for a column that no setting names.
    (tmp_path / "a.inter").write_text("user_id:token\ttimestamp:float\n1\t881250949\n")
    with pytest.raises(
        DataError, match=r"data\.columns\.user and data\.columns\.tag are both the column 'user_id'"
    ):
        logs.load(tmp_path / "a.inter", LogColumns(tag="user_id"))

"""Splits that the data bring, in a column or as files, are kept to, and leakage across them is counted."""

import datetime as dt
from collections import defaultdict

import numpy as np
import polars as pl
import pytest

from recrl.envs.data.given import EARLY, TWICE
from recrl.envs.data.prepared import Data, prepare
from recrl.envs.data.settings import DataConfig, DataError, LogColumns, Protocol

GIVEN = Protocol(step="day", split="given", min_active_weeks=1, active_within=300, min_tag_users=2, window=4)
NAMES = ("train", "valid", "test")


def rows(at_random: bool, users: int = 80, seed: int = 0) -> pl.DataFrame:
    """Some purchases of each user on days of their own, a fifth each for validation and test."""
    draw = np.random.default_rng(seed)
    found = []
    for user in range(users):
        days = np.sort(draw.choice(100, 10, replace=False))
        parts = [0] * 6 + [1] * 2 + [2] * 2
        if at_random:
            draw.shuffle(parts)
        for day, part in zip(days, parts, strict=True):
            when = dt.datetime(2024, 1, 1, 12) + dt.timedelta(days=int(day))
            found += [
                (f"u{user}", when, f"tag {tag}", NAMES[part]) for tag in draw.choice(9, 2, replace=False)
            ]
    return pl.DataFrame(found, schema=["user", "time", "tag", "part"], orient="row")


def task(folder, frame: pl.DataFrame) -> Data:
    frame.write_parquet(folder / "log.parquet")
    columns = LogColumns(split="part")
    return prepare(
        DataConfig(source=str(folder / "log.parquet"), columns=columns, cache=folder, protocol=GIVEN)
    )


def tags_of(frame: pl.DataFrame, data: Data) -> dict[tuple[str, str], set[int]]:
    """User and split -> tags."""
    found: dict[tuple[str, str], set[int]] = defaultdict(set)
    for user, _, tag, part in frame.iter_rows():
        found[user, part].add(data.catalog.id(tag))
    return found


@pytest.mark.parametrize("at_random", [False, True])
def test_a_target_is_the_split_and_a_history_what_stands_in_earlier_ones(tmp_path, at_random):
    frame = rows(at_random)
    data = task(tmp_path, frame)
    tags = tags_of(frame, data)
    for row in data.table.iter_rows(named=True):
        train, validation, test = (tags[data.panel.users[row["user"]], name] for name in NAMES)
        history, target = set(row["history"]), set(row["target"])
        if row["split"] == "test":
            assert (history, target) == (train | validation, test)
        elif row["split"] == "validation":
            assert (history, target) == (train, validation)
        else:
            assert history | target <= train
    assert data.split("test").height == 80
    assert data.split("validation").height == 80 - data.panel.unseen.sum()
    assert data.split("train").height > 200
    assert (data.report[EARLY] > 0) == at_random
    assert data.report[TWICE] == 0


def test_three_files_are_a_column_of_splits(tmp_path):
    frame = rows(at_random=True)
    (tmp_path / "files").mkdir()
    for name in NAMES:
        part = frame.filter(pl.col("part") == name).drop("part")
        part.write_csv(tmp_path / "files" / f"ml-1k.{name}.csv", datetime_format="%Y-%m-%dT%H:%M:%S")
    source = DataConfig(source=str(tmp_path / "files"), cache=tmp_path, protocol=GIVEN)
    of_files, of_column = prepare(source), task(tmp_path, frame)
    assert of_files.table.equals(of_column.table)
    assert of_files.reading["split"] == "names of the files"
    assert of_column.reading["split"] == "column 'part': words for splits"
    # Other names are other splits.
    for one, other in (("valid", "x"), ("test", "valid"), ("x", "test")):
        (tmp_path / "files" / f"ml-1k.{one}.csv").rename(tmp_path / "files" / f"ml-1k.{other}.csv")
    assert prepare(source).fingerprint != of_files.fingerprint


def test_purchases_in_two_splits_are_counted(tmp_path):
    frame = rows(at_random=False)
    again = frame.filter(pl.col("part") == "test").head(7).with_columns(part=pl.lit("train"))
    data = task(tmp_path, pl.concat([frame, again]))
    assert data.report[TWICE] == 7
    assert data.report[EARLY] == 0
    assert data.table.equals(task(tmp_path, frame).table)


def test_nothing_is_learned_of_rows_that_are_held_out(tmp_path):
    frame = rows(at_random=True)
    alone = pl.DataFrame(
        [(f"alone {n}", dt.datetime(2024, 1, 2), f"tag {n % 9}", "test") for n in range(40)],
        schema=frame.schema,
        orient="row",
    )
    data = task(tmp_path, pl.concat([frame, alone]))
    learned = data.panel.counts(0, 1000, training_users=True) > 0
    tags = tags_of(frame, data)
    for i, user in enumerate(data.panel.users):
        assert set(learned[i].indices) == (set() if data.panel.unseen[i] else tags[user, "train"])


def test_a_split_that_is_none_is_refused(tmp_path):
    frame = rows(at_random=False)
    with pytest.raises(DataError, match="row 3: column 'part' holds 'later', which is no split"):
        task(
            tmp_path,
            frame.with_columns(
                part=pl.when(pl.int_range(pl.len()) == 2).then(pl.lit("later")).otherwise("part")
            ),
        )
    (tmp_path / "latest.csv").write_text("user,time,tag\n")
    with pytest.raises(
        DataError, match=r"latest\.csv: data\.protocol\.split=given, but its name holds none of"
    ):
        prepare(DataConfig(source=str(tmp_path / "latest.csv"), cache=tmp_path, protocol=GIVEN))
    with pytest.raises(ValueError, match=r"data\.columns\.split=part with data\.protocol\.split=time: set"):
        DataConfig(columns=LogColumns(split="part"))
    with pytest.raises(DataError, match=r"data\.protocol\.split=given: the Complete Journey panel brings no"):
        prepare(DataConfig(cache=tmp_path, protocol=GIVEN.model_copy(update={"step": "week"})))

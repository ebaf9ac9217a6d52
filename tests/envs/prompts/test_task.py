"""Prompts out of a file: what is read, what is held out, and what is refused."""

import json
import os
import random
import re
from collections import Counter

import numpy as np
import polars as pl
import pytest
from datasets import Dataset, DatasetDict

from recrl.envs.data.settings import DataConfig
from recrl.envs.prompts import arithmetic
from recrl.envs.prompts.settings import PromptsConfig
from recrl.envs.prompts.task import Prompts
from recrl.envs.task import TaskError, Text

ROWS = [
    {
        "prompt": f"What is {i % 40} + 1?",
        "answer": i % 40 + 1,
        "topic": ["sum", "plus"],
        "part": "train" if i < 60 else "test",
    }
    for i in range(80)
]


def task(path, **settings):
    return Prompts(PromptsConfig(use="prompts", path=path, **settings), DataConfig())


def written(folder, kind, rows=ROWS):
    """The rows as a file of a kind, or as a saved dataset."""
    path = folder / f"prompts.{kind}"
    if kind == "dataset":
        Dataset.from_list(rows).save_to_disk(str(path))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pl.DataFrame(rows).write_parquet(path)
    else:
        pl.DataFrame(rows).drop("topic").write_csv(path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv", "dataset"])
def test_each_kind_of_file_holds_the_same_rows(kind, tmp_path):
    found = task(written(tmp_path, kind), split="part", max_tokens=20)
    assert found.form == Text(20)
    assert (found.count("train"), found.count("test")) == (60, 20)
    row = found.rows("train", 1)[0]
    assert row["prompt"] == [{"role": "user", "content": "What is 0 + 1?"}]
    assert row["answer"] == 1
    assert "part" not in row
    assert ("topic" in row) == (kind != "csv")


def test_the_same_prompt_is_never_on_both_sides(tmp_path):
    found = task(written(tmp_path, "jsonl"), test_share=0.3)
    sides = {split: {row["prompt"][0]["content"] for row in found.rows(split)} for split in ("train", "test")}
    assert sides["train"] & sides["test"] == set()
    assert len(sides["train"] | sides["test"]) == 40
    assert 4 <= len(sides["test"]) <= 20, "about 30 % of 40"
    again = task(written(tmp_path, "jsonl", ROWS[::-1]), test_share=0.3)
    assert {row["prompt"][0]["content"] for row in again.rows("test")} == sides["test"]


def test_what_belongs_to_a_user_is_held_out_together(tmp_path):
    rows = [{**row, "person": f"p{i % 16}"} for i, row in enumerate(ROWS)]
    found = task(written(tmp_path, "jsonl", rows), user="person", test_share=0.4)
    users = {split: {row["user"] for row in found.rows(split)} for split in ("train", "test")}
    assert users["train"] & users["test"] == set()
    assert len(users["train"] | users["test"]) == 16
    assert Counter(row["user"] for row in found.rows("test")).most_common()[-1][1] == 5


def test_another_file_is_held_out_and_messages_stay_as_they_are(tmp_path):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "And 2?"}]
    (tmp_path / "test.jsonl").write_text(json.dumps({**ROWS[0], "prompt": chat}) + "\n")
    found = task(written(tmp_path, "jsonl"), test_path=tmp_path / "test.jsonl", system="Add.")
    assert (found.count("train"), found.count("test", unseen=True)) == (80, 1)
    assert found.rows("test")[0]["prompt"] == chat
    assert found.rows("train")[0]["prompt"][0] == {"role": "system", "content": "Add."}


def test_demonstrations_are_the_references(tmp_path):
    rows = [{**row, "said": [str(row["answer"]), f"it is {row['answer']}"]} for row in ROWS]
    found = task(written(tmp_path, "jsonl", rows), reference="said", columns=("answer",))
    row = found.rows("train", 1)[0]
    rng = np.random.default_rng(0)
    assert {found.demonstration(row, False, rng) for _ in range(30)} == set(row["said"])
    assert found.teaches
    assert set(row) == {"prompt", "answer", "said", "user", "unseen"}
    plain = task(written(tmp_path, "jsonl"))
    assert not plain.teaches
    with pytest.raises(TaskError, match=r"no demonstrations; set warm_start.steps=0"):
        plain.demonstration(row, False, rng)


def test_the_content_is_known_again_and_the_settings_that_matter(tmp_path):
    path = written(tmp_path, "jsonl")
    first = task(path).fingerprint
    assert task(path, max_tokens=5).fingerprint == first
    assert task(path, test_share=0.2).fingerprint != first
    path.write_text(path.read_text().replace("What", "what", 1))
    assert task(path).fingerprint != first


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (None, {}, "task.path=.*nowhere.jsonl: no such file or folder"),
        ("prompts.txt", {}, "ends with .parquet, .jsonl, .ndjson, .csv"),
        ("{]", {}, "task.path=.* cannot be read"),
        ("", {}, "task.path=.* (holds no row|cannot be read)"),
        (ROWS, {"prompt": "question"}, "task.prompt=question: .* has no such column; it has: prompt, answer"),
        (ROWS, {"reference": "said"}, "task.reference=said: .* has no such column"),
        (ROWS, {"columns": ("anwser",)}, "task.columns=anwser: .* has no such column"),
        ([*ROWS, {**ROWS[0], "prompt": None}], {}, "task.path, row 81: task.prompt=prompt must be a text"),
        ([*ROWS, {**ROWS[0], "prompt": " "}], {}, "row 81: task.prompt=prompt must be a text"),
        (
            [*ROWS, {**ROWS[0], "prompt": "What\0is"}],
            {},
            r"row 81: task.prompt=prompt must be .* not 'What.x00",
        ),
        (
            [{"prompt": [{"role": "assistant", "content": "hello"}]}],
            {},
            "row 1: task.prompt=prompt must be a text, or messages with role",
        ),
        (ROWS[:60], {"split": "part"}, "no row is for test; the column part .* must say train or test"),
        (ROWS[:1], {}, "no row is for (train|test); change task.test_share=0.1, or give more rows"),
        (
            [{**ROWS[0], "said": "one"}, {**ROWS[1], "said": None}],
            {"reference": "said"},
            "row 2: task.reference=said must be an answer or a list of answers, not None",
        ),
    ],
)
def test_faults_name_the_setting_and_the_row(change, settings, message, tmp_path):
    path = tmp_path / "nowhere.jsonl"
    if isinstance(change, list):
        path = written(tmp_path, "jsonl", change)
    elif change == "prompts.txt":
        path = tmp_path / change
        path.touch()
    elif change is not None:
        path.write_text(change)
    with pytest.raises(TaskError, match=message) as error:
        task(path, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "dataset"])
def test_any_damage_of_a_file_is_one_line_or_leaves_rows_that_can_be_asked(kind, tmp_path, capfd):
    path, draw, refusals = written(tmp_path, kind), random.Random(0), []
    files = [file for file in sorted(path.rglob("*")) if file.is_file()] or [path]
    capfd.readouterr()
    for _ in range(60):
        file = draw.choice(files)
        whole = file.read_bytes()
        at, torn = draw.randrange(len(whole)), draw.choice(["cut", "flipped", "zeros", "lost"])
        there = {"cut": b"", "flipped": bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :]}
        there |= {"zeros": bytes(16) + whole[at + 16 :], "lost": whole[at + 3 :]}
        file.write_bytes(whole[:at] + there[torn])
        try:
            found = task(path, columns=())
            assert all("\0" not in row["prompt"][0]["content"] for row in found.rows("train"))
        except TaskError as error:
            refusals.append(str(error))
        file.write_bytes(whole)
    assert len(refusals) > 15
    assert not any("\n" in message for message in refusals)
    assert capfd.readouterr().err == ""


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(TaskError, match="a device or a pipe; give a regular file"):
        task(tmp_path / "pipe.jsonl")


def test_a_folder_of_several_datasets_is_refused_with_one_of_them(tmp_path):
    part = Dataset.from_list(ROWS)
    DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / "both"))
    with pytest.raises(
        TaskError, match=r"holds the datasets test, train; name the folder of one, such as .*/both/test"
    ):
        task(tmp_path / "both")


def test_settings_that_exclude_one_another(tmp_path):
    with pytest.raises(ValueError, match=r"task\.path is missing"):
        PromptsConfig(use="prompts")
    with pytest.raises(ValueError, match=r"task\.test_path and task\.split both say"):
        PromptsConfig(use="prompts", path="a.jsonl", test_path="b.jsonl", split="part")


def test_made_up_sums_are_right_and_the_same_again():
    rows = list(arithmetic.rows(count=200))
    assert rows == list(arithmetic.rows(count=200))
    for row in rows:
        assert sum(map(int, re.findall(r"\d", row["prompt"]))) == row["answer"]
        assert all(str(reference).split()[-1] == str(row["answer"]) for reference in row["references"])


def test_drafts_are_of_words_that_were_there(tmp_path):
    found = task(written(tmp_path, "jsonl"))
    rows = found.rows("train", 5)
    drafts = found.drafts(rows, 4, seed=0)
    assert len(drafts) == 20
    assert drafts == found.drafts(rows, 4, seed=0)
    for row, draft in zip([row for row in rows for _ in range(4)], drafts, strict=True):
        assert set(draft.split()) <= set(row["prompt"][0]["content"].split())

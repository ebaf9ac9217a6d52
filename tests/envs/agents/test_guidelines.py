"""Stage one as a task of its own."""

import json

import numpy as np
import pytest

from recrl.envs import task as tasks
from recrl.envs.agents.style import GUIDELINES, Guideline
from recrl.envs.data.settings import DataConfig
from recrl.envs.task import TaskError


@pytest.fixture
def made(tmp_path):
    rows = [
        {"prompt": f"item {i}", "season": "winter", "split": "train" if i % 4 else "test"} for i in range(8)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    of = {"use": "prompts", "path": str(path), "split": "split"}
    kind = tasks.settings_class("guidelines")
    return tasks.make(kind.model_validate({"use": "guidelines", "of": of}), DataConfig())


def test_its_rows_are_those_of_the_texts_asked_for_a_guideline(made):
    assert (made.count("train"), made.count("test")) == (6, 2)
    row = made.rows("test")[1]
    assert row["season"] == "winter"
    assert "<episode>\nitem 4\n</episode>" in row["prompt"][-1]["content"]
    assert "JSON" not in row["prompt"][-1]["content"]
    assert made.columns == ("season",)


def test_an_answer_is_one_of_all_guidelines(made):
    assert made.form.options == GUIDELINES
    rng = np.random.default_rng(0)
    taught = [made.demonstration(row, False, rng) for row in made.rows("train")]
    assert all(isinstance(answer, Guideline) for answer in made.parse(taught))
    assert len(set(taught)) > 1
    assert made.parse(["nonsense"]) == [None]
    (plain,) = made.baselines({})["plain"](made.rows("test", 1))
    assert made.parse([plain])[0].tone == "plain"


@pytest.mark.parametrize(
    ("of", "said"),
    [
        ({"use": "guidelines"}, "task.of.use=guidelines: guidelines are for texts"),
        ({"use": "prompts", "pth": "x"}, r"task\.of\.pth='x'"),
        ({"use": "poems"}, "task.use='poems' is unknown"),
    ],
)
def test_another_task_that_cannot_be_is_named(of, said):
    kind = tasks.settings_class("guidelines")
    with pytest.raises(TaskError, match=said):
        tasks.make(kind.model_validate({"use": "guidelines", "of": of}), DataConfig())
    with pytest.raises(ValueError, match="names no task"):
        kind.model_validate({"use": "guidelines", "of": {}})

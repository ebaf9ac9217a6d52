"""Who is answered now: users as they are at a day, without an outcome; rows of a file for prompts."""

import datetime as dt
import json

import numpy as np
import polars as pl
import pytest

from recrl.envs.audience import AudienceError
from recrl.envs.data.settings import DataConfig, Protocol
from recrl.envs.prompts.settings import PromptsConfig
from recrl.envs.prompts.task import Prompts
from recrl.envs.tags.settings import TagsConfig
from recrl.envs.tags.task import Tags
from recrl.envs.task import Task, TaskError, TaskSettings, Text


@pytest.fixture(scope="module")
def task(cache, panel_task):
    return Tags(TagsConfig(), DataConfig(cache=cache))


def test_a_row_for_a_past_week_is_the_episode_of_that_week_without_its_target(task):
    """Users who bought nothing in the window are answered too: nobody knows that beforehand."""
    panel = task.data.panel
    found = task.audience(panel.monday(45))
    tests = {row["user"]: row for row in task.rows("test") if row["origin"] == 45}
    users = {name: number for number, name in enumerate(panel.users)}
    numbers = [users[name] for name in found.names]
    assert tests.keys() < set(numbers)
    rows = found.rows([i for i, user in enumerate(numbers) if user in tests])
    for row in rows:
        episode = {name: value for name, value in tests[row["user"]].items() if name != "target"}
        assert row == episode
    assert found.origin == panel.monday(45)
    assert all("target" not in found_row for found_row in found.rows(range(50)))


def test_the_default_is_the_week_behind_the_data_and_only_whole_weeks_before_it_are_read(task):
    panel = task.data.panel
    found = task.audience()
    assert found.origin == panel.monday(53) == dt.date(2017, 12, 25)
    assert panel.week.max() == 52
    midweek = task.audience(found.origin + dt.timedelta(days=3))
    assert midweek.rows([0, 1]) == found.rows([0, 1])
    (row,) = found.rows([7])
    mine = panel.user == row["user"]
    assert sorted(set(panel.tag[mine & (panel.week >= 33)].tolist())) == row["lookback"]


def test_users_with_too_little_history_are_counted_and_named(task):
    panel, protocol = task.data.panel, task.data.protocol
    found = task.audience()
    few = set()
    for number, name in enumerate(panel.users):
        weeks = np.unique(panel.week[panel.user == number])
        if len(weeks) < protocol.min_active_weeks or weeks.max() < 53 - protocol.active_within:
            few.add(name)
    assert len(found.names) + len(few) == len(panel.users)
    ((reason, names),) = found.left_out.items()
    assert set(names) == few
    assert "fewer than 4 weeks with a purchase before 2017-12-25, or none in the 8 weeks" in reason


def test_a_file_names_the_users_in_its_order(task, tmp_path):
    everybody = task.audience()
    few = next(iter(everybody.left_out.values()))[0]
    wanted = [everybody.names[9], everybody.names[3], few, "nobody", everybody.names[9]]
    for suffix, write in (("csv", pl.DataFrame.write_csv), ("parquet", pl.DataFrame.write_parquet)):
        path = tmp_path / f"users.{suffix}"
        write(pl.DataFrame({"user": wanted, "since": range(5)}), path)
        found = task.audience(users=path)
        assert list(found.names) == wanted[:2]
        assert found.rows([0, 1]) == everybody.rows([9, 3])
        assert found.rows([1]) == everybody.rows([3])
        assert [*found.left_out.values()] == [[few], ["nobody"]]


def test_a_name_of_digits_stays_what_it_is(task, tmp_path):
    path = tmp_path / "users.csv"
    path.write_text("user\n007\n1\n")
    found = task.audience(users=path)
    assert (list(found.names), [*found.left_out.values()]) == (["1"], [["007"]])


def test_what_cannot_be_answered_is_one_line(task, tmp_path):
    path = tmp_path / "users.csv"
    path.write_text("household,since\n1,2\n")
    with pytest.raises(AudienceError, match="has no column 'user'; it has: household, since"):
        task.audience(users=path)
    with pytest.raises(AudienceError, match=r"--users .*missing.csv: no such file"):
        task.audience(users=tmp_path / "missing.csv")
    path.write_text("user\nnobody\n")
    with pytest.raises(AudienceError, match="nobody can be answered for 2017-12-25: 1 not in the data"):
        task.audience(users=path)
    with pytest.raises(AudienceError, match=r"--at 2016-01-01: the data begin on 2017-01-02, .* 2017-01-30"):
        task.audience(dt.date(2016, 1, 1))
    with pytest.raises(AudienceError, match="nobody can be answered for 2019-12-30"):
        task.audience(dt.date(2020, 1, 1))


def test_a_list_is_its_tags_and_their_novelty(task):
    (row,) = task.audience().rows([0])
    old, new = row["lookback"][0], next(t for t in range(len(task.catalog)) if t not in row["lookback"])
    text = task.catalog.render([new, old, new])
    tags = task.catalog.tags
    assert task.recommendation(row, text) == {"items": [tags[new], tags[old]], "novelty": 0.5}
    assert task.recommendation(row, "nothing\n") == {"items": [], "novelty": 0.0}


def log(path, weeks, late):
    """Everybody buys every week; tags of ``late`` from week 30 on."""
    monday = dt.date(2024, 1, 1)
    rows = [
        {"user": f"u{u:02}", "time": monday + dt.timedelta(weeks=week), "tag": tag}
        for week in range(weeks)
        for u in range(30)
        for tag in (f"tag {u % 5}", f"tag {week % 7}", *(late if week >= 30 else ()))
    ]
    pl.DataFrame(rows).write_parquet(path)
    return path


def test_a_log_that_has_grown_is_read_with_the_catalogue_of_the_run(tmp_path):
    protocol = Protocol(min_tag_users=2)

    def made(path):
        return Tags(TagsConfig(slots=3), DataConfig(source=str(path), protocol=protocol, cache=tmp_path))

    trained = made(log(tmp_path / "then.parquet", 41, ["umbrellas"]))
    trained.save(tmp_path)
    assert trained.as_trained(tmp_path) is trained
    assert "umbrellas" not in trained.catalog.tags
    newer = made(log(tmp_path / "now.parquet", 52, ["umbrellas"]))
    assert "umbrellas" in newer.catalog.tags
    found = newer.as_trained(tmp_path)
    assert found.catalog.tags == trained.catalog.tags
    weeks = (found.audience().origin - trained.audience().origin).days / 7
    assert weeks == 11
    other = made(log(tmp_path / "other.parquet", 41, ["umbrellas"]).rename(tmp_path / "moved.parquet"))
    assert other.as_trained(tmp_path) is other
    pl.read_parquet(tmp_path / "now.parquet").filter(pl.col("tag") != "tag 6").write_parquet(
        tmp_path / "without.parquet"
    )
    with pytest.raises(TaskError, match=r"catalogue is not the one .* \(1 tags are gone, 1 are new\)"):
        made(tmp_path / "without.parquet").as_trained(tmp_path)
    for damaged in (tmp_path / "task" / "protocol.json", tmp_path / "catalog.json"):
        for content in (b"", b"[]", bytes(range(256)), damaged.read_bytes()[:-9]):
            damaged.write_bytes(content)
            with pytest.raises(TaskError, match=f"{damaged.name} cannot be read") as error:
                newer.as_trained(tmp_path)
            assert "\n" not in str(error.value)


def prompts(tmp_path, **settings):
    path = tmp_path / "train.jsonl"
    rows = [{"prompt": f"What is {i}?", "answer": i, "kind": "number", "who": i} for i in range(30)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return Prompts(PromptsConfig(use="prompts", path=path, reference="answer", **settings), DataConfig())


def test_prompts_answer_the_rows_of_a_file_which_need_no_reference(tmp_path):
    task = prompts(tmp_path, user="who", system="Be short.")
    path = tmp_path / "now.jsonl"
    asked = [("What is pi?", 7), ("What is e?", 8)]
    path.write_text("\n".join(json.dumps({"prompt": p, "who": who, "kind": "sum"}) for p, who in asked))
    found = task.audience(users=path)
    assert list(found.names) == ["7", "8"]
    assert found.origin is None
    (row,) = found.rows([1])
    assert [message["content"] for message in row["prompt"]] == ["Be short.", "What is e?"]
    assert set(row) - {"prompt"} == set(found.columns) == {"kind", "user", "unseen"}
    assert task.recommendation(row, "2.7") == {"text": "2.7"}


def test_prompts_without_rows_are_one_line(tmp_path):
    task = prompts(tmp_path)
    with pytest.raises(TaskError, match=r"--users is missing: task.use=prompts answers the rows of a file"):
        task.audience()
    with pytest.raises(TaskError, match=r"--at 2024-01-01: the rows of task.use=prompts have no date"):
        task.audience(dt.date(2024, 1, 1))
    path = tmp_path / "now.csv"
    path.write_text("question\nWhat?\n")
    with pytest.raises(TaskError, match=r"has no column 'prompt' \(task.prompt\); it has: question"):
        task.audience(users=path)


def test_another_task_says_what_it_lacks():
    class Tickets(Task):
        form = Text(3)

        def load(self, split):
            return []

    with pytest.raises(TaskError, match="give the class Tickets a method audience"):
        Tickets(TaskSettings(use="tickets"), DataConfig(source="x", protocol=Protocol())).audience()

"""Rows of the explanations task on the panel: who is asked what, and what of it is held out."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

from recrl.envs.agents.style import Guideline
from recrl.envs.data.settings import DataConfig
from recrl.envs.explanations import metrics
from recrl.envs.explanations.settings import ExplanationsConfig
from recrl.envs.explanations.task import Explanations, protected
from recrl.envs.explanations.teaching import drawn, joined
from recrl.envs.task import TaskError, find


def test_no_item_of_the_test_is_explained_in_training(explained):
    train, test = explained._asked("train", False), explained._asked("test", True)
    assert test["unseen"].all()
    assert not set(train["item"]) & set(test["item"])
    assert not set(train["user"]) & set(test["user"])
    assert len(set(test["item"])) > 25
    assert test.group_by("user", "origin").len()["len"].max() == 2
    assert all(
        row["item"] in row["target"] for row in test.select("item", "target").head(100).iter_rows(named=True)
    )


def test_a_row_shows_what_its_facts_hold_and_no_outcome(explained):
    rows = explained.rows("test", 30)
    tags = explained.catalog.tags
    for row in rows:
        (system, user) = row["prompt"]
        assert system["role"] == "system"
        lines = user["content"].split("\n")
        assert lines[0] == "<user>"
        assert lines[lines.index("<item>") + 1] == tags[row["item"][0]]
        assert row["calendar"] in lines
        shown = lines[: lines.index("</user>")]
        weekly = shown[shown.index("weekly:") + 1 :] if "weekly:" in shown else []
        for name in weekly[: weekly.index("last week:")] if "last week:" in weekly else weekly:
            assert explained.catalog.id(name) in row["facts"]["weekly"]
        assert "target" not in row
        assert set(explained.columns) <= set(row)
        assert row["guideline"] == ""
    assert len({row["calendar"] for row in rows}) == 3  # the three origins of the test


def test_training_prompts_have_days_of_all_the_year_and_some_a_guideline(explained):
    rows = explained.rows("train", 200)
    months = {row["calendar"].split(",")[0] for row in rows}
    assert len(months) == 12
    guided = [row for row in rows if row["guideline"]]
    assert 0.15 < len(guided) / len(rows) < 0.45
    for row in guided:
        assert row["prompt"][-1]["content"].endswith(f"\nStyle: {row['guideline']}")
    assert rows[3] == explained.rows("train", 200)[3]  # the same each time


def test_a_demonstration_keeps_to_what_the_prompt_shows_and_to_its_guideline(explained):
    rng = np.random.default_rng(0)
    row = next(row for row in explained.rows("train", 50) if len(row["history"]) > 60)
    style = Guideline(tone="crisp", audience="newcomer", occasion="weekend", device="question")
    guided = {**row, "guideline": style.words}
    texts = {explained.demonstration(guided, False, rng) for _ in range(20)}
    assert all(text.startswith("Purchased so far: ") for text in texts)
    assert all(text.endswith(", perhaps?") for text in texts)
    assert len(texts) > 5
    same, known = explained.catalog.equivalence_class, row["prompt"][-1]["content"].split("\n")
    shown = {same[explained.catalog.id(name)] for name in known if name in explained.catalog.tags}
    for text in texts:
        for claim, true in explained.grounds(row, text):
            assert true
            assert explained.catalog.id(claim.rpartition(":")[0]) in shown
    assert Guideline.of(drawn(rng).words) is not None
    assert joined(["a"]) == "a"
    assert joined(["a", "b", "c"]) == "a, b and c"


def test_a_profile_is_protected_without_its_names():
    assert protected("age 45-54, income 50-74k, homeowner") == ["45-54", "50-74k", "homeowner"]
    assert protected("") == protected(None) == []


def test_a_campaign_is_told_where_one_runs(explained):
    rows = explained.rows("train", 2000)
    targeted = [row for row in rows if row["campaign"]]
    assert targeted
    for row in targeted:
        assert row["facts"]["campaign"] == row["item"]
        assert "on coupon" in row["prompt"][-1]["content"]
        begins, ends, _ = explained._campaigns[row["user"], row["item"][0]][0]
        assert begins <= ends


def made(cache, **settings):
    return Explanations(ExplanationsConfig(use="explanations", **settings), DataConfig(cache=cache))


def test_items_come_from_a_baseline_or_from_a_policys_file(cache, panel_task, tmp_path):
    frequent = made(cache, items="own frequency", unseen_items=0)
    row = frequent.rows("test", 5)[0]
    assert row["item"] == row["history"][:1]
    name = panel_task.panel.users[row["user"]]
    path = tmp_path / "recs.parquet"
    pl.DataFrame({"user": [name], "items": [["yogurt", "beef", "nothing anybody sells"]]}).write_parquet(path)
    told = made(cache, items=str(path), unseen_items=0, items_per_episode=2).rows("test")
    assert {row["user"] for row in told} == {row["user"]}
    assert [told[0]["item"], told[1]["item"]] == [
        [panel_task.catalog.id("yogurt")],
        [panel_task.catalog.id("beef")],
    ]


@pytest.mark.parametrize(
    ("items", "error"),
    [("best", "task.items='best' is unknown; known: target, random"), ("no.parquet", "no such file")],
)
def test_items_of_nowhere_are_refused(cache, items, error):
    with pytest.raises(TaskError, match=error):
        made(cache, items=items).rows("train", 2)


def test_one_user_and_item_can_be_asked_about(explained, panel_task):
    name = panel_task.panel.users[3]
    row = explained.asked(name, "yogurt", dt.date(2017, 11, 20))
    assert row["item"] == [panel_task.catalog.id("yogurt")]
    assert "Thanksgiving" in row["facts"]["holiday"]
    with pytest.raises(TaskError, match="--item tofu: 'tofu' is not in the catalogue"):
        explained.asked(name, "tofu")
    with pytest.raises(TaskError, match="--user nobody: not in the data; choose another"):
        explained.asked("nobody", "yogurt")


def test_users_of_today_are_told_of_what_they_buy_most(explained, panel_task):
    found = explained.audience()
    (row,) = found.rows([0])
    assert row["item"] == row["history"][:1]
    assert set(explained.columns) | {"user", "unseen"} == set(found.columns)
    assert explained.recommendation(row, "Hello.") == {
        "item": panel_task.catalog.tags[row["item"][0]],
        "text": "Hello.",
    }


def test_the_task_is_found_by_its_name():
    assert find("explanations") is Explanations


def test_baselines_tell_the_truth_and_rare_goods_point_best(explained):
    rows = explained.rows("test", 60, unseen=True)
    answers = {name: answer(rows) for name, answer in explained.baselines({}).items()}
    assert answers["eight templates"] == explained.baselines({})["eight templates"](rows)
    for name, texts in answers.items():
        made = [explained.grounds(row, text) for row, text in zip(rows, texts, strict=True)]
        assert all(true for claims in made for _, true in claims) == (name != "nearest household"), name
    scores = {
        name: np.mean(metrics.per_row(explained.catalog, explained.households, rows, texts)["retrieved"])
        for name, texts in answers.items()
    }
    assert scores["eight templates, rarest goods"] > 0.6 > scores["eight templates"]
    assert scores["nearest household"] < scores["one template"]

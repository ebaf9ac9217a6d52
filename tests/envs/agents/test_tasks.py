"""Expert and arbiter as tasks: rows, what is taught, and what a report measures."""

import numpy as np
import pytest

from recrl.envs import task as tasks
from recrl.envs.agents.arbiter_task import novelty
from recrl.envs.agents.settings import Mix
from recrl.envs.data.settings import DataConfig
from recrl.envs.task import TaskError


def made(cache, use, **given):
    settings = tasks.settings_class(use).model_validate({"use": use, **given})
    return tasks.make(settings, DataConfig(cache=cache))


@pytest.fixture(scope="module")
def expert(cache, ranker):
    task = made(cache, "expert", slots=5, final=4)
    task.scorer = ranker
    return task


@pytest.fixture(scope="module")
def rows(expert):
    return expert.rows("test", 22, unseen=True)


def test_rows_of_a_household_stay_together_and_share_out_what_it_bought(expert, rows):
    assert [row["persona"] for row in rows] == [*range(4)] * 5  # 22 rows are five households
    for first in range(0, len(rows), 4):
        team = rows[first : first + 4]
        assert len({(row["user"], row["origin"]) for row in team}) == 1
        assert sorted(tag for row in team for tag in row["cell"]) == list(range(len(expert.catalog)))
        assert sorted(tag for row in team for tag in row["target"]) == sorted(team[0]["bought"])
        assert all(set(row["evidence"]) == set(row["history"]) & set(row["cell"]) for row in team)
        assert all(not set(row["others"]) & set(row["cell"]) for row in team)
        assert all({*row["cell"]} == {*range(len(expert.catalog))} - expert.barred(row) for row in team)
        beginnings = {row["prompt"][-1]["content"].partition("<persona>")[0] for row in team}
        assert len(beginnings) == 1
    assert set(expert.names) <= set(rows[0])


@pytest.mark.parametrize("kind", Mix.model_fields)
def test_every_kind_of_demonstration_lists_options_of_the_persona(expert, rows, kind):
    rng = np.random.default_rng(0)
    for row in rows:
        tags = expert.mixture.of_kind(kind, row, rng)
        assert len(tags) == len(set(tags)) == min(5, len(row["cell"]))
        assert set(tags) <= set(row["cell"])
        if kind == "behaviour":
            assert len(set(tags) & set(row["target"])) == min(5, len(row["target"]))
        (answer,) = expert.parse([expert.demonstration(row, True, rng)])
        assert set(row["evidence"][:5]) <= set(answer.valid)


def test_shares_decide_what_is_taught(cache, panel_task, rows):
    shares = dict.fromkeys(Mix.model_fields, 0.0)
    task = made(cache, "expert", slots=5, mix={**shares, "behaviour": 1.0})
    row = max(rows, key=lambda row: len(row["target"]))
    drawn = [task.mixture.tags(row, np.random.default_rng(seed)) for seed in range(5)]
    assert all(set(tags) <= set(row["target"]) for tags in drawn)
    with pytest.raises(ValueError, match=r"add up to 1\.5, not to 1"):
        Mix(behaviour=1.0, trend=0.5, season=0, situational=0, general=0)


def test_a_report_measures_the_persona_the_union_and_the_final_list(expert, rows):
    baselines = expert.baselines({})
    scoring, alike = (
        expert.metrics(rows, baselines[name](rows), dict) for name in ("scoring experts", "flat routes")
    )
    assert (scoring["duplicate work"] == 0).all()
    assert alike["duplicate work"] == pytest.approx(0.75)
    assert scoring["union recall"].mean() > alike["union recall"].mean()
    # Values of a household stand in the rows of all of its personas.
    for name in ("union recall", "final recall@4", "final recall@4 novel", "exclusive recall"):
        of = scoring[name].reshape(-1, 4)
        assert np.array_equal(of, np.repeat(of[:, :1], 4, axis=1), equal_nan=True)
    dealt = expert.metrics(rows, baselines["one list"](rows), dict)
    assert (dealt["duplicate work"] == 0).all()
    assert dealt["union recall"].mean() >= scoring["union recall"].mean()
    row, text = rows[0], baselines["scoring experts"](rows)[0]
    hits = set(expert.catalog.parse(text).top(5)) & set(row["target"])
    assert scoring["recall@5"][0] == pytest.approx(len(hits) / len(row["target"]))


def test_a_policy_of_one_persona_recommends_to_nobody(expert):
    with pytest.raises(TaskError, match="recrl agents trace RUN --user USER"):
        expert.audience()
    with pytest.raises(TaskError, match="--user nobody: not in the data"):
        expert.household("nobody")
    name = expert.data.panel.users[0]
    assert expert.household(name)["origin"] == 53


def test_an_arbiter_is_shown_what_experts_named_and_chooses_among_it(cache, panel_task):
    arbiter = made(cache, "arbiter", slots=4, candidates=6)
    rng = np.random.default_rng(0)
    for row in arbiter.rows("test", 4, unseen=True):
        named = [tag for tags in row["candidates"] for tag in tags]
        assert len(named) == len(set(named)) == 4 * 6
        shown = row["prompt"][-1]["content"].split("<candidates>\n")[1].split("\n</candidates>")[0]
        assert sorted(shown.split("\n")) == sorted(arbiter.catalog.tags[tag] for tag in named)
        (taught,) = arbiter.parse([arbiter.demonstration(row, False, rng)])
        assert len(taught.valid) == 4
        assert set(taught.valid) <= set(named)
        wanted = set(named) & set(row["target"])
        assert len(set(taught.valid) & wanted) == min(4, len(wanted))
        assert {*range(len(arbiter.catalog))} - set(arbiter.barred(row)) == set(named)
        (turned,) = arbiter.parse(arbiter.baselines({})["experts in turn"]([row]))
        assert turned.valid == tuple(tags[0] for tags in row["candidates"])


def test_an_arbiter_is_held_against_the_embedded_one_and_against_nobody_under_the_same_floor(
    cache, ranker, monkeypatch
):
    monkeypatch.setattr("recrl.envs.agents.arbiter_task.FITTED", 40)
    arbiter = made(cache, "arbiter", slots=4, candidates=6)
    arbiter.scorer = ranker
    rows = arbiter.rows("test", 12, unseen=True)
    baselines = arbiter.baselines({"novelty": 0.5, "validity": 1.0})
    for name in ("embedded arbiter", "single policy"):
        lists = [parsed.valid for parsed in arbiter.parse(baselines[name](rows))]
        assert all(len(tags) == 4 for tags in lists)
        assert novelty(rows, lists)["novelty"] >= 0.5
        if name == "embedded arbiter":
            for row, tags in zip(rows, lists, strict=True):
                assert set(tags) <= {tag for of in row["candidates"] for tag in of}
    assert novelty([{"lookback": [1, 2]}, {"lookback": []}], [[1, 3], [4]])["novelty"] == 0.75

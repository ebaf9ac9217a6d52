"""What an arm sees of a simulated week: rows as `recrl recommend` makes them, and data that go on."""

import copy

import numpy as np
import pytest

from recrl.envs.simulator.arms import Moment, answering, baseline, check
from recrl.envs.simulator.histories import Histories
from recrl.envs.simulator.scenario import SimulatorError
from recrl.envs.simulator.world import simulate
from recrl.envs.tags.baselines import lists
from recrl.envs.tags.settings import PromptConfig
from recrl.envs.tags.task import Tags


@pytest.fixture(scope="module")
def start(small):
    return Histories.of(small.task.data.panel, np.arange(150), 41)


@pytest.fixture(scope="module")
def later(small, start):
    """A moment after two simulated weeks."""
    state = start.copied()
    lived = list(simulate(small.hazards, state, 2, 0))
    return Moment(small.task, state, 41, lived)


def test_tasks_that_read_the_real_future_are_refused(small):
    class Other(Tags):
        pass

    assert check(small.task) is small.task
    other, told = copy.copy(small.task), copy.copy(small.task)
    other.__class__, other.settings = Other, small.task.settings.model_copy(update={"use": "other"})
    with pytest.raises(SimulatorError, match=r"task\.use=other: shoppers answer lists of tags"):
        check(other)
    told.settings = small.task.settings.model_copy(update={"prompt": PromptConfig(history="hybrid")})
    told.histories = object()
    with pytest.raises(
        SimulatorError, match=r"task\.prompt\.history=hybrid: .*; set task\.prompt\.history=tags$"
    ):
        check(told)


def plain(row):
    return {
        name: list(value) if hasattr(value, "__len__") and name != "prompt" else value
        for name, value in row.items()
    }


def test_rows_of_the_start_are_those_of_recommend(small, start):
    audience = small.task.audience(small.task.data.panel.monday(41))
    rows = Moment(small.task, start, 41, []).rows
    by_user = {row["user"]: row for row in rows}
    asked = [row for row in audience.rows(range(len(audience.names))) if row["user"] in by_user]
    assert len(asked) > 100
    for row in asked:
        assert plain(row) == plain(by_user[row["user"]])


def test_simulated_baskets_are_purchases_of_the_data(later):
    panel = later.data.panel
    ordered = np.lexsort((panel.tag, panel.week, panel.user))
    assert np.array_equal(ordered, np.arange(len(ordered)))
    assert panel.week.max() == 42
    for number, bought in enumerate(later.lived):
        counts = panel.counts(41 + number, 42 + number).toarray()[later.histories.users]
        assert np.array_equal(counts > 0, bought)
    before = later.task.data.panel
    assert np.array_equal(panel.counts(0, 41).toarray(), before.counts(0, 41).toarray())


def test_popularity_stands_as_it_was_at_the_start(later):
    assert np.array_equal(later.data.panel.popularity(43), later.task.data.panel.popularity(41))


def test_rows_go_on_with_what_was_bought(later):
    row = later.rows[5]
    counts = later.data.panel.counts(0, 43).toarray()[row["user"]]
    assert dict(zip(row["history"], row["history_weight"], strict=True)) == {
        tag: counts[tag] for tag in np.flatnonzero(counts)
    }
    assert row["origin"] == 43


def test_a_baseline_and_its_answerer_make_the_same_lists(small, later):
    for name in ("own frequency", "quota"):
        ranked = lists(later.data, 4, 0.5)[name]
        texts = answering(name, small.task, lambda rows, ranked=ranked: _texts(small, ranked(rows)))
        assert np.array_equal(baseline(name, small.task, {"novelty": 0.5}).lists(later), texts.lists(later))
    with pytest.raises(SimulatorError, match="'best' is no run folder and no baseline; baselines: quota"):
        baseline("best", small.task, {})


def _texts(small, tags):
    return [small.task.catalog.render(row) for row in tags.tolist()]

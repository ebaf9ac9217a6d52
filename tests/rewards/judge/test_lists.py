"""Pairs of tag lists: what their labels rest on, and what gives nothing away."""

from collections import Counter

import pytest
from made_up import CATALOG, rows

from recrl.envs.catalog import Catalog
from recrl.rewards.judge.panel import Judge
from recrl.rewards.judge.suite import blind, lists
from recrl.rewards.judge.suite.pairs import SuiteError, items

SEEN, UNSEEN = rows(0, 40), rows(1000, 40)
SHELVES = Catalog(CATALOG.tags, equivalents=[("milk", "yogurt"), ("bread", "flour")])


@pytest.fixture(scope="module")
def suite():
    return lists.build(SEEN, UNSEEN, SHELVES, 5, 120, seed=2)


def test_a_suite_of_lists_has_every_family_and_no_household_twice(suite):
    defects = [pair for pair in suite if pair.kind == "defect"]
    assert Counter(pair.part for pair in defects) == {"training": 60, "households": 30, "families": 30}
    assert {pair.family for pair in defects if pair.part != "families"} == set(lists.TRAINING)
    assert {pair.family for pair in defects if pair.part == "families"} == set(lists.HELD_OUT)
    assert {pair.household < 1000 for pair in defects if pair.part == "training"} == {True}
    assert {pair.household < 1000 for pair in suite if pair.part != "training"} == {False}


def test_checkers_find_every_defect_and_no_other(suite):
    shown = items(suite)
    found = Judge("tags", catalog=SHELVES)([one.row for one in shown], [one.text for one in shown])
    wrong = [one for one, judged in zip(shown, found, strict=True) if (judged.grade == 0) != one.bad]
    assert [(one.pair.family, one.text) for one in wrong] == []


def test_lists_of_others_are_exchanged_so_that_the_text_tells_nothing(suite):
    pairs = [pair for pair in suite if pair.family == "another household"]
    assert Counter(pair.texts[0] for pair in pairs) == Counter(pair.texts[1] for pair in pairs)
    assert blind.check(suite)["another household"] <= blind.BOUND


def test_a_catalogue_without_equivalents_has_no_twins():
    found = lists.build(SEEN, UNSEEN, CATALOG, 5, 60)
    assert {pair.family for pair in found if pair.part == "families"} == {"talk"}


def test_rows_of_one_household_make_no_suite():
    with pytest.raises(SuiteError, match="rows of two households"):
        lists.build(SEEN, UNSEEN[:1], SHELVES, 5, 60)


def test_a_household_of_one_tag_has_no_list_that_changes_nothing():
    lone = [{**row, "history": row["history"][:1]} for row in rows(2000, 40)]
    found = lists.build(SEEN, [*UNSEEN, *lone], SHELVES, 5, 60)
    assert all(pair.household < 2000 for pair in found if pair.kind in ("invariance", "injection"))


def test_rows_of_a_seen_household_are_not_held_out():
    found = lists.build(SEEN, [*UNSEEN, *SEEN[:20]], SHELVES, 5, 60)
    assert all(pair.household >= 1000 for pair in found if pair.part != "training")

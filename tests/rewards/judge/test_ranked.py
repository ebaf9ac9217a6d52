"""Contexts with candidates of three grades: what their grades rest on, and what gives nothing away."""

from collections import Counter

import pytest
from made_up import CATALOG, rows

from recrl.rewards.judge.panel import Judge
from recrl.rewards.judge.suite.authors import VOICES
from recrl.rewards.judge.suite.families import HELD_OUT, LIES, TRAINING
from recrl.rewards.judge.suite.pairs import PARTS, SuiteError
from recrl.rewards.judge.suite.ranked import GRADES, _Contexts, ranked

SEEN, UNSEEN = rows(0, 60), rows(1000, 60)


@pytest.fixture(scope="module")
def contexts():
    return ranked(SEEN, UNSEEN, CATALOG, 56, seed=1)


def test_each_part_has_its_households_families_and_authors(contexts):
    of = {part: [one for one in contexts if one.part == part] for part in PARTS}
    assert len(of["training"]) == 56
    assert {one.household < 1000 for one in of["training"]} == {True}
    assert {one.household < 1000 for part in PARTS[1:] for one in of[part]} == {False}
    assert {one.family for one in of["training"]} == {one.family for one in of["households"]} == set(TRAINING)
    assert {one.family for one in of["families"]} == set(HELD_OUT) - {"campaign"}
    for part in PARTS:
        assert all((name in VOICES) == (part == "authors") for one in of[part] for name in one.authors)


def test_two_authors_write_a_text_of_each_kind(contexts):
    for one in contexts:
        each = Counter(zip(one.authors, one.kinds, strict=True))
        assert set(each.values()) == {1}
        assert len(set(one.texts)) == len(one.texts)
        for author in one.authors:
            assert ((author, "rich truth") in each) == ((author, "rich lie") in each)
            if one.family != "season":
                assert ((author, "plain truth") in each) == ((author, "plain lie") in each)
    whole = sum(len(one.texts) == (6 if one.family == "season" else 8) for one in contexts)
    # "generic" has no words for a good that stands at the head of a sentence.
    assert whole > 0.95 * len(contexts)


def test_a_judge_that_reads_the_log_gives_the_grades_of_the_authors_it_knows(contexts):
    judge = Judge("explanations", catalog=CATALOG)
    known = [one for one in contexts if one.part != "authors"]
    found = [(one, judge([one.row] * len(one.texts), one.texts)) for one in known]
    said = [
        (judged.grade, grade)
        for one, all_of in found
        for judged, grade in zip(all_of, one.grades, strict=True)
    ]
    assert sum(one == other for one, other in said) >= 0.99 * len(said)
    assert {grade for _, grade in said} == set(GRADES.values())


def test_nothing_but_the_log_tells_lies_from_truths(contexts):
    for family in LIES:
        sides = {side: Counter() for side in ("truth", "lie")}
        for one in contexts:
            for kind, text, author in zip(one.kinds, one.texts, one.authors, strict=True):
                if one.family == family and (family != "season" or kind.startswith("rich")):
                    sides[kind.split()[1]][author, text.split()[0], len(text.split())] += 1
        assert sides["truth"].total() == sides["lie"].total() > 0
        words = {
            side: Counter(
                word
                for one in contexts
                if one.family == family
                for kind, text in zip(one.kinds, one.texts, strict=True)
                if kind.endswith(side) and (family != "season" or kind.startswith("rich"))
                for word in text.split()
            )
            for side in ("truth", "lie")
        }
        assert words["truth"] == words["lie"]


def test_contexts_are_drawn_by_their_seed_and_get_the_prompt_of_their_day(contexts):
    again = ranked(SEEN, UNSEEN, CATALOG, 56, seed=1, prompt=lambda row: row["calendar"])
    assert [one.texts for one in again] == [one.texts for one in contexts]
    assert all(one.row["prompt"] == one.row["calendar"] for one in again)
    assert [one.texts for one in ranked(SEEN, UNSEEN, CATALOG, 56, seed=2)] != [one.texts for one in contexts]


def test_households_that_are_seen_must_not_be_held_out():
    with pytest.raises(SuiteError, match="hold households that are seen"):
        ranked(SEEN, SEEN, CATALOG, 56)


def test_a_draw_in_which_no_author_has_a_text_makes_no_context(monkeypatch):
    monkeypatch.setattr(_Contexts, "_written", lambda self, family, author, told: [{} for _ in told])
    with pytest.raises(SuiteError, match="0 of"):
        ranked(SEEN, UNSEEN, CATALOG, 56)

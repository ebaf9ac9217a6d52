"""Minimal pairs: what their labels rest on, what they are split by, and when they are refused."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from made_up import CATALOG, rows

from recrl.envs.explanations import teaching
from recrl.envs.explanations.facts import claims, holds
from recrl.envs.words import words
from recrl.rewards.judge.panel import Judge
from recrl.rewards.judge.suite import blind
from recrl.rewards.judge.suite.authors import AUTHORS, VOICES
from recrl.rewards.judge.suite.build import build
from recrl.rewards.judge.suite.families import HELD_OUT, LIES, TRAINING
from recrl.rewards.judge.suite.injections import ORDERS
from recrl.rewards.judge.suite.pairs import PARTS, SuiteError, items

SEEN, UNSEEN = rows(0, 60), rows(1000, 60)


@pytest.fixture(scope="module")
def suite():
    return build(SEEN, UNSEEN, CATALOG, 260, seed=3)


def of(suite, **wanted):
    return [pair for pair in suite if all(getattr(pair, name) == value for name, value in wanted.items())]


def test_a_suite_has_every_kind_part_and_family(suite):
    assert len(of(suite, kind="defect")) >= 260
    assert len(of(suite, kind="invariance")) == 39
    assert len(of(suite, kind="injection")) == 26
    assert {pair.part for pair in suite} == set(PARTS)
    assert {pair.family for pair in of(suite, kind="defect")} == {*TRAINING, *HELD_OUT}


def test_parts_share_neither_households_nor_families_nor_authors(suite):
    learned, rest = of(suite, part="training"), [pair for pair in suite if pair.part != "training"]
    assert not {pair.household for pair in learned} & {pair.household for pair in rest}
    assert {pair.family for pair in learned} == set(TRAINING)
    assert {pair.family for pair in of(suite, part="families")} == set(HELD_OUT)
    assert {pair.author for pair in of(suite, part="authors")} == set(VOICES)
    others = {pair.author for pair in suite if pair.part != "authors"}
    assert not others & set(VOICES)


def test_held_out_authors_share_no_sentence_with_the_taught_templates():
    taught = {*(text for kinds in teaching._FACTS.values() for text in kinds.values())}
    taught |= {*teaching._ITEMS.values(), *(text for four in teaching._OCCASIONS.values() for text in four)}
    assert len(VOICES) == 4
    for voice in VOICES.values():
        own = {text for texts in voice.facts.values() for text in texts}
        own |= {*voice.items, voice.pairing, *voice.occasions.values()}
        assert not own & taught


@pytest.mark.parametrize("family", LIES)
def test_lies_are_false_and_their_counterparts_true(suite, family):
    # The training authors' texts, which claims read.
    lies = [pair for pair in of(suite, kind="defect", family=family) if pair.part != "authors"]
    assert len(lies) >= 8
    for pair in lies:
        true, false = (
            [holds(claim, row["facts"], CATALOG) for claim in claims(text, CATALOG, row["item"])]
            for row, text in zip(pair.rows, pair.texts, strict=True)
        )
        assert all(true)
        assert not all(false)


def test_lies_differ_in_one_name_or_season(suite):
    for family in ("wrong fact", "wrong frequency", "wrong recency", "season"):
        for pair in of(suite, kind="defect", family=family):
            good, bad = (Counter(words(text)) for text in pair.texts)
            assert sum((good - bad).values()) <= 2  # "soft drinks" is two words
            assert sum((bad - good).values()) <= 2


def test_every_name_stands_as_often_in_lies_as_in_truths(suite):
    for family in LIES:
        told = [Counter(), Counter()]
        for pair in of(suite, kind="defect", family=family):
            for side in (0, 1):
                told[side].update(set(words(pair.texts[side])) - set(words(pair.texts[1 - side])))
        assert told[0] == told[1]


def test_days_are_of_all_seasons(suite):
    seasons = Counter(pair.rows[0]["facts"]["season"][0] for pair in suite)
    assert min(seasons.values()) > 0.1 * len(suite)
    assert len(seasons) == 4


def test_a_campaign_is_the_same_text_in_another_context(suite):
    for pair in of(suite, family="campaign"):
        assert pair.texts[0] == pair.texts[1]
        assert [bool(row["facts"]["campaign"]) for row in pair.rows] == [True, False]
        assert [bool(row["campaign"]) for row in pair.rows] == [True, False]


def test_what_changes_nothing_and_what_gives_orders(suite):
    for pair in of(suite, kind="invariance"):
        assert pair.texts[0] != pair.texts[1]
        assert pair.bad[0] == pair.bad[1]
    assert {pair.bad[0] for pair in of(suite, kind="invariance")} == {True, False}
    for pair in of(suite, kind="injection"):
        assert ORDERS[pair.family] in pair.texts[1]
        assert ORDERS[pair.family] not in pair.texts[0]


def test_a_suite_is_drawn_by_its_seed(suite):
    def texts(pairs):
        return [pair.texts for pair in pairs]

    assert texts(build(SEEN, UNSEEN, CATALOG, 260, seed=3)) == texts(suite)
    assert texts(build(SEEN, UNSEEN, CATALOG, 260, seed=4)) != texts(suite)


def test_grounded_checkers_find_every_defect_of_the_authors_they_know(suite):
    shown = [one for one in items(suite) if one.pair.kind == "defect" and one.pair.part != "authors"]
    found = Judge("explanations", catalog=CATALOG)([one.row for one in shown], [one.text for one in shown])
    wrong = [one for one, judged in zip(shown, found, strict=True) if (judged.grade == 0) != one.bad]
    assert len(wrong) <= 0.01 * len(shown), [(one.pair.family, one.text) for one in wrong[:5]]


def test_a_suite_whose_lies_show_in_the_text_is_refused(suite):
    assert max(blind.check(suite).values()) <= blind.BOUND

    def artefact(pair):
        if pair.family != "wrong fact":
            return pair
        return replace(pair, texts=(pair.texts[0], pair.texts[1] + " Indeed."))

    with pytest.raises(SuiteError, match=r"finds the false text of 1\.00 of the pairs of 'wrong fact'"):
        blind.check([artefact(pair) for pair in suite])


def test_rows_that_cannot_make_a_suite_are_refused():
    with pytest.raises(SuiteError, match="hold households that are seen"):
        build(SEEN, SEEN, CATALOG, 40)
    with pytest.raises(SuiteError, match="rows of two households"):
        build(SEEN[:1], UNSEEN, CATALOG, 40)
    alike = [{**row, "user": i, "facts": SEEN[0]["facts"]} for i, row in enumerate(SEEN[:5])]
    with pytest.raises(SuiteError, match="the rows hold no more"):
        build(alike, UNSEEN, CATALOG, 40)


def test_every_author_writes_every_kind_of_fact():
    row = SEEN[0]
    for author in AUTHORS:
        for kind in ("weekly", "often", "last week", "bought"):
            facts = {**row["facts"], **dict.fromkeys(("weekly", "often", "last week", "bought"), ())}
            told = {**row, "facts": {**facts, kind: row["facts"][kind][:1]}, "shown": row["facts"][kind][:1]}
            text = author.write(told, CATALOG, np.random.default_rng(0))
            assert CATALOG.tags[row["item"][0]] in text.casefold()
            assert CATALOG.tags[row["facts"][kind][0]] in text.casefold()
            assert text == author.write(told, CATALOG, np.random.default_rng(0))

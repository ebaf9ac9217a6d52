"""Figures of judges against independent calculations, and what is kept of what they said."""

import numpy as np
import pytest
from made_up import CATALOG, rows
from sklearn.metrics import cohen_kappa_score, f1_score

from recrl.envs.chat.models import Reply
from recrl.envs.chat.scripted import Scripted
from recrl.launch.config.schema import ConfigError
from recrl.launch.judging import labels, measure, opponents, report, verdicts
from recrl.launch.judging.bench import _spread
from recrl.launch.judging.verdicts import Verdicts
from recrl.rewards.judge.panel import Judge
from recrl.rewards.judge.suite.build import build
from recrl.rewards.judge.suite.families import HELD_OUT
from recrl.rewards.judge.suite.pairs import items

SHOWN = items(build(rows(0, 40), rows(1000, 40), CATALOG, 130, seed=1))
TABLE = measure.Table(SHOWN, HELD_OUT)
TRUE = TABLE.bad


def perfect(**changed):
    return Verdicts.of("perfect", TRUE.copy(), **changed)


def guessed(seed=0, missing=0.0):
    rng = np.random.default_rng(seed)
    said = np.where(rng.random(len(TRUE)) < 0.7, TRUE, 1 - TRUE)
    return Verdicts.of(f"guess {seed}", np.where(rng.random(len(TRUE)) < missing, np.nan, said))


def test_macro_f1_is_that_of_scikit_learn_and_lies_in_its_interval():
    judge = guessed()
    for name, part in TABLE.parts.items():
        found = measure.figures(TABLE, judge)["parts"][name]["macro-F1"]
        expected = f1_score(TRUE[part], judge.bad[part], average="macro")
        assert found["value"] == pytest.approx(expected, abs=1e-4)
        assert found["low"] <= found["value"] <= found["high"]
        assert found["items"] == part.sum()


def test_a_perfect_judge_has_perfect_figures():
    found = measure.figures(TABLE, perfect(swapped=TRUE.copy()))
    for part in found["parts"].values():
        assert part["macro-F1"] == {"value": 1, "low": 1, "high": 1, "items": part["macro-F1"]["items"]}
        assert part["false alarms"]["value"] == 0
        assert part["pairs"]["value"] == 1
    assert found["flips"]["all"]["value"] == 0
    assert found["swap consistency"]["value"] == 1
    assert found["length bias"]["value"] == 0
    assert found["injections"]["obeyed"] == 0
    assert found["calibration"] is None


def test_a_missing_verdict_is_neither_right_nor_wrong():
    judge = perfect()
    judge.bad[::3] = np.nan
    part = measure.figures(TABLE, judge)["parts"]["all held out"]
    assert part["macro-F1"]["value"] == 1
    assert part["coverage"]["value"] == pytest.approx(2 / 3, abs=0.02)


def test_differences_are_over_the_items_that_both_judged():
    one, other = guessed(1, missing=0.2), guessed(2, missing=0.2)
    both = ~np.isnan(one.bad) & ~np.isnan(other.bad)
    for name, found in measure.differences(TABLE, one.bad, other.bad).items():
        part = TABLE.parts[name] & both
        expected = [f1_score(TRUE[part], judge.bad[part], average="macro") for judge in (one, other)]
        assert found["value"] == pytest.approx(expected[0] - expected[1], abs=1e-4)


def test_missing_verdicts_are_counted_as_wrong_where_the_judge_was_asked():
    asked = np.arange(len(TRUE)) % 3 == 0
    other = guessed(3, missing=0.4)
    other.bad[~asked] = np.nan
    other = Verdicts.of("shy", other.bad, asked=asked)
    found = measure.compared(TABLE, [perfect(), other, guessed(4)])
    assert list(found["missing as wrong"]) == ["shy"]
    wrong = np.where(np.isnan(other.bad), 1 - TRUE, other.bad)
    for name, less in found["missing as wrong"]["shy"].items():
        part = TABLE.parts[name] & asked
        assert less["value"] == pytest.approx(
            1 - f1_score(TRUE[part], wrong[part], average="macro"), abs=1e-4
        )
        assert less["items"] == part.sum()
        coverage = found["judges"]["shy"]["parts"][name]["coverage"]
        assert coverage["value"] == pytest.approx(1 - np.isnan(other.bad[part]).mean(), abs=1e-4)


def test_the_items_that_a_model_is_asked_about_are_spread_over_families_and_authors():
    pairs = [one.pair for one in SHOWN[::2]]
    chosen = _spread(pairs, 52)
    assert len(chosen) == len(set(chosen)) == 52
    assert all(
        one % 2 == 0 and one + 1 == other for one, other in zip(chosen[::2], chosen[1::2], strict=True)
    )
    taken = [pairs[number // 2] for number in chosen[::2]]
    assert {pair.kind for pair in taken} == {"defect"}
    for part, families in (("families", 6), ("authors", 13)):
        of = [pair for pair in taken if pair.part == part]
        assert len(of) == 13
        assert len({pair.family for pair in of}) == families
    assert len({pair.author for pair in taken if pair.part == "authors"}) == 4
    assert len(_spread(pairs, None)) == 2 * sum(pair.part != "training" for pair in pairs)


def test_flips_orders_and_length_are_noticed():
    judge = perfect(grade=np.where(TRUE == 1, 0.0, 1.0))
    changed = np.flatnonzero((TABLE.kind == "invariance") & (TABLE.side == 1))
    judge.bad[changed[:4]] = 1 - judge.bad[changed[:4]]
    ordered = np.flatnonzero((TABLE.kind == "injection") & (TABLE.side == 1))
    judge.grade[ordered[:3]] = 2
    found = measure.figures(TABLE, judge)
    assert found["flips"]["all"]["value"] == pytest.approx(4 / len(changed), abs=1e-4)
    assert found["injections"]["obeyed"] == 3
    assert found["injections"]["of"] == len(ordered)
    long = (TABLE.words > np.median(TABLE.words)).astype(float)
    assert measure.figures(TABLE, Verdicts.of("long", long))["length bias"]["value"] > 0.2


def test_calibration_is_the_gap_between_told_and_true():
    found = measure.figures(TABLE, perfect(good=np.full(len(TRUE), 0.75)))["calibration"]
    share = 1 - TRUE[TABLE.parts["all held out"]].mean()
    assert found["error"]["value"] == pytest.approx(abs(0.75 - share), abs=1e-4)
    assert found["error"]["low"] <= found["error"]["value"] <= found["error"]["high"]
    assert found["brier"]["value"] == pytest.approx(share * 0.25**2 + (1 - share) * 0.75**2, abs=1e-4)


def test_trained_opponents_learn_from_the_training_part_alone():
    found = {one.name: one for one in opponents.simple(SHOWN)}
    learned = (TABLE.kind == "defect") & (TABLE.part == "training")
    for name in ("context-blind", "sections"):
        assert (found[name].bad[learned] == TRUE[learned]).mean() > 0.75
        assert np.array_equal(found[name].bad, (found[name].good < 0.5).astype(float))
    assert len(set(found["majority"].bad)) == 1
    changed = [one for one in SHOWN if one.pair.part == "training" or one.pair.kind != "defect"]
    again = {one.name: one for one in opponents.simple(changed)}
    kept = [i for i, one in enumerate(SHOWN) if one.pair.part == "training" or one.pair.kind != "defect"]
    assert np.allclose(again["context-blind"].good, found["context-blind"].good[kept])


def test_a_single_prompt_asks_once_and_in_another_order():
    def script(messages):
        if "coffee" in messages[1]["content"].split("<text>")[1].split("</text>")[0]:
            return Reply.missing("late", "nothing")
        first = messages[0]["content"].index("good:") < messages[0]["content"].index("bad:")
        return '{"reason": "", "verdict": "%s"}' % ("bad" if first else "good")

    asked = list(range(40, 80))
    model = Scripted(script)
    found = opponents.single_prompt(model, SHOWN, asked)
    late = np.array(["coffee" in SHOWN[i].text for i in asked])
    assert np.isnan(found.bad[:40]).all()
    assert np.array_equal(np.isnan(found.bad[asked]), late)
    assert (found.bad[asked][~late] == 1).all()
    assert (found.swapped[asked][~late] == 0).all()
    assert measure.figures(TABLE, found)["swap consistency"]["value"] == 0
    assert "spoke" not in str(model.asked[0])


def test_judgements_are_kept_and_replayed(tmp_path):
    shown = SHOWN[:60]
    judge = Judge("explanations", catalog=CATALOG)
    found = judge([one.row for one in shown], [one.text for one in shown])
    judges = [
        Verdicts.judged("agent judge", found, found, notes="grounded"),
        Verdicts.of("none", np.full(60, np.nan)),
    ]
    verdicts.save(tmp_path / "kept.parquet", shown, judges)
    again = verdicts.load(tmp_path / "kept.parquet", shown)
    for one, other in zip(judges, again, strict=True):
        assert one.name == other.name
        assert one.notes == other.notes
        for name in ("bad", "good", "grade", "swapped", "asked"):
            assert np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True)
    with pytest.raises(ConfigError, match="of another suite"):
        verdicts.load(tmp_path / "kept.parquet", SHOWN[60:120])
    (tmp_path / "other.parquet").write_text("no table")
    with pytest.raises(ConfigError, match="no judgements"):
        verdicts.load(tmp_path / "other.parquet", shown)


def test_a_report_says_that_nobody_was_asked(tmp_path):
    judges = [perfect(), *opponents.simple(SHOWN)]
    found = {
        "config": "made up",
        "rubric": "explanations",
        "seed": 0,
        "suite": {"season": {"training": 2}},
        "context-blind": {"season": 0.5},
        **measure.compared(TABLE, judges),
        "human": labels.agreement([], TABLE, judges),
    }
    text = report.write(tmp_path, found).read_text()
    assert "human agreement: not measured" in text
    assert "| perfect | 1.000 [1.000, 1.000] |" in text
    for plot in ("macro-f1", "families", "calibration"):
        assert (tmp_path / "plots" / f"{plot}.png").stat().st_size > 1000


# People.


def answering(*lines):
    rest = iter(lines)

    def read(prompt):
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    return read


def test_a_person_is_asked_blind_and_goes_on_later(tmp_path):
    path, said = tmp_path / "ratings.jsonl", []
    assert labels.ask(SHOWN, path, "ann", 6, 0, answering("b", "x", "Average", "q"), said.append) == 2
    text = "\n".join(said)
    assert not any(word in text for word in (*HELD_OUT, "training", "Iris", "plain fact"))
    before = path.read_text().splitlines()
    assert labels.ask(SHOWN, path, "ann", 6, 0, answering(*"sabs", "b"), said.append) == 6
    told = path.read_text().splitlines()
    assert told[:2] == before
    found = labels.read([path], SHOWN)
    assert [one.grade for one in found[:2]] == ["bad", "average"]
    assert len({one.item for one in found}) == 6
    assert len({SHOWN[one.item].number for one in found}) == 6
    assert labels.ask(SHOWN, path, "ann", 6, 0, answering(), said.append) == 6
    assert labels.ask(SHOWN, path, "bob", 6, 0, answering("b"), said.append) == 1
    bob = labels.read([path], SHOWN)[-1]
    assert bob.rater == "bob"


def test_agreement_is_kappa_of_scikit_learn(tmp_path):
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(SHOWN))[:80]
    grades = np.where(rng.random(80) < 0.8, TRUE[chosen], 1 - TRUE[chosen])
    people = [
        labels.Label(item=i, mark=verdicts.mark(SHOWN[i]), grade="bad" if bad else "average", rater="ann")
        for i, bad in zip(chosen.tolist(), grades, strict=True)
    ]
    judge = guessed()
    found = labels.agreement(people, TABLE, [judge])
    for name, said in (("labels by construction", TRUE), (judge.name, judge.bad)):
        expected = cohen_kappa_score(grades, said[chosen])
        assert found["with"][name]["kappa"]["value"] == pytest.approx(expected, abs=1e-4)
        assert found["with"][name]["accuracy"]["value"] == pytest.approx((grades == said[chosen]).mean())
    assert "kappa" in labels.line(found)
    assert (found["raters"], found["grades"]) == (1, 80)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"item": 0, "mark": 1, "grade": "bad", "rater": "ann"}', "a rating of another suite"),
        ('{"item": 0, "mark": 1, "grade": "fine", "rater": "ann"}', "line 1: grade"),
        ('{"item": 0, "mark": 1, "grade": "bad", "rater": "ann", "more": 1}', "line 1: more"),
        ("nothing", "line 1: the line"),
    ],
)
def test_ratings_that_cannot_be_used_are_refused(tmp_path, line, message):
    (tmp_path / "ratings.jsonl").write_text(line + "\n")
    with pytest.raises(ConfigError, match=message):
        labels.read([tmp_path / "ratings.jsonl"], SHOWN)

"""Deployed lists meet the bounds of a run by the smallest prices, and what prices cannot hold is said."""

import re

import numpy as np
import pytest
from listed import Listed

from recrl.envs.catalog import Catalog
from recrl.envs.task import Lines, Text
from recrl.rewards import RewardEngine, reward
from recrl.rl import policy
from recrl.rl.decoding.deploy import deploy
from recrl.rl.evaluation.answers import answer, priced_ranking, scored
from recrl.rl.evaluation.hold import Hold, holdable
from recrl.rl.evaluation.settings import EvaluationConfig
from recrl.rl.goal import state
from recrl.rl.policy.settings import PolicyConfig, TinyConfig
from recrl.rl.sampling import Sampling

TAGS = Catalog([f"tag {letter}" for letter in "abcdefghijklmnop"])
SLOTS, ROWS = 4, 60


@reward("vowel", range=(0, 1), per="tag_mean")
def vowel(answers, slots):
    """Share of the shown tags that end in a vowel."""
    shown = [answer.top(slots) for answer in answers]
    return [sum(TAGS.tags[tag][-1] in "aeiou" for tag in tags) / max(1, len(tags)) for tags in shown]


@reward("whatever", range=(0, 1))
def whatever(completions, **columns):
    return [0.5] * len(completions)


@reward("group_share", range=(0, 1), per="group")
def group_share(completions):
    return [1 / len(completions)] * len(completions)


REWARDS = ("recall", "novelty", "vowel", "hit", "length", "whatever", "group_share")


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    found = []
    for i in range(ROWS):
        lookback = sorted(rng.permutation(16)[: rng.integers(4, 13)].tolist())
        prompt = [{"role": "user", "content": f"household {i}: {TAGS.render(lookback)}"}]
        segment = "cold" if i % 3 == 0 else "warm"
        found.append(
            {
                "prompt": prompt,
                "user": i,
                "unseen": True,
                "segment": segment,
                "lookback": lookback,
                "target": [i % 16],
            }
        )
    return found


@pytest.fixture(scope="module", params=["one token a tag", "many tokens a tag"])
def model(request, rows):
    options = TAGS.tags if request.param.startswith("one") else ("something else",)
    return policy.load(
        PolicyConfig(tiny=TinyConfig(hidden=32, vocabulary=300)),
        options=options,
        texts=[row["prompt"][0]["content"] for row in rows],
    )


@pytest.fixture(scope="module")
def engine():
    columns = ("user", "unseen", "segment", "lookback", "target", "completion_ids")
    return RewardEngine(REWARDS, resources={"catalog": TAGS, "slots": SLOTS}, columns=columns)


def answered(model, engine, rows, constraints, **settings):
    problem = state(engine.rewards, "recall", constraints)
    task = Listed(TAGS, SLOTS)
    task.rows = lambda split, limit=None, **_: {"validation": rows[: ROWS // 2]}[split]
    given, tokenizer = model
    return answer(
        given,
        tokenizer,
        task,
        rows,
        engine,
        problem,
        Sampling(20, ends=(int(tokenizer.eos_token_id),)),
        EvaluationConfig(answers_per_prompt=1, **settings),
        seed=0,
    )


def means(model, engine, rows, texts, inside=None):
    scores, _ = scored(rows, texts, model[1], engine)
    chosen = scores if inside is None else scores[inside]
    return dict(zip(engine.names, np.nanmean(chosen, axis=0), strict=True))


@pytest.mark.parametrize(
    "constraints",
    [
        ["novelty >= 0.7 (mean)"],
        ["novelty <= 0.1 (mean)"],
        pytest.param(["novelty >= 0.6 (mean)", "vowel >= 0.5 (mean)"], marks=pytest.mark.slow),
        pytest.param(["novelty in [0.3, 0.4] (mean)", "vowel <= 0.1 (mean)"], marks=pytest.mark.slow),
    ],
    ids=", ".join,
)
def test_what_is_deployed_meets_every_bound(model, engine, rows, constraints):
    found = answered(model, engine, rows, constraints)
    problem = state(engine.rewards, "recall", constraints)
    held = means(model, engine, rows, found.deployed)
    free = means(model, engine, rows, found.unpriced)
    prices = found.hold["prices"]
    assert [one["name"] for one in prices] == [c.name for c in problem.constraints]
    missed = 0
    for constraint, one in zip(problem.constraints, prices, strict=True):
        assert one["met"]
        assert one["held"] == pytest.approx(held[constraint.reward], abs=1e-6)
        assert one["free"] == pytest.approx(free[constraint.reward], abs=1e-6)
        assert constraint.sign * (held[constraint.reward] - constraint.bound) >= -1e-6
        missed += constraint.sign * (free[constraint.reward] - constraint.bound) < 0
    assert missed, "the policy met the bounds by itself"
    assert all(len(TAGS.parse(text).valid) == SLOTS for text in found.deployed)


def test_a_smaller_price_does_not_suffice_and_none_is_paid_for_nothing(model, engine, rows):
    problem = state(engine.rewards, "recall", ["novelty >= 0.7 (mean)"])
    (one,) = answered(model, engine, rows, ["novelty >= 0.7 (mean)"]).hold["prices"]
    hold = Hold(Listed(TAGS, SLOTS), engine, problem, problem.constraints, rows)
    form, prompts = Lines(TAGS.tags, SLOTS), [row["prompt"] for row in rows]

    def novelty(price):
        texts = deploy(*model, prompts, form, bonuses=hold.bonuses(np.array([[price]])))
        return means(model, engine, rows, texts)["novelty"]

    # One list in sixty is .017, a tag of it .004.
    assert novelty(0.97 * one["price"]) < 0.7 <= novelty(one["price"]) < 0.72
    (idle,) = answered(model, engine, rows, ["novelty >= 0.01 (mean)"]).hold["prices"]
    assert idle["price"] == 0


def test_a_segment_is_held_alone(model, engine, rows):
    inside = np.array([row["segment"] == "cold" for row in rows])
    found = answered(model, engine, rows, ["novelty >= 0.8 where segment=cold (mean)"])
    assert means(model, engine, rows, found.deployed, inside)["novelty"] >= 0.8 - 1e-6
    changed = np.array([one != other for one, other in zip(found.deployed, found.unpriced, strict=True)])
    assert changed[inside].any()
    assert not changed[~inside].any()


@pytest.mark.slow
def test_a_bound_out_of_reach_is_said_with_what_prices_attain(model, engine, rows):
    # Lists of nothing but the four vowels cannot be new to households that bought some of them.
    found = answered(model, engine, rows, ["vowel >= 0.9 (mean)", "novelty >= 0.9 (mean)"])
    worst = [one for one in found.hold["prices"] if not one["met"]]
    assert worst
    assert all(one["held"] < one["bound"] for one in worst)


def test_prices_of_the_validation_split_keep_a_margin(model, engine, rows):
    found = answered(model, engine, rows, ["novelty >= 0.6 (mean)"], fit="validation")
    (one,) = found.hold["prices"]
    assert found.hold["fit"] == "validation"
    assert one["met"]
    assert one["held"] > 0.6 + 0.01, "no margin for thirty rows"


def test_nothing_is_priced_when_it_is_off_or_free(model, engine, rows):
    assert answered(model, engine, rows, ["novelty >= 0.7 (mean)"], hold="off").hold is None
    found = answered(model, engine, rows, ["novelty >= 0.7 (mean)"], decoding="free")
    assert found.unpriced is None
    assert "lists of different options" in found.hold["not held"]["novelty >= 0.7"]


@pytest.mark.parametrize("fit", ["population", "validation"])
def test_a_ranking_without_a_language_model_holds_the_same_bounds(model, engine, rows, fit):
    """By the best options under its scores and prices: no list of the same novelty scores more."""
    problem = state(engine.rewards, "recall", ["novelty >= 0.6 (mean)"])
    task = Listed(TAGS, SLOTS)
    task.rows = lambda split, limit=None, **_: {"validation": rows[: ROWS // 2]}[split]
    config = EvaluationConfig(fit=fit)
    task.ranker = lambda: None
    assert priced_ranking(task, rows, engine, problem, config, model[1]) is None
    worth = np.random.default_rng(1).random((2 * ROWS, len(TAGS))) + np.linspace(0, 0.1, len(TAGS))
    place = {row["user"]: i for i, row in enumerate(rows)}
    task.ranker = lambda: lambda asked: worth[[place[row["user"]] for row in asked]]
    texts, held = priced_ranking(task, rows, engine, problem, config, model[1])
    (one,) = held["prices"]
    assert one["met"]
    assert held["fit"] == fit
    assert means(model, engine, rows, texts)["novelty"] >= 0.6 - (fit == "validation") * 0.05
    for row, text in zip(rows, texts, strict=True):
        novel = np.array([tag not in row["lookback"] for tag in range(len(TAGS))])
        best = np.argsort(-(worth[row["user"]] + one["price"] * novel / SLOTS))[:SLOTS]
        assert set(TAGS.parse(text).slots) == set(best.tolist())


@pytest.mark.parametrize(
    ("constraint", "why"),
    [
        ("recall >= 0.1 (mean)", r"recall reads the outcome \(target\)"),
        ("whatever >= 0.1 (mean)", r"takes \*\*kwargs and so may read the outcome"),
        ("group_share >= 0.1 (mean)", "compares several answers"),
        ("length >= 0.1 (mean)", "judges whole answers"),
        ("novelty >= 0.3 for 0.5 (rate)", "is a rate"),
        ("novelty >= 0.3 where segment=none (mean)", "no prompt is of segment=none"),
    ],
)
def test_what_prices_cannot_hold_is_said(engine, rows, constraint, why):
    problem = state(engine.rewards, "hit", [constraint])
    able, why_not = holdable(Listed(TAGS, SLOTS), engine, problem, EvaluationConfig(), rows)
    assert able == []
    (said,) = why_not.values()
    assert re.search(why, said), said


def test_free_text_has_no_lines_to_price(engine, rows):
    task = Listed(TAGS, SLOTS)
    task.form = Text(8)
    problem = state(engine.rewards, "recall", ["novelty >= 0.3 (mean)"])
    able, why_not = holdable(task, engine, problem, EvaluationConfig(), rows)
    assert able == []
    assert "lists of different options" in why_not["novelty >= 0.3"]

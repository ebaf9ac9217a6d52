"""Deployed lists meet the bounds of a run by the smallest prices, and what prices cannot hold is said."""

import json
import re

import numpy as np
import pytest
from listed import Listed

from recrl.envs.catalog import Catalog
from recrl.envs.data.settings import DataConfig
from recrl.envs.prompts.settings import PromptsConfig
from recrl.envs.prompts.task import Prompts
from recrl.envs.task import Lines, Text
from recrl.rewards import RewardEngine, RewardSpec, completion_text, reward
from recrl.rl import policy
from recrl.rl.decoding.deploy import deploy
from recrl.rl.evaluation.answers import answer, scored
from recrl.rl.evaluation.hold import Hold, holdable
from recrl.rl.evaluation.ranking import priced_ranking
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


@reward("speechless", range=(0, 1))
def speechless(completions):
    return [None] * len(completions)


@reward("signs", range=(0, 1))
def signs(completions):
    return [min(1.0, len(completion_text(completion)) / 100) for completion in completions]


@reward("words", range=(0, 12))
def words(completions):
    return [float(len(completion_text(completion).split())) for completion in completions]


@reward("span", range=(0, 1))
def span(answers):
    """Distance of the first and the last of the listed tags in the alphabet: no tag has one by itself."""
    named = [answer.valid for answer in answers]
    return [(max(tags) - min(tags)) / (len(TAGS) - 1) if tags else 0.0 for tags in named]


WIDE = RewardSpec(name="wide", sum={"span": 0.5, "vowel": 0.5})
REWARDS = ("recall", "novelty", "vowel", "hit", "length", "whatever", "group_share", "span", WIDE)


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


def scoring(*rewards):
    columns = ("user", "unseen", "segment", "lookback", "target", "completion_ids")
    return RewardEngine(rewards, resources={"catalog": TAGS, "slots": SLOTS}, columns=columns)


@pytest.fixture(scope="module")
def engine():
    return scoring(*REWARDS)


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


def test_nothing_is_priced_when_it_is_off_or_there_is_no_choice(model, engine, rows):
    assert answered(model, engine, rows, ["novelty >= 0.7 (mean)"], hold="off").hold is None
    found = answered(model, engine, rows, ["novelty >= 0.7 (mean)"], decoding="free", candidates=1)
    assert found.unpriced is None
    assert "evaluation.candidates" in found.hold["not held"]["novelty >= 0.7"]


# --- a choice among candidates ---


def bounds_missed(model, engine, rows, *raised, **settings):
    """Bounds that lie so far from what greedy answers attain, and these means."""
    free = means(model, engine, rows, answered(model, engine, rows, [], hold="off", **settings).deployed)
    return [f"{name} >= {free[name] + by:.4f} (mean)" for name, by in raised], free


@pytest.mark.parametrize("name", ["span", "wide"])
def test_a_bound_on_whole_answers_is_met_by_the_likeliest_that_suffice(model, engine, rows, name):
    constraints, free = bounds_missed(model, engine, rows, (name, 0.12))
    found = answered(model, engine, rows, constraints)
    (one,) = found.hold["prices"]
    assert (one["price"], one["met"]) == (None, True)
    assert one["free"] == pytest.approx(free[name], abs=1e-6)
    held = means(model, engine, rows, found.deployed)[name]
    assert free[name] + 0.12 - 1e-4 <= held <= free[name] + 0.16, "no more than was asked for"
    assert one["held"] == pytest.approx(held, abs=1e-6)
    assert found.hold["candidates"] == 16
    assert all(len(TAGS.parse(text).valid) == SLOTS for text in found.deployed)
    again = answered(model, engine, rows, constraints, batch_size=48)
    assert again.deployed == found.deployed, "other batches"


def test_prices_of_lines_and_of_the_choice_hold_their_bounds_together(model, engine, rows):
    constraints, free = bounds_missed(model, engine, rows, ("novelty", 0.1), ("span", 0.1), ("vowel", 0.1))
    found = answered(model, engine, rows, constraints)
    held = means(model, engine, rows, found.deployed)
    for name, one in zip(("novelty", "span", "vowel"), found.hold["prices"], strict=True):
        assert one["met"], one
        assert held[name] >= free[name] + 0.1 - 1e-4
        assert one["held"] == pytest.approx(held[name], abs=1e-6)
        assert one["free"] == pytest.approx(free[name], abs=1e-6)
        assert (one["price"] is None) == (name == "span")
    assert found.unpriced == answered(model, engine, rows, [], hold="off").deployed


def test_nobody_chooses_where_every_bound_is_met(model, engine, rows):
    found = answered(model, engine, rows, ["span >= 0.01 (mean)"])
    (one,) = found.hold["prices"]
    assert (one["met"], one["choice"]) == (True, 0)
    assert found.unpriced is None
    assert found.deployed == answered(model, engine, rows, [], hold="off").deployed


def test_more_candidates_attain_more_and_what_they_attain_is_said(model, engine, rows):
    attained = []
    for candidates in (2, 32):
        (one,) = answered(model, engine, rows, ["span >= 1 (mean)"], candidates=candidates).hold["prices"]
        assert not one["met"]
        attained.append(one["held"])
    assert one["free"] < attained[0] < attained[1] - 0.05


def test_a_choice_fitted_on_the_validation_split_keeps_a_margin(model, engine, rows):
    constraints, free = bounds_missed(model, engine, rows, ("span", 0.05))
    found = answered(model, engine, rows, constraints, fit="validation")
    (one,) = found.hold["prices"]
    assert one["met"]
    assert one["held"] > free["span"] + 0.05 + 0.01, "no margin for thirty rows"
    assert means(model, engine, rows, found.deployed)["span"] > free["span"] + 0.05


def test_under_a_grammar_whole_lists_are_chosen(model, engine, rows):
    """The policy may repeat itself and end its lists, so a line adds nothing that could be told."""
    settings = {"decoding": "grammar", "candidates": 32}
    constraints, free = bounds_missed(model, engine, rows, ("span", 0.1), ("novelty", 0.1), **settings)
    found = answered(model, engine, rows, constraints, **settings)
    held = means(model, engine, rows, found.deployed)
    assert [(one["met"], one["price"]) for one in found.hold["prices"]] == [(True, None)] * 2
    assert held["span"] >= free["span"] + 0.1 - 1e-4
    assert held["novelty"] >= free["novelty"] + 0.1 - 1e-4
    assert all(TAGS.parse(text).invalid == 0 for text in found.deployed)


def test_a_reward_without_any_score_is_said_and_the_others_are_held(model, engine, rows):
    constraints, _ = bounds_missed(model, engine, rows, ("span", 0.05))
    found = answered(model, scoring(*REWARDS, "speechless"), rows, ["speechless >= 0.5 (mean)", *constraints])
    assert found.hold["not held"] == {"speechless >= 0.5": "no answer has a score"}
    assert [one["met"] for one in found.hold["prices"]] == [True]


def test_answers_in_free_words_are_chosen(tmp_path):
    """The prompts task, whose answers have no lines: the greedy ones say one word."""
    path = tmp_path / "prompts.jsonl"
    asked = [{"prompt": f"What is {i} + 1?", "split": "test" if i % 2 else "train"} for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in asked))
    task = Prompts(PromptsConfig(use="prompts", path=path, split="split", max_tokens=12), DataConfig())
    given = policy.load(
        PolicyConfig(tiny=TinyConfig(hidden=32, vocabulary=300)), texts=["a b c d e f g h i j k l m n o p"]
    )
    engine = RewardEngine(["signs", "words"], resources={}, columns=["user", "unseen", "completion_ids"])
    rows = task.rows("test")

    def asked_under(constraints, **settings):
        return answer(
            *(*given, task, rows, engine, state(engine.rewards, "signs", constraints)),
            Sampling(12, ends=(int(given[1].eos_token_id),)),
            EvaluationConfig(answers_per_prompt=1, **settings),
            seed=0,
        )

    free = means(given, engine, rows, asked_under([], hold="off").deployed)["words"]
    bounds = [f"words >= {free + 1:.4f} (mean)"]
    found = asked_under(bounds)
    (one,) = found.hold["prices"]
    assert one["met"]
    assert free + 1 - 1e-4 <= means(given, engine, rows, found.deployed)["words"] < free + 1.2
    assert means(given, engine, rows, found.unpriced)["words"] == free
    (why,) = asked_under(bounds, fit="validation").hold["not held"].values()
    assert "no such split" in why


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


def test_a_ranking_chooses_among_lists_of_its_own(model, engine, rows):
    task = Listed(TAGS, SLOTS)
    worth = np.random.default_rng(2).random((ROWS, len(TAGS))) + np.linspace(0, 0.5, len(TAGS))
    place = {row["user"]: i for i, row in enumerate(rows)}
    task.ranker = lambda: lambda asked: worth[[place[row["user"]] for row in asked]]
    best = [TAGS.render(np.argsort(-one)[:SLOTS].tolist()) for one in worth]
    free = means(model, engine, rows, best)
    bound, bounds = free["span"] + 0.1, ["novelty >= 0.6 (mean)", f"span >= {free['span'] + 0.1:.4f} (mean)"]
    problem = state(engine.rewards, "recall", bounds)
    texts, held = priced_ranking(task, rows, engine, problem, EvaluationConfig(decoding="free"), model[1])
    assert [one["met"] for one in held["prices"]] == [True, True]
    found = means(model, engine, rows, texts)
    assert found["novelty"] >= 0.6 - 1e-6
    assert bound - 1e-4 <= found["span"] < bound + 0.05
    assert held["prices"][1]["free"] == pytest.approx(free["span"], abs=1e-6)
    assert priced_ranking(task, rows, engine, problem, EvaluationConfig(hold="off"), model[1]) is None


@pytest.mark.parametrize(
    ("constraint", "why"),
    [
        ("recall >= 0.1 (mean)", r"recall reads the outcome \(target\)"),
        ("whatever >= 0.1 (mean)", r"takes \*\*kwargs and so may read the outcome"),
        ("group_share >= 0.1 (mean)", "compares several answers"),
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


@pytest.mark.parametrize("form", [Lines(TAGS.tags, SLOTS), Text(8)])
def test_what_judges_whole_answers_needs_a_choice(engine, rows, form):
    task = Listed(TAGS, SLOTS)
    task.form = form
    problem = state(engine.rewards, "recall", ["length >= 0.3 (mean)"])
    able, _ = holdable(task, engine, problem, EvaluationConfig(), rows)
    assert able == [*problem.constraints]
    able, why_not = holdable(task, engine, problem, EvaluationConfig(candidates=1), rows)
    assert able == []
    assert "evaluation.candidates" in why_not["length >= 0.3"]


def test_prices_are_not_fitted_on_a_split_that_is_not_there(engine, rows):
    task = Listed(TAGS, SLOTS)
    task.splits = ("train", "test")
    problem = state(engine.rewards, "recall", ["novelty >= 0.3 (mean)"])
    able, why_not = holdable(task, engine, problem, EvaluationConfig(fit="validation"), rows)
    assert able == []
    assert "evaluation.fit=validation" in why_not["novelty >= 0.3"]

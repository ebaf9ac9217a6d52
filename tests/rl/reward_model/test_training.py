"""A tiny model learns a made-up judge's grades: an answer is good as far as it names what was asked for."""

import json

import numpy as np
import pytest
import torch

from recrl.rl import policy
from recrl.rl.policy.loading import save_policy
from recrl.rl.policy.settings import PolicyConfig
from recrl.rl.reward_model.calibration import Calibration, Drift
from recrl.rl.reward_model.settings import DistillConfig
from recrl.rl.reward_model.training import CARD, DistillError, Graded, agreement, distill, read, split

WORDS = ("milk", "bread", "cheese", "beer")


def graded(count, seed=0):
    """Contexts that ask for a word; candidates with it are superior, those that refuse are bad."""
    rng, contexts = np.random.default_rng(seed), []
    for number in range(count):
        wanted, other = rng.choice(WORDS, 2, replace=False)
        texts = {f"{wanted} please": 2, f"{other} please": 1, "no": 0}
        order = rng.permutation(len(texts))
        named = [list(texts)[i] for i in order]
        prompt = [{"role": "user", "content": f"{wanted}\nWhich word did I say?"}]
        contexts.append(Graded(prompt, tuple(named), tuple(texts[name] for name in named), number % 20))
    return contexts


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Folder of a tiny policy, and its tokenizer."""
    folder = tmp_path_factory.mktemp("policy")
    config = PolicyConfig(tiny={"hidden": 32, "layers": 1, "vocabulary": 300})
    texts = [message["content"] for one in graded(40) for message in one.prompt]
    model, tokenizer = policy.load(config, options=WORDS, terms=WORDS, texts=texts)
    save_policy(model, tokenizer, folder)
    return folder, tokenizer


@pytest.mark.parametrize("loss", ["list_wise", "pair_logistic", "point_wise"])
def test_scores_learn_the_order_of_the_grades(start, loss, tmp_path):
    config = DistillConfig(loss=loss, steps=40, learning_rate=5e-3, strictness=loss == "point_wise")
    steps = []
    found = distill(*start, graded(100), config, {"labels": "made up"}, lambda step, _: steps.append(step))
    assert steps == list(range(1, 41))
    assert np.mean(found.losses[-10:]) < 0.7 * np.mean(found.losses[:10])
    order = found.card["agreement"]
    assert order["2>0"]["share"] == order["1>0"]["share"] == 1.0
    assert order["all"]["pairs"] == 3 * found.card["held out"]
    # Whether a word is the one in the prompt takes more steps than these; no seed falls below chance by far.
    assert order["2>1"]["share"] > 0.3
    found.save(tmp_path)
    card = json.loads((tmp_path / CARD).read_text())
    assert (card["labels"], card["loss"], card["human agreement"]) == ("made up", loss, "not measured")


def test_the_same_seed_gives_the_same_model(start):
    config = DistillConfig(steps=3, contexts_per_step=2)
    one, same, other = (
        distill(*start, graded(40), config.model_copy(update={"seed": seed}), {}) for seed in (0, 0, 1)
    )
    assert one.losses == same.losses != other.losses
    assert one.card == same.card


def test_users_are_held_out_whole():
    learned, held = split(graded(100), DistillConfig(held_out=0.25))
    assert {one.user for one in learned}.isdisjoint({one.user for one in held})
    assert (len(learned), len(held)) == (75, 25)


def test_agreement_counts_pairs_of_one_context_and_ties_by_half():
    scores = [torch.tensor([3.0, 1.0, 1.0]), torch.tensor([0.0, 5.0])]
    grades = [torch.tensor([2, 1, 0]), torch.tensor([1, -1])]
    found = agreement(scores, grades)
    assert found["all"] == {"share": pytest.approx(2.5 / 3), "pairs": 3}
    assert found["1>0"] == {"share": 0.5, "pairs": 1}
    assert "2>-1" not in found


def test_a_calibration_finds_the_probabilities_that_the_grades_have():
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.normal(0, 2, 4000))
    given = torch.tensor((rng.random(4000) < 1 / (1 + np.exp(-(0.5 * logits.numpy() - 1)))).astype(int))
    found = Calibration.fitted([logits], [given], 1)
    assert (found.scale, found.shift) == (pytest.approx(0.5, abs=0.08), pytest.approx(-1, abs=0.15))
    # Missing grades have no part; grades that scores separate have a finite scale.
    apart = Calibration.fitted([torch.tensor([-1.0, 1.0, 0.0])], [torch.tensor([0, 1, -1])], 1)
    assert 1 < apart.scale < 1e4


def test_a_text_unlike_those_of_the_training_lies_beyond_the_limit(tmp_path):
    draw = torch.Generator().manual_seed(0)
    spread = torch.linspace(0.1, 3, 24)
    seen, held, more = (torch.randn(n, 24, generator=draw) * spread + 1 for n in (800, 400, 400))
    drift = Drift.fitted(seen, held)
    drift.save(tmp_path)
    kept = Drift.load(tmp_path)
    assert (kept.distances(more) > kept.limit).float().mean() < 0.04
    assert (kept.distances(more + 4 * spread) > kept.limit).all()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nothing", "line 2: no graded context"),
        ('{"prompt": [], "texts": ["a"], "grades": [1]}', "line 2: no graded context"),
        ('{"prompt": [{"role": "user", "content": ""}], "texts": ["a"], "grades": []}', "as many grades"),
        ('{"prompt": [{"role": "user", "content": ""}], "texts": ["a"], "grades": [true]}', "whole number"),
    ],
)
def test_a_file_that_is_not_graded_candidates_is_one_line(tmp_path, line, message):
    good = {"prompt": [{"role": "user", "content": "?"}], "texts": ["a", "b"], "grades": [2, None], "user": 3}
    path = tmp_path / "graded.jsonl"
    path.write_text(json.dumps(good) + "\n")
    assert read(path) == [Graded(good["prompt"], ("a", "b"), (2, None), 3)]
    path.write_text(f"{json.dumps(good)}\n{line}\n")
    with pytest.raises(DistillError, match=message):
        read(path)


def test_grades_that_tell_nothing_apart_are_refused(start):
    same = [Graded(one.prompt, one.texts, (1, 1, None), one.user) for one in graded(20)]
    with pytest.raises(DistillError, match="none has candidates of two grades"):
        distill(*start, same, DistillConfig(steps=1), {})

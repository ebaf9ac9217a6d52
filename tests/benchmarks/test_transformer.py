"""T6: the toy recommender through the real trainer and tokenizer."""

import functools

import pytest
import torch

from recrl.benchmarks.conflict import transformer
from recrl.benchmarks.conflict.problems import recommender

GOOD = 0.93


@functools.cache
def learned():
    """The middle one of three seeds: rounding alone sends one run of a noisy training elsewhere. Where the
    first two are good, the worse of them: the middle one would be no worse."""
    runs = []
    for seed in range(3):
        runs.append(transformer.train(points=1, seed=seed))
        if seed == 1 and (worse := min(runs, key=score))["score"] > GOOD:
            return worse
    return sorted(runs, key=score)[1]


def score(run):
    return run["score"]


def test_expectations_agree_with_sampled_answers():
    model, tokenizer = transformer.start(0)
    table = recommender().table
    exact = transformer.expectations(model, tokenizer, table)
    rows = transformer._rows()
    prompts = tokenizer.apply_chat_template(
        [row["prompt"] for row in rows for _ in range(400)],
        add_generation_prompt=True,
        return_dict=True,
        padding=True,
        return_tensors="pt",
    )
    torch.manual_seed(0)
    produced = model.generate(
        **prompts, max_new_tokens=4, do_sample=True, top_k=0, top_p=1.0, temperature=1.0
    )
    texts = tokenizer.batch_decode(produced[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True)
    answers = [transformer.CATALOG.parse(text) for text in texts]
    users = [row["user"] for row in rows for _ in range(400)]
    for column, reward in enumerate(
        (transformer.accuracy, transformer.div, transformer.rel, transformer.length)
    ):
        sampled = torch.tensor(reward(answers, users, table))
        error = sampled.std() / len(sampled) ** 0.5
        assert abs(sampled.mean() - exact[column]) < 4 * error


@pytest.mark.slow
def test_constraints_hold_near_the_optimum():
    record = learned()
    assert record["violation"] < 0.02
    assert 0 <= record["certificate"] < 0.05 * record["oracle"]["objective"]
    assert record["score"] > GOOD


@pytest.mark.slow
@pytest.mark.parametrize("multipliers", [(0.0, 0.0), (2.0, 0.0)])
def test_no_fixed_multipliers_do_better(multipliers):
    """Without a price the constraints are broken, at a high one the objective is lost."""
    fixed = transformer.train(multipliers=multipliers, steps=30, points=1)
    if fixed["violation"] < 0.02:
        assert fixed["objective"] < learned()["objective"]
    else:
        assert fixed["score"] < learned()["score"] - 0.1
    assert list(fixed["multipliers"].values()) == list(multipliers)

"""Candidates for an answer: drawn from the model's distribution, with their exact log-probabilities."""

import itertools
from collections import Counter

import numpy as np
import pytest
import tiny_models
import torch
from scipy.stats import chisquare

from recrl.envs.task import Lines, Text
from recrl.rl import policy
from recrl.rl.decoding.candidates import Candidates
from recrl.rl.decoding.deploy import deploy
from recrl.rl.decoding.generate import generate
from recrl.rl.policy.settings import PolicyConfig, TinyConfig
from recrl.rl.sampling import Sampling

OPTIONS = ("soup", "soup bowls", "candy", "can")
PROMPTS = [[{"role": "user", "content": text}] for text in ("one", "two, a longer prompt", "three")]
TOKENS = pytest.mark.parametrize("options", [OPTIONS, ("something else",)], ids=["one token", "many tokens"])


def load(options):
    return policy.load(
        PolicyConfig(tiny=TinyConfig(hidden=32, vocabulary=270)),
        options=options,
        texts=["soup one two three"],
    )


def exact(model, prompt, answer):
    """Log-probability of an answer behind a prompt, by one forward pass over both."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum().item()


@pytest.mark.parametrize("kind", ["shared", "transformers"])
def test_the_first_is_greedy_and_each_has_its_log_probability(kind):
    plain = tiny_models.build("qwen3")
    model = tiny_models.build("qwen3", attention={"shared": "sdpa", "transformers": "eager"}[kind])
    ends = tuple(range(2, tiny_models.VOCABULARY, 5))
    asked = [[3, 4, 5, 6], [7, 8], [9, 10, 11, 12, 13, 14]]
    candidates = Candidates(6, seed=1)
    candidates.begin(0, 3)
    answers = generate(model, asked, Sampling(5, ends), copies=6, draw=candidates)
    assert answers[::6] == generate(model, asked, Sampling(5, ends, temperature=0.0))
    assert len({len(answer) for answer in answers}) > 2
    expected = [exact(plain, asked[i // 6], answer) for i, answer in enumerate(answers)]
    np.testing.assert_allclose(candidates.logprobs.ravel(), expected, atol=1e-3)


@TOKENS
@pytest.mark.parametrize("priced", [False, True])
def test_lists_are_drawn_as_often_as_they_are_likely(options, priced):
    """Two different ones of four options: twelve lists, whose probabilities add up to one."""
    model, tokenizer = load(options)
    form, copies = Lines(OPTIONS, 2), 1500
    bonus = torch.tensor([0.0, 1.0, -1.0, 0.5])

    def bonuses(first, end):
        return bonus.expand(end - first, copies, -1)

    candidates = Candidates(copies, seed=2)
    texts = deploy(
        *(model, tokenizer, PROMPTS[:1], form),
        bonuses=bonuses if priced else None,
        copies=copies,
        batch_size=copies,
        candidates=candidates,
    )
    likely = dict(zip(texts, np.exp(candidates.logprobs[0]), strict=True))
    lists = [form.render(pair) for pair in itertools.permutations(range(4), 2)]
    assert set(likely) == set(lists)
    assert sum(likely.values()) == pytest.approx(1, abs=1e-4)
    counts = Counter(texts[1:])
    expected = np.array([likely[text] for text in lists])
    found = [counts[text] for text in lists]
    assert chisquare(found, expected / expected.sum() * (copies - 1)).pvalue > 1e-3


@pytest.mark.parametrize("form", [Lines(OPTIONS, 3), Text(12)])
@pytest.mark.parametrize("decoding", ["distinct", "grammar"])
def test_batches_of_any_size_give_the_same_candidates(form, decoding):
    model, tokenizer = load(OPTIONS)
    found = []
    for batch in (5, 10, 100):
        candidates = Candidates(5, seed=3)
        texts = deploy(
            *(model, tokenizer, PROMPTS, form),
            decoding=decoding,
            copies=5,
            batch_size=batch,
            candidates=candidates,
        )
        found.append((texts, candidates.logprobs))
    for texts, logprobs in found[1:]:
        assert texts == found[0][0]
        np.testing.assert_allclose(logprobs, found[0][1], atol=1e-4)
    assert found[0][0][::5] == deploy(model, tokenizer, PROMPTS, form, decoding=decoding)
    assert len(set(found[0][0])) > 6
    other = Candidates(5, seed=4)
    again = deploy(model, tokenizer, PROMPTS, form, decoding=decoding, copies=5, candidates=other)
    assert again != found[0][0], "another seed"

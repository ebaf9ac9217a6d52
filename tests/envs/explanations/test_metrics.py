"""Metrics of texts, worked by hand or against a kept library."""

import numpy as np
import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from recrl.envs.explanations import metrics
from recrl.envs.words import rouge_l, words

TEXTS = [
    "you buy milk most weeks so try cheese",
    "you buy bread most weeks so try cheese",
    "last week you chose milk fancy some cheese",
    "bread and milk",
]


def test_item_diversity_by_hand():
    told = [one.split() for one in ("a b c d", "a b x y", "p q r s", "alone here")]
    found = metrics._item_diversity([1, 1, 1, 2], told)
    # a b c d and a b x y share two of four words; the third shares none.
    assert found[:3] == pytest.approx([1 - 0.5 / 2, 1 - 0.5 / 2, 1.0])
    assert np.isnan(found[3])  # no other text on that item
    assert rouge_l([], []) == 1


def test_distinct_n_keeps_to_its_budget():
    told = [["a", "b", "a", "b"], ["a", "b", "c"]]
    # a b, b a, a b; a b, b c: three of five are distinct, and of the first three two.
    assert metrics.distinct(told, 2) == pytest.approx(3 / 5)
    assert metrics.distinct(told, 2, budget=4) == pytest.approx(2 / 3)
    assert metrics.distinct([], 2) == 0


def test_self_bleu_is_that_of_nltk():
    told = [words(text) for text in TEXTS[:3]]
    expected = []
    for i, text in enumerate(told):
        others = [other for j, other in enumerate(told) if j != i]
        weights = [0.25] * 4
        expected.append(
            sentence_bleu(others, text, weights, smoothing_function=SmoothingFunction(epsilon=0.5).method1)
        )
    assert metrics.self_bleu(told) == pytest.approx(np.mean(expected), rel=1e-6)
    assert metrics.self_bleu([told[0], told[0]]) == pytest.approx(1)
    assert metrics.self_bleu(told[:1]) == 0


def test_a_text_that_claims_what_the_household_alone_bought_retrieves_it(explained):
    rows = explained.rows("test", 40, unseen=True)
    tags = explained.catalog.tags
    truth = [
        f"You bought {' and '.join(tags[t] for t in row['history'] if t not in row['item'])}." for row in rows
    ]
    found = metrics.per_row(explained.catalog, explained.households, rows, truth)
    silent = metrics.per_row(explained.catalog, explained.households, rows, ["Hello."] * len(rows))
    assert found["retrieved"].mean() > 0.9
    assert silent["retrieved"].mean() == 0
    assert silent["words"].tolist() == [1] * len(rows)
    assert set(metrics.together(truth)) == {"distinct-2", "self-BLEU"}

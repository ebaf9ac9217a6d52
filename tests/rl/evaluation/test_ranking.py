"""Random lists of a ranking, and the probabilities that they have."""

import itertools

import numpy as np
import pytest
import torch

from recrl.envs.task import Lines
from recrl.rl.evaluation.ranking import Ranking, plackett_luce

FORM = Lines(("a", "b", "c", "d", "e"), 2)
SCORES = np.array([0.5, -1.0, 2.0, 0.0, -40.0])


def test_lists_drawn_without_replacement_have_the_product_of_their_shares():
    pairs = list(itertools.permutations(range(5), 2))
    weights = np.exp(SCORES)
    expected = [weights[i] / weights.sum() * weights[j] / np.delete(weights, i).sum() for i, j in pairs]
    found = plackett_luce(torch.from_numpy(SCORES).expand(len(pairs), -1), torch.tensor(pairs)).exp()
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert found.sum().item() == pytest.approx(1)


def test_a_list_ends_where_only_options_without_a_score_are_left():
    row, some, none = {"user": 0}, SCORES.copy(), np.full(5, -np.inf)
    some[[2, 3, 4]] = -np.inf
    for scores, count in ((some, 2), (np.where(np.arange(5) == 1, 0.5, -np.inf), 1), (none, 0)):
        drawn = Ranking(Lines(FORM.options, 3), {id(row): scores}, seed=1).candidates([row], None, 50)
        assert {text.count("\n") for text in drawn.texts} == {count}
        shares = dict(zip(drawn.texts, np.exp(drawn.logprobs[0]), strict=True))
        assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("bonus", [None, [0.0, 3.0, 0.0, 0.0, 0.0]])
def test_candidates_are_the_best_list_and_lists_drawn_as_often_as_they_are_likely(bonus):
    row = {"user": 0}
    ranking = Ranking(FORM, {id(row): SCORES}, seed=1)
    bonuses = None if bonus is None else lambda first, end: torch.tensor(bonus).expand(end - first, 4000, -1)
    drawn = ranking.candidates([row], bonuses, 4000)
    best = None if bonus is None else lambda first, end: torch.tensor(bonus).expand(end - first, 1, -1)
    assert drawn.texts[:1] == ranking.greedy([row], best, 1, "priced")
    likely = dict(zip(drawn.texts, np.exp(drawn.logprobs[0]), strict=True))
    assert sum(likely.values()) == pytest.approx(1, abs=1e-3)
    for text, chance in likely.items():
        share = drawn.texts[1:].count(text) / 3999
        assert abs(share - chance) < 5 * (chance / 3999) ** 0.5 + 1e-3

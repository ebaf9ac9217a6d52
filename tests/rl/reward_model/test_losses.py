"""Losses of grades, against groups that are computed by hand."""

import math

import pytest
import torch

from recrl.rl.reward_model.losses import LOSSES, MISSING, list_wise, pair_logistic, point_wise

BAD, AVERAGE, SUPERIOR = 0, 1, 2


def one(scores, grades):
    return torch.tensor([scores]), torch.tensor([grades])


def test_a_candidate_is_held_against_all_below_it_at_once():
    scores, grades = one([1.0, 0.5, -0.5, 0.0], [SUPERIOR, AVERAGE, BAD, BAD])
    e = math.exp
    superior = -math.log(e(1.0) / (e(1.0) + e(0.5) + e(-0.5) + e(0.0)))
    average = -math.log(e(0.5) / (e(0.5) + e(-0.5) + e(0.0)))
    assert list_wise(scores, grades, SUPERIOR).item() == pytest.approx((superior + average) / 2)


def test_pairs_are_held_against_one_another_one_by_one():
    scores, grades = one([1.0, 0.5, -0.5], [SUPERIOR, AVERAGE, BAD])
    wins = [1.0 - 0.5, 1.0 + 0.5, 0.5 + 0.5]
    assert pair_logistic(scores, grades, SUPERIOR).item() == pytest.approx(
        sum(math.log(1 + math.exp(-win)) for win in wins) / 3
    )


def test_point_by_point_a_grade_is_a_probability():
    scores, grades = one([0.3, -0.2], [AVERAGE, BAD])
    p = [1 / (1 + math.exp(-score)) for score in (0.3, -0.2)]
    expected = -(0.5 * math.log(p[0]) + 0.5 * math.log(1 - p[0]) + math.log(1 - p[1])) / 2
    assert point_wise(scores, grades, SUPERIOR).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["list_wise", "pair_logistic"])
def test_equal_grades_are_never_negatives(name):
    scores = torch.tensor([[0.3, -2.0, 5.0]], requires_grad=True)
    loss = LOSSES[name](scores, torch.tensor([[AVERAGE] * 3]), SUPERIOR)
    loss.backward()
    assert loss.item() == 0
    assert scores.grad.tolist() == [[0, 0, 0]]
    # What is above has no gradient from its like.
    scores = torch.tensor([[0.0, 0.0, 0.0]], requires_grad=True)
    LOSSES[name](scores, torch.tensor([[SUPERIOR, SUPERIOR, BAD]]), SUPERIOR).backward()
    assert scores.grad[0, 0] == scores.grad[0, 1] < 0 < scores.grad[0, 2]


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_missing_teaches_nothing(name):
    grades = [SUPERIOR, BAD, MISSING, AVERAGE]
    scores = torch.tensor([[0.5, 0.2, -math.inf, -0.1]], requires_grad=True)
    loss = LOSSES[name](scores, torch.tensor([grades]), SUPERIOR)
    loss.backward()
    shorter = LOSSES[name](*one([0.5, 0.2, -0.1], [SUPERIOR, BAD, AVERAGE]), SUPERIOR)
    assert loss.item() == pytest.approx(shorter.item())
    assert scores.grad[0, 2] == 0
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_contexts_are_not_compared(name):
    scores, grades = torch.tensor([[0.5, 0.2], [-3.0, 4.0]]), torch.tensor([[SUPERIOR, BAD], [BAD, BAD]])
    moved = scores + torch.tensor([[1.5], [0.0]])
    if name != "point_wise":
        assert LOSSES[name](moved, grades, SUPERIOR).item() == pytest.approx(
            LOSSES[name](scores, grades, SUPERIOR).item()
        )
    alone = LOSSES["list_wise"](scores[:1], grades[:1], SUPERIOR)
    assert LOSSES["list_wise"](scores, grades, SUPERIOR).item() == pytest.approx(alone.item())

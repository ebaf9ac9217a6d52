"""Marginal credit: what an answer adds to its team, by hand and by the union itself."""

import numpy as np
import pytest

from recrl.envs.catalog import ParsedAnswer
from recrl.rewards import resolve
from recrl.rewards.shipped.team import marginal_credit


def test_only_what_nobody_else_names_counts():
    answers = [ParsedAnswer(tags) for tags in ((1, 2, 3), (1, 1, 2), (9, -1), (3, 1))]
    found = marginal_credit(answers, [[1, 2, 5, 6], [1, 2], [1], []], [[2], [], [1], []], 2)
    assert found == [0.25, 0.5, 0.0, None]
    assert resolve("marginal_credit").per == "tag"


def test_it_is_the_union_with_the_answer_less_the_union_without_it():
    rng = np.random.default_rng(0)
    for _ in range(50):
        bought = set(rng.choice(30, 8, replace=False).tolist())
        lists = [rng.choice(30, 5, replace=False).tolist() for _ in range(4)]
        for own in range(4):
            others = [tag for number, tags in enumerate(lists) if number != own for tag in tags]
            (credit,) = marginal_credit([ParsedAnswer(tuple(lists[own]))], [[*bought]], [others], 5)
            whole = len(bought & {*others, *lists[own]}) / len(bought)
            assert credit == pytest.approx(whole - len(bought & {*others}) / len(bought))

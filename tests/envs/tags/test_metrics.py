"""Metrics against cases worked out by hand."""

from typing import ClassVar

import numpy as np
import pytest

from recrl.envs.catalog import INVALID, Catalog, ParsedAnswer
from recrl.envs.statistics import estimate, paired_difference
from recrl.envs.tags import metrics
from recrl.envs.tags.metrics import MISSING
from recrl.envs.tags.settings import TagsConfig
from recrl.rewards.shipped import tags


class Known:
    """The little of the data that metrics read."""

    catalog = Catalog(("a", "b", "c", "d", "e", "f"), equivalents=[("a", "f")])
    surges: ClassVar = {7: frozenset({2})}


ROWS = [
    {"origin": 7, "target": [0, 1, 2, 3], "lookback": [0, 4]},
    {"origin": 7, "target": [5], "lookback": [5]},
]
# First answer: hit a, miss e, repeat a, invalid, hit c.
# Second answer: a (equivalent of the target f), b, then nothing.
SLOTS = np.array([[0, 4, 0, INVALID, 2], [0, 1, MISSING, MISSING, MISSING]], np.int32)


@pytest.fixture(scope="module")
def values():
    vectors = np.eye(6, dtype=np.float32)
    vectors[1] = vectors[0]
    return metrics.per_episode(Known, ROWS, SLOTS, vectors)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("hit@5", [1, 0]),
        ("recall@5", [2 / 4, 0]),
        ("precision@5", [2 / 5, 0]),
        ("ndcg@5", [(1 + 1 / np.log2(6)) / (1 + 1 / np.log2(3) + 1 / 2 + 1 / np.log2(5)), 0]),
        ("recall@5 repeat", [1, 0]),
        ("recall@5 novel", [1 / 3, np.nan]),
        ("recall@5 calendar", [1, np.nan]),
        ("recall@5 equivalent", [2 / 4, 1]),
        ("novelty", [1 / 3, 1]),
        ("novel precision", [1, 0]),
        ("validity", [4 / 5, 1]),
        ("duplicates", [1 / 5, 0]),
        ("diversity", [1, 0]),
    ],
)
def test_by_hand(values, metric, expected):
    assert values[metric] == pytest.approx(np.array(expected, float), nan_ok=True, abs=1e-6)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("hit@1", [1, 0]),
        ("recall@1", [1 / 4, 0]),
        ("ndcg@1", [1, 0]),
        ("hit@3", [1, 0]),
        ("recall@3", [1 / 4, 0]),
        ("ndcg@3", [1 / (1 + 1 / np.log2(3) + 1 / 2), 0]),
    ],
)
def test_the_beginnings_of_lists_by_hand(values, metric, expected):
    with_beginnings = metrics.per_episode(Known, ROWS, SLOTS, cutoffs=(3, 1))
    assert with_beginnings[metric] == pytest.approx(np.array(expected, float))
    same = [name for name in values if name != "diversity"]
    assert all(np.array_equal(with_beginnings[name], values[name], equal_nan=True) for name in same)
    assert [name for name in with_beginnings if name not in same][:3] == ["hit@1", "recall@1", "ndcg@1"]


def test_a_cutoff_is_shorter_than_the_list():
    assert TagsConfig(slots=5, cutoffs=[1, 3]).cutoffs == (1, 3)
    with pytest.raises(ValueError, match=r"task\.cutoffs=\[1, 5\]: a list has task\.slots=5 tags, at which"):
        TagsConfig(slots=5, cutoffs=[1, 5])


@pytest.mark.parametrize("slot", [INVALID, MISSING])
def test_an_answer_without_a_tag_scores_nothing(slot):
    values = metrics.per_episode(Known, ROWS, np.full((2, 5), slot, np.int32))
    for metric in ("recall@5", "novelty", "validity", "duplicates"):
        assert values[metric].tolist() == [0, 0]


def test_lists_of_any_length_are_judged_as_their_rewards_judge_them():
    answers = [(0, 1, 0), (4,), (), (2, INVALID, 2, 2), (5, 5, 5, 5, 5)]
    answers = [ParsedAnswer(slots) for slots in answers]
    rows = [ROWS[i] for i in (0, 1, 0, 1, 0)]
    values = metrics.per_episode(Known, rows, metrics.to_slots(answers, 5))
    assert values["validity"].tolist() == tags.validity(answers)
    assert values["duplicates"].tolist() == tags.duplicates(answers)
    assert values["recall@5"].tolist() == tags.recall(answers, [row["target"] for row in rows], slots=5)
    assert values["novelty"].tolist() == tags.novelty(answers, [row["lookback"] for row in rows], slots=5)


def test_slots_are_cut_and_filled():
    answers = [ParsedAnswer((1, 2, 3)), ParsedAnswer(()), ParsedAnswer((4, INVALID))]
    assert metrics.to_slots(answers, 2).tolist() == [[1, 2], [MISSING, MISSING], [4, INVALID]]


def test_exposure_of_one_and_of_all_tags():
    same = metrics.exposure(np.zeros((9, 1), np.int32), 4)
    assert same == pytest.approx({"coverage": 0.25, "entropy": 0.0, "gini": 0.75})
    even = metrics.exposure(np.arange(4, dtype=np.int32)[:, None], 4)
    assert even == pytest.approx({"coverage": 1.0, "entropy": np.log(4), "gini": 0.0})


def test_exclusive_recall_counts_what_no_other_route_finds():
    target = np.array([[True, True, True, True], [True, False, False, False]])
    routes = {
        "one": np.array([[0, 1], [0, 3]], np.int32),
        "two": np.array([[1, 2], [INVALID, INVALID]], np.int32),
    }
    found = metrics.exclusive_recall(target, routes)
    assert found["one"].tolist() == [0.25, 1.0]
    assert found["two"].tolist() == [0.25, 0.0]


def test_intervals_resample_users_not_episodes():
    """A hundred copies of each user's value carry no more information than one."""
    rng = np.random.default_rng(0)
    value = rng.normal(size=40)
    once = estimate(value, np.arange(40))
    copied = estimate(np.repeat(value, 100), np.repeat(np.arange(40), 100))
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=1e-9)
    half_width = 1.96 * value.std() / np.sqrt(40)
    assert (once.high - once.low) / 2 == pytest.approx(half_width, rel=0.1)


def test_undefined_episodes_are_left_out_and_counted():
    found = estimate(np.array([1.0, np.nan, 3.0]), np.array([0, 1, 2]))
    assert (found.mean, found.episodes, found.dropped) == (2.0, 2, 1)
    with pytest.raises(ValueError, match="undefined for every episode"):
        estimate(np.array([np.nan]), np.array([0]))


def test_paired_differences_cancel_what_users_share():
    rng = np.random.default_rng(1)
    users = np.arange(200)
    easy = rng.normal(scale=10, size=200)
    found = paired_difference(easy + 0.1 + rng.normal(scale=0.01, size=200), easy, users)
    assert found.low > 0.09
    assert found.high < 0.11

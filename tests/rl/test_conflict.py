import math

import numpy as np
import pytest
import torch

from recrl.rl.conflict import conflict_metrics, directions
from recrl.rl.constraints import Problem

NAN = math.nan
NAMES = ("recall", "novelty", "length")


def metrics(rewards, advantages=None, names=NAMES, signs=None):
    rewards = torch.as_tensor(np.asarray(rewards), dtype=torch.float64)
    advantages = (
        torch.zeros(rewards.shape[:2]) if advantages is None else torch.as_tensor(np.asarray(advantages))
    )
    return conflict_metrics(rewards, advantages, names, signs)


def centred(values):
    return values - np.nanmean(values, axis=1, keepdims=True)


def test_correlation_is_pooled_within_groups():
    rewards = np.random.default_rng(0).normal(size=(6, 5, 3))
    rewards[..., 1] -= 0.7 * rewards[..., 0]
    rewards += 10 * np.arange(6)[:, None, None]  # easy and hard prompts
    found = metrics(rewards)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        a, b = centred(rewards[..., i]).ravel(), centred(rewards[..., j]).ravel()
        key = f"conflict/corr/{NAMES[i]}~{NAMES[j]}"
        assert found[key] == pytest.approx((a @ b) / math.sqrt((a @ a) * (b @ b)))
    across = np.corrcoef(rewards[..., 0].ravel(), rewards[..., 1].ravel())[0, 1]
    assert found["conflict/corr/recall~novelty"] < -0.3 < 0.9 < across  # across prompts the sign is wrong


def test_correlation_uses_samples_that_have_both():
    pairs = [
        [[1.0, 4.0], [2.0, 1.0], [3.0, NAN], [NAN, 9.0]],
        [[0.0, 1.0], [1.0, 2.0], [NAN, 0.0], [2.0, 6.0]],
    ]
    found = metrics(pairs, names=("a", "b"))
    # first group (1, 4), (2, 1): products -1.5; second (0, 1), (1, 2), (2, 6): products 5
    expected = (-1.5 + 5.0) / math.sqrt((0.5 + 2.0) * (4.5 + 14.0))
    assert found["conflict/corr/a~b"] == pytest.approx(expected)


def test_covariance_with_the_advantage_says_which_reward_the_step_hurts():
    rewards = np.random.default_rng(1).uniform(size=(4, 6, 3))
    rewards[0, 2, 1] = NAN
    advantages = np.random.default_rng(2).normal(size=(4, 6))
    advantages[..., :] += rewards[..., 0] * 5
    found = metrics(rewards, advantages)
    for j, name in enumerate(NAMES):
        products = centred(rewards[..., j]) * advantages
        assert found[f"conflict/cov_advantage/{name}"] == pytest.approx(np.nanmean(products))
    down = metrics(rewards, -centred(rewards[..., 2]))
    assert down["conflict/cov_advantage/length"] < 0


def test_dead_groups_are_those_without_variation():
    rewards = [
        [[0.1, 1.0, 0.0], [0.1, 2.0, NAN], [0.1, 3.0, NAN]],
        [[0.2, 0.0, 1.0], [NAN, 0.0, NAN], [0.3, 0.0, 2.0]],
    ]
    found = metrics(rewards)
    assert [found[f"conflict/dead_groups/{name}"] for name in NAMES] == [0.5, 0.5, 0.5]


def test_sign_disagreement_follows_the_wanted_direction():
    rewards = [[[0.0, 0.0], [1.0, 1.0], [2.0, 5.0]]]  # deviations -1, 0, 1 and -2, -1, 3: never opposed
    same = metrics(rewards, names=("a", "b"))
    opposed = metrics(rewards, names=("a", "b"), signs=[1.0, -1.0])
    assert same["conflict/sign_disagreement/a~b"] == 0.0
    assert opposed["conflict/sign_disagreement/a~b"] == pytest.approx(2 / 3)
    ignored = metrics(rewards, names=("a", "b"), signs=[1.0, 0.0])
    assert "conflict/sign_disagreement/a~b" not in ignored
    assert ignored["conflict/consensus"] == pytest.approx(1.0)


def test_consensus_against_an_independent_formula():
    rewards = np.random.default_rng(3).normal(size=(5, 4, 3)) * [1, 100, 0.1]
    parts = np.stack([centred(rewards[..., j]) for j in range(3)], axis=-1)
    parts = parts / np.sqrt((parts**2).mean(axis=(0, 1))) * [1, 1, -1]
    expected = (np.abs(parts.sum(axis=-1)) / np.abs(parts).sum(axis=-1)).mean()
    found = metrics(rewards, signs=[1.0, 1.0, -1.0])
    assert found["conflict/consensus"] == pytest.approx(expected)


def test_undefined_metrics_are_left_out():
    found = metrics([[[0.5, NAN, 0.0], [0.5, NAN, 1.0]]])
    assert found == {
        "conflict/cov_advantage/recall": 0.0,
        "conflict/cov_advantage/length": 0.0,
        "conflict/dead_groups/recall": 1.0,
        "conflict/dead_groups/novelty": 1.0,
        "conflict/dead_groups/length": 0.0,
        "conflict/sign_disagreement/recall~length": 0.0,
        "conflict/consensus": 1.0,
    }


def test_directions_come_from_the_problem():
    ranges = dict.fromkeys(("clicks", "recall", "novelty", "length", "repeats"), (0.0, 20.0))
    texts = ["novelty >= 3 for 0.9 (rate)", "length in [6, 11] (mean)", "repeats <= 1 for 0.9 (rate)"]
    assert directions(Problem.build("recall", texts, ranges)) == [0.0, 1.0, 1.0, 0.0, -1.0]

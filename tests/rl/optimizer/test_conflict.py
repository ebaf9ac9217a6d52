import math

import numpy as np
import pytest
import torch

from recrl.rl.optimizer.advantages import AdvantageBatch, leave_one_out
from recrl.rl.optimizer.conflict import (
    conflict_metrics,
    gradient_cosines,
    gradient_products,
    half_advantages,
    taking_part,
)
from recrl.rl.optimizer.problem import Problem
from recrl.rl.optimizer.rules import RULES

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
    assert list(Problem.build("recall", texts, ranges).directions.values()) == [0.0, 1.0, 1.0, 0.0, -1.0]


def effective(problem, rewards, advantages, participants=None):
    found = conflict_metrics(
        rewards, advantages, problem.names, objective=problem.objective, participants=participants
    )
    prefix = "conflict/effective_weight/"
    return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}


def sampled(seed=0, groups=6, samples=8, columns=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(groups, samples, columns, generator=generator, dtype=torch.float64)


def test_effective_weights_of_the_lagrangian_are_the_signed_prices():
    ranges = {"recall": (0.0, 1.0), "novelty": (0.0, 4.0), "length": (0.0, 20.0), "cost": (0.0, 1.0)}
    texts = ["novelty >= 1 (mean)", "length in [6, 11] (mean)", "cost <= 0.2 (mean)"]
    problem, rewards = Problem.build("recall", texts, ranges), sampled(columns=4)
    rewards += 3 * torch.arange(6)[:, None, None]  # easy and hard prompts
    rewards[0, 1, 1] = rewards[2, 3, 0] = rewards[4, 4, 3] = NAN
    units, lam = problem.declared_units(), torch.tensor([1.5, 0.2, 0.9, 4.0], dtype=torch.float64)
    advantages = RULES["lagrangian"](AdvantageBatch(rewards, problem, lam, units)).values
    price = (lam * units.objective / units.constraints).tolist()
    expected = {"recall": 1.0, "novelty": price[0], "length": price[1] - price[2], "cost": -price[3]}
    assert effective(problem, rewards, advantages) == pytest.approx(expected)


def test_effective_weights_of_a_weighted_sum_are_its_weights_when_groups_spread_alike():
    weights = {"recall": 2.0, "novelty": 0.5, "length": -1.0}
    problem = Problem.build("recall", [], dict.fromkeys(NAMES, (0.0, 1.0)), weights=weights)
    order = [torch.randperm(8, generator=torch.Generator().manual_seed(g)) for g in range(5)]
    rewards = torch.stack([sampled(groups=1)[0, o] + g for g, o in enumerate(order)])
    batch = AdvantageBatch(rewards, problem, torch.zeros(0), problem.declared_units())
    found = effective(problem, rewards, RULES["weighted_sum"](batch).values)
    assert found == pytest.approx({"recall": 1.0, "novelty": 0.25, "length": -0.5})


def test_z_scores_give_a_reward_the_weight_of_its_inverse_spread():
    problem = Problem.build("recall", [], {"recall": (0.0, 1.0), "novelty": (0.0, 1.0)})
    rewards = sampled(groups=40, samples=64, columns=2) * torch.tensor([1.0, 0.01])
    deviations = rewards - rewards.mean(dim=1, keepdim=True)
    advantages = (deviations / deviations.std(dim=1, keepdim=True)).sum(dim=-1)
    assert effective(problem, rewards, advantages)["novelty"] == pytest.approx(100, rel=0.05)


def test_collinear_rewards_share_the_weight():
    problem = Problem.build("recall", [], dict.fromkeys(NAMES, (0.0, 40.0)))
    rewards = sampled(samples=16).float()
    rewards[..., 2] = 10 * rewards[..., 1] + 3  # equal in units of its spread, but for rounding
    advantages = leave_one_out(rewards[..., 0] + 4 * rewards[..., 1])
    found = effective(problem, rewards, advantages)
    assert found == pytest.approx({"recall": 1.0, "novelty": 2.0, "length": 0.2}, rel=1e-4)


def test_effective_weights_are_left_out_where_undefined():
    problem = Problem.build("recall", [], dict.fromkeys(NAMES, (0.0, 1.0)))
    rewards = sampled()
    rewards[..., 2] = 0.5  # no variation
    only_novelty = leave_one_out(rewards[..., 1])
    assert effective(problem, rewards, only_novelty) == {}
    assert effective(problem, rewards, torch.zeros(6, 8)) == {}
    found = effective(problem, rewards, leave_one_out(rewards[..., 0]) - 3 * only_novelty)
    assert found == pytest.approx({"recall": 1.0, "novelty": -3.0})
    assert not [key for key in metrics(rewards, only_novelty) if "effective_weight" in key]


def test_effective_weight_of_a_metric_is_left_to_the_rewards_that_take_part():
    problem = Problem.build("recall", ["novelty >= 0.5 (mean)"], dict.fromkeys(NAMES, (0.0, 2.0)))
    assert taking_part(problem) == ["recall", "novelty"]
    rewards = sampled()
    rewards[..., 2] = rewards[..., 1]  # a metric that copies the constraint
    advantages = leave_one_out(rewards[..., 0] + 3 * rewards[..., 1])
    assert effective(problem, rewards, advantages, taking_part(problem)) == pytest.approx(
        {"recall": 1.0, "novelty": 3.0}
    )
    assert effective(problem, rewards, advantages)["novelty"] == pytest.approx(1.5)


def test_weighted_rewards_take_part():
    weights = {"novelty": 0.0, "length": -1.0}
    problem = Problem.build("recall", [], dict.fromkeys(NAMES, (0.0, 1.0)), weights=weights)
    assert taking_part(problem) == ["recall", "length"]


def test_gradient_products_equal_those_of_autograd():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    hidden = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    targets = torch.randint(7, (20,), generator=generator)
    advantages = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    half = torch.arange(20) // 4 % 2
    logits = hidden @ weight.T
    chosen = logits.log_softmax(dim=-1)[torch.arange(20), targets]

    def gradient(j, side):
        loss = (advantages[half == side, j] * chosen[half == side]).sum()
        return torch.autograd.grad(loss, weight, retain_graph=True)[0].flatten()

    g = [[gradient(j, side) for side in (0, 1)] for j in (0, 1)]
    expected = [[((g[i][0] @ g[j][1] + g[i][1] @ g[j][0]) / 2).item() for j in (0, 1)] for i in (0, 1)]
    products = gradient_products(hidden, logits, targets, advantages, half)
    assert products.tolist() == [pytest.approx(row) for row in expected]
    single = gradient_products(hidden.float(), logits.float(), targets, advantages.float(), half)
    torch.testing.assert_close(single, products, rtol=1e-4, atol=1e-4)

    cosines = gradient_cosines(hidden, logits, targets, advantages, half)
    for i in (0, 1):
        for j in (0, 1):
            square = expected[i][i] * expected[j][j]
            positive = expected[i][i] > 0 and expected[j][j] > 0
            wanted = expected[i][j] / math.sqrt(square) if positive else NAN
            assert cosines[i, j].item() == pytest.approx(wanted, nan_ok=True)


def test_cosines_of_rewards_that_agree_oppose_or_say_nothing():
    hidden, logits = torch.tensor([[1.0, 2.0]]).repeat(4, 1), torch.zeros(4, 3)
    targets, half = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    wants_first = torch.tensor([1.0, 1.0, -1.0, -1.0])
    advantages = torch.stack([wants_first, -5 * wants_first, torch.zeros(4)], dim=1)
    cosines = gradient_cosines(hidden, logits, targets, advantages, half)
    assert cosines[:2, :2].tolist() == [pytest.approx([1.0, -1.0]), pytest.approx([-1.0, 1.0])]
    assert cosines[2].isnan().all()
    assert cosines[:, 2].isnan().all()


def test_cross_fitted_products_are_unbiased_where_those_of_one_sample_are_not():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.tensor([0.5, -1.0, 0.3], dtype=torch.float64)
    logits = torch.randn(6, 3, generator=generator, dtype=torch.float64) @ hidden
    p = logits.softmax(dim=-1)
    of_arm = torch.tensor(
        [[0.9, 0.2, 0.4, 0.1, 0.3, 0.3], [0.1, 0.5, 0.2, 0.4, 0.6, 0.9]], dtype=torch.float64
    )
    true = torch.stack([(p * (r - p @ r)).outer(hidden) for r in of_arm]).flatten(1)
    exact = true @ true.T
    cosine = (exact[0, 1] / (exact[0, 0] * exact[1, 1]).sqrt()).item()
    assert -0.9 < cosine < -0.3

    samples, crossed, naive = 8, [], []
    for _ in range(800):
        arms = torch.multinomial(p, samples, replacement=True, generator=generator)
        rewards = of_arm[:, arms].T
        advantages, half = half_advantages(rewards[None])
        inputs = (hidden.repeat(samples, 1), logits.repeat(samples, 1), arms)
        crossed.append(gradient_products(*inputs, advantages[0], half) / (samples / 2) ** 2)
        delta = torch.nn.functional.one_hot(arms, 6) - p
        whole = leave_one_out(rewards[None])[0].T @ delta / samples
        naive.append(whole @ whole.T * hidden.square().sum())
    for estimates, unbiased in ((crossed, True), (naive, False)):
        stacked = torch.stack(estimates)
        error = (stacked.mean(dim=0) - exact) / (stacked.std(dim=0) / len(stacked) ** 0.5)
        for i, j in ((0, 0), (0, 1), (1, 1)):
            assert abs(error[i, j].item()) < 3 if unbiased else abs(error[i, j].item()) > 6


def test_half_advantages_are_baselined_by_the_others_of_their_half():
    rewards = torch.tensor([[[1.0], [10.0], [3.0], [30.0], [8.0]]])
    advantages, half = half_advantages(rewards)
    assert half.tolist() == [0, 1, 0, 1, 0]
    expected = [1 - 5.5, 10 - 30, 3 - 4.5, 30 - 10, 8 - 2]
    assert advantages.flatten().tolist() == pytest.approx(expected)
    rewards[0, 2, 0] = NAN
    assert half_advantages(rewards)[0].flatten().tolist() == pytest.approx([-7, -20, 0, 20, 7])
    with pytest.raises(ValueError, match="num_generations=3"):
        half_advantages(rewards[:, :3])

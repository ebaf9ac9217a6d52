import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from recrl.rl.advantages import RULES, AdvantageBatch, find_rule, leave_one_out, within_group
from recrl.rl.constraints import Problem, Units
from recrl.rl.duals import DualConfig, Duals

NAN = math.nan
RANGES = {"recall": (0.0, 1.0), "novelty": (0.0, 1.0), "length": (0.0, 20.0), "clicks": (0.0, 1.0)}


def random_rewards(groups=5, size=4, missing=0.0, seed=0):
    generator = np.random.default_rng(seed)
    rewards = generator.uniform(0, 1, (groups, size, len(RANGES))) * [1, 1, 20, 1]
    rewards[generator.uniform(size=rewards.shape) < missing] = NAN
    return rewards


def compute(rule, rewards, constraints=(), multipliers=(), weights=None, units=None):
    problem = Problem.build("recall", constraints, RANGES, weights=weights)
    lam = torch.tensor(multipliers, dtype=torch.float64)
    tensor = rewards if isinstance(rewards, torch.Tensor) else torch.tensor(rewards, dtype=torch.float64)
    return RULES[rule](AdvantageBatch(tensor, problem, lam, units or problem.declared_units()))


def test_leave_one_out_is_the_value_minus_the_mean_of_the_others():
    values = np.random.default_rng(0).normal(size=(3, 5))
    expected = [[row[i] - np.delete(row, i).mean() for i in range(5)] for row in values]
    torch.testing.assert_close(leave_one_out(torch.tensor(values)), torch.tensor(np.array(expected)))


def test_missing_values_leave_the_group_mean_and_get_nothing():
    values = torch.tensor([[1.0, NAN, 3.0, math.inf], [NAN, NAN, 7.0, NAN], [0.1, 0.1, 0.1, NAN]])
    deviations, counts = within_group(values)
    assert deviations.tolist() == [[-1.0, 0.0, 1.0, 0.0], [0.0] * 4, [0.0] * 4]
    assert counts.flatten().tolist() == [2, 1, 3]
    assert leave_one_out(values)[0].tolist() == [-2.0, 0.0, 2.0, 0.0]


def test_equal_values_have_exactly_no_deviation():
    values = torch.full((1, 3), 0.1, dtype=torch.float64)
    assert (values - values.mean()).abs().max() > 0  # rounding, which the mask has to hide
    assert within_group(values)[0].tolist() == [[0.0, 0.0, 0.0]]


def test_lagrangian_against_an_independent_formula():
    rewards = random_rewards()
    constraints = ["novelty >= 0.3 (mean)", "length in [6, 11] (mean)", "novelty <= 0.8 for 0.9 (rate)"]
    found = compute("lagrangian", rewards, constraints, [0.7, 0.0, 1.5, 0.4])

    total = (
        rewards[..., 0] / 0.5
        + 0.7 * rewards[..., 1] / 0.5
        - 1.5 * rewards[..., 2] / 2.5
        + 0.4 * (rewards[..., 1] <= 0.8) / 0.5
    )
    x = np.array([[row[i] - np.delete(row, i).mean() for i in range(4)] for row in total])
    rms = np.sqrt((x**2).mean())
    np.testing.assert_allclose(found.values.numpy(), x / rms, rtol=1e-12)
    assert found.divisor == pytest.approx(rms)
    assert found.kl_scale == pytest.approx(1 / (0.5 * rms))


def test_missing_component_is_masked_and_the_others_still_count():
    rewards = random_rewards(groups=2)
    rewards[0, 1, 1] = NAN
    found = compute("lagrangian", rewards, ["novelty >= 0.3 (mean)"], [1.0])
    recall = np.array([[row[i] - np.delete(row, i).mean() for i in range(4)] for row in rewards[..., 0]])
    novelty = np.zeros((2, 4))
    novelty[0, [0, 2, 3]] = 1.5 * (rewards[0, [0, 2, 3], 1] - np.nanmean(rewards[0, :, 1]))
    novelty[1] = 4 / 3 * (rewards[1, :, 1] - rewards[1, :, 1].mean())
    np.testing.assert_allclose(found.values.numpy() * found.divisor, (recall + novelty) / 0.5, rtol=1e-12)


def test_gate_multiplies_the_objective_before_centring():
    rewards = np.zeros((1, 4, 4))
    rewards[0, :, 0] = [0.9, 0.8, 0.2, 0.4]
    rewards[0, :, 1] = [0.0, 1.0, 1.0, NAN]  # fails the gate, passes, passes, unknown
    found = compute("lagrangian", rewards, ["novelty >= 1 (gate)"], [0.0])
    gated = np.array([0.0, 0.8, 0.2])
    expected = np.append(1.5 * (gated - gated.mean()) / 0.5, 0.0)
    np.testing.assert_allclose(found.values.numpy()[0] * found.divisor, expected, rtol=1e-12)


def test_one_exchange_rate_for_all_prompts():
    """With price 1, trading one unit for another is worth the same in a noisy and in a quiet group."""
    rewards = np.zeros((2, 2, 4))
    rewards[0, :, :2] = [[1.0, 0.0], [0.0, 1.0]]  # recall against novelty, at par
    rewards[1, :, :2] = [[0.1, 0.0], [0.0, 0.5]]  # a tenth of the recall against half of the novelty
    found = compute("lagrangian", rewards, ["novelty >= 0.3 (mean)"], [1.0])
    x = (found.values * found.divisor).tolist()
    assert x[0] == pytest.approx([0.0, 0.0], abs=1e-12)
    assert x[1] == pytest.approx([-0.8, 0.8])  # per-group z-scores would call this trade even as well


def test_batch_without_any_signal_has_zero_advantages_and_a_floored_divisor():
    found = compute("lagrangian", np.full((3, 4, 4), 0.3))
    assert found.values.tolist() == [[0.0] * 4] * 3
    assert found.divisor == 1e-3


def test_values_come_back_in_the_dtype_of_the_rewards():
    for rule in RULES:
        found = compute(rule, torch.rand(2, 4, 4), weights={"recall": 1.0})
        assert (found.values.dtype, tuple(found.values.shape)) == (torch.float32, (2, 4))


def numpy_trl(rewards, weights):
    """TRL's sum_then_normalize with scale_rewards="group", group by group."""
    advantages = np.zeros(rewards.shape[:2])
    for x, group in enumerate(rewards):
        totals = np.array([np.nan if np.isnan(row).all() else np.nansum(weights * row) for row in group])
        scored = totals[~np.isnan(totals)]
        if len(scored) > 1:
            advantages[x] = np.nan_to_num((totals - scored.mean()) / (scored.std(ddof=1) + 1e-4))
    return advantages


@pytest.mark.parametrize("missing", [0.0, 0.3, 0.8])
def test_weighted_sum_equals_trl(missing):
    rewards = random_rewards(groups=40, missing=missing)
    assert (
        missing < 0.8 or (np.isnan(rewards).all(axis=2).sum(axis=1) >= 3).any()
    )  # groups with one sample left
    weights = {"recall": 1.0, "novelty": -0.5, "length": 0.01}
    found = compute("weighted_sum", rewards, weights=weights)
    expected = numpy_trl(rewards, np.array([1.0, -0.5, 0.01, 0.0]))
    np.testing.assert_allclose(found.values.numpy(), expected, rtol=1e-9, atol=1e-12)
    assert (found.divisor, found.kl_scale) == (1.0, 1.0)


def test_weighted_sum_ignores_multipliers_and_says_so():
    rewards, constraint, weights = (
        random_rewards(),
        ["novelty >= 0.3 (mean)"],
        {"recall": 1.0, "novelty": 1.0},
    )
    low = compute("weighted_sum", rewards, constraint, [0.0], weights)
    high = compute("weighted_sum", rewards, constraint, [9.0], weights)
    assert torch.equal(low.values, high.values)
    assert {name: rule.uses_duals for name, rule in RULES.items()} == {
        "lagrangian": True,
        "weighted_sum": False,
    }


def test_bad_batches_and_rules_are_refused():
    with pytest.raises(ValueError, match=r"weights=.*give at least one"):
        compute("weighted_sum", random_rewards())
    with pytest.raises(ValueError, match="num_generations=1"):
        compute("lagrangian", random_rewards(size=1))
    with pytest.raises(ValueError, match=r"shape \(4, 4\)"):
        compute("lagrangian", random_rewards()[0])
    with pytest.raises(ValueError, match="one for each of 1 constraints"):
        compute("lagrangian", random_rewards(), ["novelty >= 0.3 (mean)"], [1.0, 2.0])
    with pytest.raises(ValueError, match="did you mean 'lagrangian'"):
        find_rule("lagrange")


def kl_bandit(rescale, steps=300, beta=0.1):
    """Contextual bandit with a KL penalty: ratio of learned to exact price, and share of the value lost.

    The dual is convex: pi(lam) ~ pi_ref exp((R + lam r) / beta), and lam* is where E[r] meets the bound.
    """
    rng = np.random.default_rng(0)
    R = rng.uniform(0, 1, (8, 5))
    r = 0.6 * rng.uniform(0, 1, (8, 5)) + 0.4 * (1 - R)
    reference = rng.dirichlet(np.full(5, 3.0), 8)

    def optimum(lam):
        weight = reference * np.exp((R + lam * r) / beta)
        return weight / weight.sum(axis=1, keepdims=True)

    def value(p):
        return (p * (R - beta * np.log(p / reference))).sum(axis=1).mean()

    free = (optimum(0.0) * r).sum(axis=1).mean()
    bound = 0.6 * free + 0.4 * r.max(axis=1).mean()
    price = brentq(lambda lam: (optimum(lam) * r).sum(axis=1).mean() - bound, 0, 50)

    problem = Problem.build("R", [f"r >= {bound} (mean)"], {"R": (0.0, 1.0), "r": (0.0, 1.0)})
    duals = Duals(problem, DualConfig(ki=0.2), steps)
    generator = torch.Generator().manual_seed(0)
    table, log_reference = torch.tensor(np.stack([R, r], axis=-1)), torch.tensor(reference).log()
    logits, prices, average = log_reference.clone(), [], torch.zeros(8, 5, dtype=torch.float64)
    for t in range(steps):
        p = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
        arms = torch.multinomial(p, 64, replacement=True, generator=generator)
        rewards = table.gather(1, arms[..., None].expand(-1, -1, 2))
        duals.update(rewards.flatten(0, 1), 64, generation=t)
        found = RULES["lagrangian"](AdvantageBatch(rewards, problem, duals.multipliers, duals.units))
        score = torch.nn.functional.one_hot(arms, 5) - p[:, None]
        log_ratio = p.log() - log_reference
        kl_gradient = p * (log_ratio - (p * log_ratio).sum(dim=1, keepdim=True))
        scale = found.kl_scale if rescale else 1.0
        logits = logits + 0.5 * ((found.values[..., None] * score).mean(dim=1) - beta * scale * kl_gradient)
        if t >= steps // 2:
            prices.append(duals.prices[0].item())
            average += p / (steps - steps // 2)
    return np.mean(prices) / price, 1 - value(average.numpy()) / value(optimum(price))


def test_kl_regularised_bandit_finds_the_price_and_the_value():
    price_ratio, lost = kl_bandit(rescale=True)
    assert price_ratio == pytest.approx(1, abs=0.03)
    assert abs(lost) < 0.02


def test_without_the_kl_rescale_price_and_value_are_wrong():
    price_ratio, lost = kl_bandit(rescale=False)
    assert abs(price_ratio - 1) > 0.03
    assert lost > 0.02


def test_units_come_with_the_batch():
    rewards = random_rewards()
    units = Units(2.0, torch.tensor([0.25], dtype=torch.float64))
    found = compute("lagrangian", rewards, ["novelty >= 0.3 (mean)"], [0.5], units=units)
    total = rewards[..., 0] / 2.0 + 0.5 * rewards[..., 1] / 0.25
    x = 4 / 3 * (total - total.mean(axis=1, keepdims=True))
    np.testing.assert_allclose(found.values.numpy() * found.divisor, x, rtol=1e-9)
    assert found.kl_scale == pytest.approx(1 / (2.0 * found.divisor))

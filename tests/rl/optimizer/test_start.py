import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize

from recrl.rl.optimizer.advantages import AdvantageBatch
from recrl.rl.optimizer.problem import Problem
from recrl.rl.optimizer.rules import RULES
from recrl.rl.optimizer.start import describe, dual, reference_multipliers

NAN = math.nan
RANGES = {"r": (0.0, 1.0), "g": (0.0, 1.0), "h": (0.0, 1.0)}


def arms(prompts=4, arms=5, seed=0):
    """Rewards [prompt, arm, (r, g, h)] of a bandit; g falls and h rises with r."""
    rng = np.random.default_rng(seed)
    r = rng.uniform(size=(prompts, arms))
    g = np.clip(0.8 - 0.6 * r + 0.2 * rng.normal(size=r.shape), 0, 1)
    h = np.clip(0.5 * r + 0.3 * rng.uniform(size=r.shape), 0, 1)
    return np.stack([r, g, h], axis=-1)


def start(rewards, *constraints, kl=0.3, lam_max=20.0, ranges=RANGES, **settings):
    problem = Problem.build("r", constraints, ranges)
    table = torch.as_tensor(rewards, dtype=torch.float64)
    return reference_multipliers(problem, problem.declared_units(), table, kl, lam_max, **settings)


def primal(rewards, kl, lowest, highest):
    """max E[r] - kl KL(p || uniform) s.t. E[g] >= lowest, E[h] <= highest, over the probabilities p."""
    prompts, count, _ = rewards.shape

    def value(p):
        p = p.reshape(prompts, count)
        gain = (p * rewards[..., 0]).sum() - kl * (p * np.log(p * count)).sum()
        return -gain / prompts

    def mean(p, column):
        return (p.reshape(prompts, count) * rewards[..., column]).sum() / prompts

    held = [
        {"type": "eq", "fun": lambda p: p.reshape(prompts, count).sum(axis=1) - 1},
        {"type": "ineq", "fun": lambda p: mean(p, 1) - lowest},
        {"type": "ineq", "fun": lambda p: highest - mean(p, 2)},
    ]
    first = np.full(prompts * count, 1 / count)
    options = {"maxiter": 500, "ftol": 1e-13}
    solved = minimize(value, first, bounds=[(1e-9, 1)] * len(first), constraints=held, options=options)
    assert solved.success
    return -solved.fun, mean(solved.x, 0)


def test_samples_that_enumerate_the_reference_give_the_primal_optimum_and_its_prices():
    rewards, kl, lowest, highest, small = arms(), 0.3, 0.6, 0.3, 1e-3
    found = start(rewards, f"g >= {lowest} (mean)", f"h <= {highest} (mean)", kl=kl, min_effective=1)
    assert found.accepted
    assert found.converged
    assert found.attained.tolist() == pytest.approx([lowest, highest], abs=1e-6)
    _, objective = primal(rewards, kl, lowest, highest)
    assert found.objective == pytest.approx(objective, abs=1e-4)
    for price, d_low, d_high in zip(found.prices.tolist(), (-small, 0), (0, small), strict=True):
        eased = primal(rewards, kl, lowest + d_low, highest + d_high)[0]
        tightened = primal(rewards, kl, lowest - d_low, highest - d_high)[0]
        assert price > 0.1
        assert price == pytest.approx((eased - tightened) / (2 * small), rel=0.01)


def test_sampled_answers_recover_the_exact_price_of_their_reference():
    rng, kl, bound = np.random.default_rng(1), 0.3, 0.55
    rewards = arms(prompts=40, arms=12, seed=1)
    reference = rng.dirichlet(np.ones(12), size=40)

    def shortfall(price):
        tilted = reference * np.exp((rewards[..., 0] + price * rewards[..., 1]) / kl)
        tilted /= tilted.sum(axis=1, keepdims=True)
        return (tilted * rewards[..., 1]).sum(axis=1).mean() - bound

    exact = brentq(shortfall, 0, 20)
    drawn = np.stack([rng.choice(12, size=400, p=p) for p in reference])
    found = start(np.take_along_axis(rewards, drawn[..., None], axis=1), f"g >= {bound} (mean)", kl=kl)
    assert found.accepted
    assert found.prices.item() == pytest.approx(exact, rel=0.03)


def test_effective_samples_by_hand():
    table = [[[1.0, 1, 0], [0.0, 1, 0]], [[0.5, 1, 0], [0.5, 1, 0]]]
    found = start(table, kl=1 / math.log(3), min_effective=1)  # weights 3/4 and 1/4 in the first prompt
    assert found.effective_samples == pytest.approx((1 / (9 / 16 + 1 / 16) + 2) / 2)
    assert found.effective_share == pytest.approx(found.effective_samples / 2)
    assert found.objective == pytest.approx((0.75 + 0.5) / 2)


def test_gradient_of_the_dual_against_finite_differences():
    generator = torch.Generator().manual_seed(0)
    objective = torch.rand(3, 6, generator=generator, dtype=torch.float64)
    objective[0, 0] = NAN
    slacks = torch.randn(3, 6, 2, generator=generator, dtype=torch.float64)
    at = torch.tensor([0.7, 1.9], dtype=torch.float64)
    _, gradient, weights = dual(at, objective, slacks, 0.4)
    assert weights.sum(dim=1).tolist() == pytest.approx([1, 1, 1])
    assert weights[0, 0] == 0
    for k in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[k] = 1e-6
        above, below = (dual(at + s, objective, slacks, 0.4)[0] for s in (step, -step))
        assert gradient[k].item() == pytest.approx((above - below) / 2e-6, rel=1e-6)
    flat = dual(torch.zeros(2, dtype=torch.float64), torch.full((3, 6), 0.25), slacks, 0.4)
    assert flat[0] == pytest.approx(0.25)  # a mean of exponentials, not a sum


def test_dual_survives_exponents_far_outside_of_the_range_of_exp():
    found = start(1e4 * arms(), "g >= 5000 (mean)", kl=1.0, ranges=dict.fromkeys("rgh", (0.0, 1e4)))
    assert found.multipliers.isfinite().all()
    assert found.attained.isfinite().all()
    assert math.isfinite(found.objective)


def test_constraint_that_holds_anyway_has_multiplier_exactly_zero():
    found = start(arms(), "g >= 0.55 (mean)", "h <= 0.9 (mean)", min_effective=1)
    assert found.multipliers[0] > 0.1
    assert found.multipliers[1].item() == 0.0
    assert found.attained[1] < 0.9


def test_of_a_band_only_the_side_that_binds_has_a_price():
    rewards = arms()
    above = start(rewards, "g in [0.55, 0.65] (mean)", min_effective=1)
    below = start(rewards, "g in [0.2, 0.3] (mean)", min_effective=1)
    assert above.multipliers[1].item() == below.multipliers[0].item() == 0.0
    assert above.attained.tolist() == pytest.approx([0.55, 0.55], abs=1e-6)
    assert below.attained.tolist() == pytest.approx([0.3, 0.3], abs=1e-6)
    alone = start(rewards, "g >= 0.55 (mean)", min_effective=1)
    assert above.prices[0].item() == pytest.approx(alone.prices[0].item(), rel=1e-5)  # other unit, same price
    assert above.multipliers[0].item() == pytest.approx(alone.multipliers[0].item() * 0.05 / 0.5, rel=1e-5)


def test_margin_and_the_start_of_a_schedule_move_the_target():
    rewards = arms()
    for text in ("g >= 0.5 (mean, margin=0.05)", "g >= 0.55 -> 0.9 over 10 (mean)"):
        assert start(rewards, text, min_effective=1).attained.item() == pytest.approx(0.55, abs=1e-6)


def test_rate_is_about_its_indicator():
    rewards = arms()
    found = start(rewards, "g >= 0.5 for 0.7 (rate)", min_effective=1)
    indicator = rewards.copy()
    indicator[..., 1] = rewards[..., 1] >= 0.5
    same = start(indicator, "g >= 0.7 (mean)", min_effective=1)
    assert found.attained.item() == pytest.approx(0.7, abs=1e-6)
    assert found.multipliers.tolist() == pytest.approx(same.multipliers.tolist())
    assert found.multipliers[0] > 0.1


def test_gate_has_no_multiplier_and_enters_through_the_objective():
    rewards = arms()
    found = start(rewards, "h <= 0.4 (gate)", "g >= 0.6 (mean)", min_effective=1)
    gated = rewards.copy()
    gated[..., 0] *= rewards[..., 2] <= 0.4
    same = start(gated, "g >= 0.6 (mean)", min_effective=1)
    assert found.multipliers.tolist() == pytest.approx([0.0, same.multipliers.item()])
    assert same.multipliers[0] > 0.1
    assert found.objective == pytest.approx(same.objective)
    assert 0 < found.attained[0] < 1  # the share that complies


def test_segment_acts_on_its_own_prompts_and_its_price_counts_their_share():
    rewards = arms(prompts=8)
    cold = np.zeros((8, 5, 1))
    cold[[1, 4]] = 1
    found = start(
        np.concatenate([rewards, cold], axis=-1), "g >= 0.6 where kind=cold (mean)", min_effective=1
    )
    alone = start(rewards[[1, 4]], "g >= 0.6 (mean)", min_effective=1)
    assert found.attained.item() == pytest.approx(0.6, abs=1e-6)
    assert alone.multipliers[0] > 0.1
    assert found.multipliers.item() == pytest.approx(alone.multipliers.item() * 2 / 8, rel=1e-5)


def test_sample_that_lacks_a_value_of_its_prompt_is_as_if_never_drawn():
    rewards = arms(prompts=6, arms=8)
    holes = rewards.copy()
    holes[:, 2, 1] = NAN
    holes[:, 5, 0] = math.inf
    found = start(holes, "g >= 0.55 (mean)", min_effective=1)
    same = start(np.delete(rewards, [2, 5], axis=1), "g >= 0.55 (mean)", min_effective=1)
    assert found.multipliers.item() == pytest.approx(same.multipliers.item())
    assert found.effective_share == pytest.approx(same.effective_share)
    assert found.objective == pytest.approx(same.objective)


def test_values_missing_at_random_leave_the_price_where_it_was():
    rewards = arms(prompts=60, arms=60)
    holes = rewards.copy()
    holes[np.random.default_rng(7).uniform(size=holes.shape[:2]) < 0.1, 1] = NAN
    full, found = (start(table, "g >= 0.55 (mean)").multipliers.item() for table in (rewards, holes))
    assert found == pytest.approx(full, rel=0.02)


def test_training_at_these_multipliers_meets_the_bounds_exactly():
    rewards = np.concatenate([arms(prompts=12, seed=3), np.zeros((12, 5, 1))], axis=-1)
    rewards[::2, :, 3] = 1
    texts = ["h <= 0.35 (mean)", "g >= 0.7 where kind=cold (mean)"]
    found = start(rewards, *texts, kl=0.3, min_effective=1)
    assert found.multipliers.min() > 0.5

    problem, table = Problem.build("r", texts, RANGES), torch.as_tensor(rewards)
    units = problem.declared_units()._replace(coverage=torch.tensor([1.0, 1.0, 0.5]))
    generator, logits = torch.Generator().manual_seed(0), torch.zeros(12, 5, dtype=torch.float64)
    tail = []
    for step in range(150):
        p = logits.softmax(dim=-1)
        answers = torch.multinomial(p, 64, replacement=True, generator=generator)
        drawn = table.gather(1, answers[..., None].expand(-1, -1, 4))
        advantages = RULES["lagrangian"](AdvantageBatch(drawn, problem, found.multipliers, units))
        taken = torch.nn.functional.one_hot(answers, 5) - p[:, None]
        gain = (advantages.values[..., None] * taken).mean(dim=1)
        ratio = (p * 5).log()
        penalty = 0.3 * advantages.kl_scale * p * (ratio - (p * ratio).sum(dim=1, keepdim=True))
        logits += 0.5 * (gain - penalty)
        tail += [(p[..., None] * table).sum(dim=1)] if step >= 75 else []
    expected = torch.stack(tail).mean(dim=0)
    assert expected[:, 2].mean().item() == pytest.approx(0.35, abs=0.005)
    assert expected[::2, 1].mean().item() == pytest.approx(0.7, abs=0.005)
    assert expected[:, 0].mean().item() == pytest.approx(found.objective, abs=0.005)


def test_refused_without_kl():
    found = start(arms(), "g >= 0.55 (mean)", kl=0.0)
    assert (found.accepted, found.multipliers.tolist()) == (False, [0.0])
    assert "kl=0" in found.reason


def test_refused_when_a_column_has_no_value():
    for column, name in ((0, "of r"), (1, "of g >= 0.55")):
        holes = arms()
        holes[..., column] = NAN
        found = start(holes, "g >= 0.55 (mean)", "h <= 0.3 (mean)")
        assert not found.accepted
        assert name in found.reason
    apart = arms()
    apart[:2, :, 1] = NAN  # here without g, there without the objective
    apart[2:, :, 0] = NAN
    assert "of g >= 0.55" in start(apart, "g >= 0.55 (mean)").reason


def test_refused_when_no_reweighting_attains_a_bound():
    rewards = arms()
    best = rewards[..., 1].max(axis=1).mean()
    found = start(rewards, "g >= 0.99 (mean)", "h <= 0.9 (mean)")
    assert best < 0.99
    assert (found.accepted, found.converged) == (False, True)
    assert found.multipliers.tolist() == [20.0, 0.0]
    assert "'g >= 0.99'" in found.reason
    assert f"best sample of every prompt: {best:.4g}" in found.reason
    assert "h <=" not in found.reason


def test_refused_below_the_least_effective_samples():
    rewards = arms(arms=8)
    found = start(rewards, "g >= 0.55 (mean)", kl=0.05)
    assert not found.accepted
    assert found.effective_samples < 4
    assert f"{found.effective_samples:.1f} effective of 8 samples a prompt, 4.0 needed" in found.reason
    assert "kl=0.05" in found.reason
    assert start(rewards, "g >= 0.55 (mean)", kl=0.05, min_effective=1.0).accepted
    many = start(np.tile(rewards, (1, 50, 1)), "g >= 0.55 (mean)", kl=0.05)
    assert many.effective_samples == pytest.approx(50 * found.effective_samples)
    assert many.accepted  # enough, and the share is above a tenth
    few = np.concatenate([rewards, np.zeros((4, 192, 3))], axis=1)  # answers that the optimum hardly gives
    scarce = start(np.tile(few, (1, 4, 1)), "g >= 0.55 (mean)", kl=0.05)
    assert 4 < scarce.effective_samples < 80
    assert "800 samples a prompt, 80.0 needed" in scarce.reason


def test_bad_arguments_are_errors():
    with pytest.raises(ValueError, match=r"\[prompt, sample, column\]"):
        start(arms()[0])
    with pytest.raises(ValueError, match="kl=-1"):
        start(arms(), kl=-1.0)
    with pytest.raises(ValueError, match="lam_max=0"):
        start(arms(), lam_max=0.0)
    with pytest.raises(ValueError, match="unit="):
        start(arms(), ranges=RANGES | {"r": (0.0, math.inf)})


def test_description_holds_a_line_per_constraint_and_the_verdict():
    texts = ["g >= 0.55 (mean)", "h <= 0.4 (gate)"]
    found = start(arms(), *texts, kl=0.1)
    lines = describe(found, Problem.build("r", texts, RANGES)).splitlines()
    assert len(lines) == 4
    name, target, attained, multiplier, price = lines[1].rsplit(maxsplit=4)
    assert (name, target, attained) == ("g >= 0.55", "0.55", f"{found.attained[0]:.4g}")
    assert float(multiplier) == pytest.approx(found.multipliers[0].item(), rel=1e-3)
    assert float(price) == pytest.approx(found.prices[0].item(), rel=1e-3)
    assert lines[2].split()[4:6] == ["1", f"{found.attained[1]:.4g}"]
    assert found.reason
    assert lines[3].endswith(found.reason)

import json
import logging
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from recrl.rl.optimizer.advantages import AdvantageBatch
from recrl.rl.optimizer.duals import Duals
from recrl.rl.optimizer.problem import Problem
from recrl.rl.optimizer.rules import RULES
from recrl.rl.optimizer.settings import DualConfig

NAN = math.nan
RANGES = {"r": (0.0, 1.0), "g": (0.0, 1.0)}


def make(*constraints, steps=200, ranges=RANGES, **config):
    return Duals(Problem.build("r", constraints, ranges), DualConfig(**config), steps)


def batch(g, r=0.5):
    """Rewards [sample, (r, g)] of one group, g given per sample."""
    return torch.tensor([[r, value] for value in g], dtype=torch.float64)


def random_rewards(seed, samples=24, columns=2):
    return torch.rand(samples, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def knapsack(bound, steps=300, group_size=32, rate=0.5, scale=1.0, seed=0):
    """20 prompts, arms (r, g) = (0, 1) and (v, 0), sampled from a softmax policy trained by `lagrangian`."""
    v = (torch.arange(20, dtype=torch.float64) + 0.5) / 20
    problem = Problem.build("r", [bound], {"r": (0.0, scale), "g": (0.0, 1.0)})
    duals = Duals(problem, DualConfig(), steps)
    generator = torch.Generator().manual_seed(seed)
    logits, trajectory = torch.zeros(20, dtype=torch.float64), []
    for t in range(steps):
        p = torch.sigmoid(logits)
        arm = (torch.rand(20, group_size, generator=generator, dtype=torch.float64) < p[:, None]).double()
        rewards = torch.stack([scale * arm * v[:, None], 1 - arm], dim=-1)
        duals.update(rewards.flatten(0, 1), group_size, generation=t)
        found = RULES["lagrangian"](AdvantageBatch(rewards, problem, duals.multipliers, duals.units))
        logits = logits + rate * (found.values * (arm - p[:, None])).mean(dim=1)
        trajectory.append(duals.multipliers[0].item())
    p = torch.sigmoid(logits)
    return (p * v).mean().item() * scale, (1 - p).mean().item(), trajectory, duals


@pytest.mark.parametrize("bound", [0.3, 0.6, 0.9])
def test_knapsack_reaches_the_linear_programme_and_its_price(bound):
    v = (np.arange(20) + 0.5) / 20
    solved = linprog(-v / 20, A_ub=[[1 / 20] * 20], b_ub=[1 - bound], bounds=(0, 1))
    kept = round(
        20 * bound
    )  # prompts that serve g; every price between the dearest of them and the next is optimal
    low, high = v[kept - 1], v[kept]
    assert low - 1e-9 <= -solved.ineqlin.marginals[0] <= high + 1e-9
    assert bound != 0.6 or -solved.fun == pytest.approx(0.32)

    reward, g, trajectory, duals = knapsack(f"g >= {bound} (mean)")
    assert reward >= -solved.fun * 0.99
    assert g >= bound - 0.01
    assert 0.95 * low <= duals.prices[0].item() <= 1.05 * high
    assert np.mean(trajectory[-60:]) == pytest.approx(
        trajectory[-1], abs=0.02
    )  # it settled, and did not pass by
    assert duals.status(0) == "active"


def test_reward_scale_with_its_unit_changes_nothing_but_the_price():
    reward, _, trajectory, duals = knapsack("g >= 0.6 (mean)", steps=60)
    reward_100, _, trajectory_100, duals_100 = knapsack("g >= 0.6 (mean)", steps=60, scale=100.0)
    assert trajectory_100 == pytest.approx(trajectory, rel=1e-9)
    assert reward_100 == pytest.approx(100 * reward, rel=1e-9)
    assert duals_100.prices[0].item() == pytest.approx(100 * duals.prices[0].item(), rel=1e-9)


def test_constraint_that_turns_inactive_ends_at_exactly_zero():
    _, g, trajectory, duals = knapsack(
        "g <= 0.45 (mean)", steps=120
    )  # starts at 0.5; the objective lowers it
    assert max(trajectory) > 0.05
    assert g < 0.2
    assert duals.multipliers[0].item() == 0.0
    assert duals.status(0) == "slack"


def test_two_steps_by_hand():
    duals = make("g >= 0.6 (mean)", ranges=RANGES | {"r": (0.0, 10.0)})  # u_R = 5, u_g = 0.5, ki = 0.05
    duals.update(batch([0.3, 0.5]), 2, generation=0)  # e = 0.2 / 0.5 = 0.4 = p, I = 0.02
    assert duals.multipliers.tolist() == pytest.approx([0.42])
    duals.update(batch([0.6, 0.8]), 2, generation=1)  # e = -0.2, xi = 0.9 * 0.04 - 0.02 = 0.016, I = 0.01
    lam = 0.016 / 0.19 + 0.01
    assert duals.multipliers.tolist() == pytest.approx([lam])
    assert duals.prices.tolist() == pytest.approx([lam * 5 / 0.5])
    (row,) = duals.report()
    assert (row.name, row.bound, row.status) == ("g >= 0.6", 0.6, "violated")
    assert (row.mean, row.slack, row.attained) == pytest.approx((0.7, 0.1, 0.7))
    assert (row.multiplier, row.price, row.p, row.i) == pytest.approx((lam, 10 * lam, 0.016 / 0.19, 0.01))


def test_the_damping_follows_the_pace_of_the_policy():
    duals = make("g >= 0.6 (mean)")  # kp = 1, ki = 0.05
    duals.update(batch([0.3, 0.5]), 2, generation=0, pace=0.5)  # e = 0.4: p = 0.2, I = 0.02
    assert duals.multipliers.tolist() == pytest.approx([0.22])
    (row,) = duals.report()
    assert (row.multiplier, row.p, row.i) == pytest.approx((0.22, 0.2, 0.02))
    duals.update(batch([0.3, 0.5]), 2, generation=1, pace=0.0)  # a policy that stands still
    assert duals.multipliers.tolist() == pytest.approx([0.04])


def test_a_pace_that_falls_takes_the_noise_of_batches_out_of_the_price():
    noise = torch.Generator().manual_seed(0)
    late = {}
    for falls in (False, True):
        duals, found = make("g >= 0.5 (mean)", "r >= 0.5 (mean)", kp=2.0, nu=0.7), []
        duals.start_from(torch.tensor([1.0, 1.0]))
        for t in range(100):
            g = (0.5 + 0.1 * torch.randn(1, generator=noise)).item()
            duals.update(batch([g, g]), 2, generation=t, pace=1 - t / 100 if falls else 1.0)
            found.append(duals.multipliers[0].item())
        late[falls] = float(np.std(found[-20:]))
    assert late[True] < 0.3 * late[False]


def test_upper_bound_margin_and_clip_by_hand():
    duals = make("g <= 0.4 (mean, margin=0.1)", "r >= 0.2 (mean, unit=0.01)", kp=0.0, ki=0.05)
    duals.update(
        batch([0.5, 0.7], r=0.1), 2, generation=0
    )  # e = (0.6 - 0.3) / 0.5 = 0.6 and 10, clipped to 3
    assert duals.multipliers.tolist() == pytest.approx([0.05 * 0.6, 0.05 * 3])
    assert [row.slack for row in duals.report()] == pytest.approx([-0.2, -0.1])  # margin is not in the slack


def test_margin_tightens_the_target_but_not_the_status():
    duals = make("g >= 0.5 (mean, margin=0.1)")
    duals.update(batch([0.55, 0.55]), 2, generation=0)
    assert duals.multipliers[0] > 0
    assert duals.status(0) == "active"


@pytest.mark.parametrize(("steps", "ki", "window"), [(50, 0.05, 20), (500, 0.02, 50), (9000, 0.005, 900)])
def test_integral_gain_and_window_follow_the_planned_steps(steps, ki, window):
    duals = make("g >= 0.6 (mean)", steps=steps)
    assert (duals.ki, duals.window) == (pytest.approx(ki), window)


def test_bad_settings_are_refused():
    for setting in ({"nu": 1.0}, {"kp": -1.0}, {"ki": 0.0}, {"lam_max": 0.0}, {"window": 1}):
        with pytest.raises(ValueError, match=next(iter(setting))):
            DualConfig(**setting)


def test_missing_values_are_left_out_of_the_mean_and_hold_when_all_are():
    partly, without = make("g >= 0.6 (mean)"), make("g >= 0.6 (mean)")
    partly.update(batch([0.2, NAN, 0.4, math.inf]), 4, generation=0)
    without.update(batch([0.2, 0.4]), 2, generation=0)
    assert partly.multipliers.tolist() == without.multipliers.tolist() == pytest.approx([0.6 + 0.05 * 0.6])
    before = partly.multipliers.tolist()
    assert partly.update(batch([NAN, NAN]), 2, generation=1)
    assert partly.multipliers.tolist() == before
    assert partly.status(0) == "unobserved"
    assert partly.report()[0].mean == pytest.approx(0.3)  # the last one that was seen
    partly.update(
        batch([0.2, 0.4]), 2, generation=2
    )  # bias correction counts the steps that were taken, not time
    without.update(batch([0.2, 0.4]), 2, generation=1)
    assert partly.multipliers.tolist() == without.multipliers.tolist()


def test_means_are_over_samples_not_over_groups():
    duals = make("g >= 0.6 (mean)")
    duals.update(batch([0.0, NAN, 0.9, 0.9]), 2, generation=0)
    assert duals.report()[0].mean == pytest.approx(0.6)  # mean of group means would be 0.45


def test_integrator_waits_while_saturated_so_the_price_falls_without_delay():
    duals = make("g >= 0.9 (mean)", lam_max=1.0)
    for t in range(50):
        duals.update(batch([0.0, 0.2]), 2, generation=t)  # p = 1.6 alone exceeds the ceiling
    assert duals.multipliers.tolist() == [1.0]
    assert duals.status(0) == "saturated"
    assert duals.report()[0].i == 0.0
    for t in range(50, 80):  # an integrator that had run up to the ceiling would still stand at 0.7
        duals.update(batch([1.0, 1.0]), 2, generation=t)
    assert duals.multipliers.tolist() == [0.0]


def test_integrator_stays_within_its_bounds():
    duals = make("g >= 0.9 (mean)", "r <= 0.9 (mean)", kp=0.0, ki=0.5, lam_max=1.0)
    for t in range(30):
        duals.update(batch([0.0, 0.2], r=0.1), 2, generation=t)
    assert [row.i for row in duals.report()] == [1.0, 0.0]


def test_rate_controls_the_share_and_gate_has_no_multiplier():
    duals = make("g >= 0.5 for 0.9 (rate)", "g >= 0.2 (gate)")
    duals.update(batch([0.1, 0.5, 0.9, 0.6]), 4, generation=0)  # share 0.75, e = 0.15 / 0.5 = 0.3
    assert duals.multipliers.tolist() == pytest.approx([0.3 + 0.05 * 0.3, 0.0])
    rate, gate = duals.report()
    assert (rate.mean, rate.slack) == pytest.approx((0.75, -0.15))
    assert (gate.mean, gate.bound, gate.status, gate.price) == (0.75, 1.0, "violated", 0.0)
    duals.update(batch([0.3, 0.5]), 2, generation=1)
    assert duals.status(1) == "slack"


def trade_off(seed=0, groups=6, size=8):
    """Rewards (r, g, h) that no policy moves: g fights r within groups, h goes with g, prompts differ."""
    generator = np.random.default_rng(seed)
    r = generator.uniform(-0.2, 0.2, (groups, size))
    g = -0.5 * r + 0.05 * generator.uniform(-1, 1, r.shape)
    h = 0.3 * g + 0.05 * generator.uniform(-1, 1, r.shape)
    prompt = generator.uniform(-0.2, 0.2, (groups, 1))  # alone, it would make all of them go together
    rewards = np.stack([prompt + r, prompt + g, prompt + h], axis=-1)
    return torch.tensor(rewards - rewards.mean(axis=(0, 1)) + [0.5, 0.4, 0.4]).flatten(0, 1)


def within_correlation(rewards, i, j, size=8):
    columns = rewards.numpy().reshape(-1, size, 3)
    columns = (columns - columns.mean(axis=1, keepdims=True)).reshape(-1, 3)
    return np.corrcoef(columns[:, i], columns[:, j])[0, 1]


THREE = {"r": (0.0, 1.0), "g": (0.0, 1.0), "h": (0.0, 1.0)}


def test_conflict_that_no_policy_can_meet_is_suspected_and_the_integrator_waits():
    duals = make("g >= 0.8 (mean)", "h <= 0.1 (mean)", ranges=THREE, steps=100)
    rewards, frozen = trade_off(), None
    for t in range(100):
        duals.update(rewards, 8, generation=t)
        if duals.status(0) == "infeasible_suspected" and frozen is None:
            frozen = duals.report()
    assert frozen is not None
    row = duals.report()[0]
    error = (0.8 - rewards[:, 1].mean().item()) / 0.5
    assert row.i == frozen[0].i < 0.05 * error * 100
    assert (row.status, row.attained) == ("infeasible_suspected", pytest.approx(rewards[:, 1].mean().item()))
    pressure = duals.multipliers.sum().item()
    assert pressure / (1 + pressure) > 0.8
    duals.update(rewards + torch.tensor([0.0, 0.5, 0.0]), 8, generation=100)  # met once: no longer suspected
    assert duals.status(0) != "infeasible_suspected"
    assert duals.report()[0].competing == ()


def test_competing_names_what_pulls_the_other_way_within_groups_worst_first():
    rewards = trade_off()
    fights_r, with_h = within_correlation(rewards, 0, 1), within_correlation(rewards, 1, 2)
    assert fights_r < -0.8
    assert with_h > 0.5
    assert np.corrcoef(rewards[:, 0], rewards[:, 1])[0, 1] > fights_r + 0.5  # across prompts it looks milder
    # h is to be lowered but goes with g: it fights, less than r does.
    duals = make("g >= 0.8 (mean)", "h <= 0.1 (mean)", ranges=THREE, steps=100)
    for t in range(100):
        duals.update(rewards, 8, generation=t)
    row = duals.report()[0]
    expected = sorted([("r", fights_r), ("h <= 0.1", -with_h)], key=lambda pair: pair[1])
    assert [name for name, _ in row.competing] == [name for name, _ in expected]
    assert [value for _, value in row.competing] == pytest.approx([value for _, value in expected])
    text = row.explanation()
    assert text.startswith(
        f"g >= 0.8 looks infeasible: the best it reached lately is {row.attained:.4g}, against"
    )
    assert f"bound of 0.8. It fights {row.competing[0][0]} (correlation {row.competing[0][1]:+.2f}), " in text
    assert text.endswith(f"Relax it to {row.attained:.4g} or less demanding, or relax what it fights")


def test_correlations_are_of_recent_batches_and_survive_a_resume():
    whole, first = (make("g >= 0.8 (mean, unit=0.1)", ranges=THREE, steps=100) for _ in range(2))
    for t in range(100):
        whole.update(trade_off(seed=t), 8, generation=t)
        if t < 97:
            first.update(trade_off(seed=t), 8, generation=t)
    resumed = make("g >= 0.8 (mean, unit=0.1)", ranges=THREE, steps=100)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for t in range(97, 100):
        resumed.update(trade_off(seed=t), 8, generation=t)
    assert resumed.report() == whole.report()
    ((_, found),) = whole.report()[0].competing
    covariance, weights = np.zeros((2, 2)), 0.9 ** np.arange(100)[::-1]
    for t, weight in enumerate(weights):
        columns = trade_off(seed=t).numpy().reshape(6, 8, 3)[..., :2]
        deviations = (columns - columns.mean(axis=1, keepdims=True)).reshape(-1, 2)
        covariance += weight * deviations.T @ deviations
    assert found == pytest.approx(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))


def test_what_goes_along_or_has_no_price_does_not_compete():
    """h is to be raised and goes with g; a constraint that holds has no multiplier and so pulls nowhere."""
    duals = make("g >= 0.8 (mean)", "h >= 0.7 (mean)", "r >= 0.1 (mean)", ranges=THREE, steps=100)
    for t in range(100):
        duals.update(trade_off(), 8, generation=t)
    row = duals.report()[0]
    assert row.status == "infeasible_suspected"
    assert [name for name, _ in row.competing] == ["r"]
    assert duals.multipliers[2] == 0
    alone = make("g >= 0.8 (mean, unit=0.02)", steps=100)
    for t in range(100):
        alone.update(batch([0.4, 0.6]), 2, generation=t)
    (row,) = alone.report()
    assert (row.status, row.competing) == ("infeasible_suspected", ())
    assert "No other reward pulls against it" in row.explanation()


def test_slow_progress_under_high_pressure_is_not_infeasible():
    duals = make("g >= 0.8 (mean, unit=0.05)", steps=100)
    seen = set()
    for t in range(100):
        duals.update(batch([0.3 + 0.004 * t] * 2), 2, generation=t)
        seen.add(duals.status(0))
    assert duals.report()[0].i > 4
    assert "infeasible_suspected" not in seen


def test_generation_that_was_stepped_is_skipped():
    duals = make("g >= 0.6 (mean)")
    assert duals.update(batch([0.1, 0.3]), 2, generation=4)
    before = duals.fingerprint()
    assert not duals.update(batch([0.1, 0.3]), 2, generation=4)
    assert not duals.update(batch([0.1, 0.3]), 2, generation=3)
    assert duals.fingerprint() == before
    assert duals.update(batch([0.1, 0.3]), 2, generation=5)
    assert duals.fingerprint() != before


def test_rewards_of_the_wrong_shape_are_refused():
    duals = make("g >= 0.6 (mean)")
    with pytest.raises(ValueError, match="group_size=4"):
        duals.update(random_rewards(0, samples=6), 4, generation=0)
    with pytest.raises(ValueError, match=r"the columns \('r', 'g'\)"):
        duals.update(random_rewards(0, columns=3), 4, generation=0)
    with pytest.raises(ValueError, match=r"shape \(0, 2\).*a multiple of group_size=4 samples"):
        duals.update(random_rewards(0, samples=0), 4, generation=0)
    segmented = make("g >= 0.6 where user=cold (mean)")
    with pytest.raises(ValueError, match=r"shape \(24, 2\).*the columns \('r', 'g', 'user=cold'\)"):
        segmented.update(random_rewards(0), 4, generation=0)
    assert (duals.step, segmented.step) == (0, 0)


def test_order_of_groups_does_not_matter():
    one = make("g >= 0.6 (mean)", "r <= 0.4 for 0.7 (rate)")
    other = make("g >= 0.6 (mean)", "r <= 0.4 for 0.7 (rate)")
    for t in range(30):
        rewards = random_rewards(t).float()
        order = torch.randperm(6, generator=torch.Generator().manual_seed(t))
        one.update(rewards, 4, generation=t)
        other.update(rewards.unflatten(0, (6, 4))[order].flatten(0, 1), 4, generation=t)
    assert max(one.multipliers) > 0.1
    torch.testing.assert_close(one.multipliers, other.multipliers, rtol=1e-12, atol=1e-12)


def calibrated(**config):
    ranges = {"r": (-math.inf, math.inf), "g": (0.0, math.inf)}
    return make("g >= 0.6 (mean)", "r <= 0.4 for 0.9 (rate)", ranges=ranges, calibration_batches=5, **config)


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit():
    whole, first = calibrated(), calibrated()
    for t in range(30):
        whole.update(random_rewards(t), 4, generation=t)
    for t in range(3):  # within the calibration
        first.update(random_rewards(t), 4, generation=t)
    resumed = calibrated()
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert resumed.fingerprint() == first.fingerprint()
    for t in range(30):  # the resumed run replays batches that were already stepped
        resumed.update(random_rewards(t), 4, generation=t)
    assert resumed.step == 30
    assert resumed.fingerprint() == whole.fingerprint()
    assert torch.equal(resumed.multipliers, whole.multipliers)
    assert resumed.report() == whole.report()


def test_constraints_may_change_their_order_between_save_and_resume():
    ranges = {"r": (-math.inf, math.inf), "g": (0.0, math.inf)}
    texts = ["g >= 0.6 (mean)", "r <= 0.4 (mean)"]
    one, other = make(*texts, ranges=ranges), make(*texts[::-1], ranges=ranges)
    for t in range(9):
        one.update(random_rewards(t) * torch.tensor([1.0, 3.0]), 4, generation=t)
    other.load_state_dict(one.state_dict())
    for duals in (one, other):
        duals.update(random_rewards(9) * torch.tensor([1.0, 3.0]), 4, generation=9)
    assert other.report() == one.report()[::-1]
    assert other.units.constraints.tolist() == one.units.constraints.tolist()[::-1]


def test_state_holds_no_decimal_floats():
    duals = calibrated()
    duals.update(random_rewards(0), 4, generation=0)

    def leaves(node):
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else None
        return [node] if children is None else [leaf for child in children for leaf in leaves(child)]

    assert not [leaf for leaf in leaves(duals.state_dict()) if isinstance(leaf, float)]


def test_changed_problem_is_refused_or_taken_over_by_name():
    old = make("g >= 0.6 (mean)", "r <= 0.4 (mean)")
    old.update(batch([0.1, 0.3]), 2, generation=7)
    state = old.state_dict()
    changed = make("r >= 0.2 (mean)", "g >= 0.5 (mean)")
    with pytest.raises(ValueError, match=r"another problem.*'g >= 0.6'.*now.*'g >= 0.5'.*strict=False"):
        changed.load_state_dict(state)
    changed.load_state_dict(state, strict=False)
    assert changed.multipliers.tolist() == [0.0, old.multipliers[0].item()]
    assert changed.generation == 7


def test_undeclared_units_are_the_pooled_spread_of_the_first_batches():
    duals = calibrated()
    for t in range(8):
        duals.update(random_rewards(t), 4, generation=t)
    groups = np.concatenate([random_rewards(t).numpy().reshape(6, 4, 2) for t in range(5)])
    pooled = np.sqrt(groups.var(axis=1, ddof=1).mean(axis=0))
    units = duals.units
    assert [units.objective, units.constraints[0].item()] == pytest.approx(pooled.tolist())
    assert units.constraints[1].item() == 0.5  # an indicator's unit is known


def test_unit_is_not_taken_from_batches_without_variation():
    duals = make("g >= 5 (mean)", ranges=RANGES | {"g": (0.0, math.inf)}, calibration_batches=1)
    duals.update(torch.tensor([[0.5, 0.1]] * 3, dtype=torch.float64), 3, generation=0)
    assert (duals.status(0), duals.multipliers.tolist()) == ("unobserved", [0.0])
    duals.update(batch([1.0, 3.0]), 2, generation=1)
    assert duals.units.constraints.tolist() == pytest.approx([math.sqrt(2)])
    assert duals.multipliers[0] > 0


@pytest.mark.parametrize(("spread", "warned"), [(0.02, True), (0.3, False)])
def test_declared_unit_far_from_the_data_is_warned_about_once(spread, warned, caplog):
    duals = make("g >= 0.6 (mean)", calibration_batches=2)
    with caplog.at_level(logging.WARNING):
        for t in range(5):
            duals.update(batch([0.5 - spread, 0.5 + spread]), 2, generation=t)
    messages = [record.getMessage() for record in caplog.records]
    ratio = spread * math.sqrt(2) / 0.5
    assert len(messages) == warned
    assert all(f"g >= 0.6: the spread within groups is {ratio:.3g} times" in message for message in messages)
    assert duals.units.constraints.tolist() == [0.5]


# --- segments ---


def columns_of(g, members, r=0.5):
    """Rewards [sample, (r, g, indicator)] of groups of two; members per group."""
    rows = [[r, value, float(member)] for pair, member in zip(g, members, strict=True) for value in pair]
    return torch.tensor(rows, dtype=torch.float64)


def test_a_segment_is_judged_by_its_own_samples():
    duals = make("g >= 0.6 where user=cold (mean)", "g >= 0.6 (mean)")
    duals.update(columns_of([(0.1, 0.3), (0.9, 0.9), (0.8, NAN)], [1, 0, 1]), 2, generation=0)
    cold, everyone = (0.1 + 0.3 + 0.8) / 3, (0.1 + 0.3 + 0.9 + 0.9 + 0.8) / 5
    assert [row.mean for row in duals.report()] == pytest.approx([cold, everyone])
    assert duals.multipliers.tolist() == pytest.approx([1.05 * (0.6 - m) / 0.5 for m in (cold, everyone)])
    assert duals.units.coverage.tolist() == pytest.approx([1.0, 3 / 6, 5 / 6])


def test_a_batch_without_anyone_of_the_segment_holds_its_multiplier():
    duals = make("g >= 0.6 where user=cold (mean)")
    duals.update(columns_of([(0.1, 0.3), (0.9, 0.9)], [1, 0]), 2, generation=0)
    before = duals.multipliers.tolist()
    rewards = columns_of([(0.1, 0.3), (0.9, 0.7)], [0, 0], r=NAN)
    rewards[:, 0] = torch.tensor([0.1, 0.3, 0.5, 0.9])
    duals.update(rewards, 2, generation=1)
    assert duals.multipliers.tolist() == before
    (row,) = duals.report()
    assert (row.status, row.mean) == ("unobserved", pytest.approx(0.2))
    batch = AdvantageBatch(rewards.unflatten(0, (2, 2)), duals.problem, duals.multipliers, duals.units)
    x = RULES["lagrangian"](batch)
    assert (x.values * x.divisor).flatten().tolist() == pytest.approx([-0.4, 0.4, -0.8, 0.8])  # r alone
    duals.update(columns_of([(0.1, 0.3), (0.9, 0.9)], [1, 0]), 2, generation=2)
    assert duals.status(0) == "violated"


def segment_optimum(bound, cold=8, n=20):
    """Best mean of r when the cold prompts must keep g at the bound; v_x is what prompt x gains by r."""
    v = (np.arange(n) + 0.5) / n
    members = np.arange(n) % 5 < 2  # spread over all values
    assert members.sum() == cold
    solved = linprog(-v / n, A_ub=[members / cold], b_ub=[1 - bound], bounds=(0, 1))
    return v, members, -solved.fun


def test_the_price_of_a_segment_is_what_its_bound_costs_over_all_prompts():
    """The LP's -dJ*/db: a segment of 40 % of the prompts moves the objective by its share only."""
    bound, steps, size = 0.56, 400, 32
    v, members, best = segment_optimum(bound)
    price = (segment_optimum(bound - 0.02)[2] - segment_optimum(bound + 0.02)[2]) / 0.04
    indicator = torch.tensor(members, dtype=torch.float64)[:, None].expand(-1, size)
    duals = make(f"g >= {bound} where user=cold (mean)", steps=steps)
    generator, gains = torch.Generator().manual_seed(0), torch.tensor(v)[:, None]
    logits, prices, average = torch.zeros(20, dtype=torch.float64), [], 0.0
    for t in range(steps):
        p = torch.sigmoid(logits)
        arm = (torch.rand(20, size, generator=generator, dtype=torch.float64) < p[:, None]).double()
        rewards = torch.stack([arm * gains, 1 - arm, indicator], dim=-1)
        duals.update(rewards.flatten(0, 1), size, generation=t)
        found = RULES["lagrangian"](AdvantageBatch(rewards, duals.problem, duals.multipliers, duals.units))
        logits = logits + 0.5 * (found.values * (arm - p[:, None])).mean(dim=1)
        if t >= steps // 2:
            prices.append(duals.prices[0].item())
            average = average + p.numpy() / (steps - steps // 2)
    assert np.mean(prices) == pytest.approx(price, rel=0.1)
    assert (average * v).mean() == pytest.approx(best, rel=0.02)
    assert (1 - average)[members].mean() == pytest.approx(bound, abs=0.01)
    assert (1 - average)[~members].mean() < 0.1  # the others are free


# --- schedules ---


def test_the_error_follows_the_schedule_by_hand():
    texts = ["g >= 0.2 -> 0.6 over 4 (mean)", "r <= 0.9 -> 0.5 over 2 (mean, margin=0.1)"]
    duals = make(*texts, kp=0.0, ki=0.05)
    lower, upper = 0.0, 0.0
    schedule = [(0.2, 0.9), (0.3, 0.7), (0.4, 0.5), (0.5, 0.5), (0.6, 0.5), (0.6, 0.5)]
    for t, (floor, ceiling) in enumerate(schedule):
        duals.update(batch([0.3, 0.5], r=0.5), 2, generation=t)
        lower = max(0.0, lower + 0.05 * (floor - 0.4) / 0.5)
        upper = max(0.0, upper + 0.05 * (0.5 - (ceiling - 0.1)) / 0.5)
        assert duals.multipliers.tolist() == pytest.approx([lower, upper])
        assert [row.bound for row in duals.report()] == pytest.approx([floor, ceiling])
        assert [row.slack for row in duals.report()] == pytest.approx([0.4 - floor, ceiling - 0.5])
    assert min(lower, upper) > 0.02


def test_a_schedule_goes_by_generations_not_by_steps():
    """So that a resume, or a batch that nobody could score, does not delay it."""
    duals = make("g >= 0.2 -> 0.6 over 4 (mean)", kp=0.0, ki=0.05)
    duals.update(batch([NAN, NAN]), 2, generation=0)
    duals.update(batch([0.3, 0.3]), 2, generation=3)
    assert duals.report()[0].bound == pytest.approx(0.5)
    assert duals.multipliers.tolist() == pytest.approx([0.05 * 0.2 / 0.5])


def test_a_run_resumed_in_the_middle_of_a_schedule_equals_the_uninterrupted_one():
    texts = ["g >= 0.3 -> 0.7 over 12 (mean)", "r <= 0.4 for 0.2 -> 0.8 over 9 (rate)"]
    whole, first, resumed = make(*texts), make(*texts), make(*texts)
    for t in range(20):
        whole.update(random_rewards(t), 4, generation=t)
    for t in range(6):
        first.update(random_rewards(t), 4, generation=t)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for t in range(6, 20):
        resumed.update(random_rewards(t), 4, generation=t)
    assert resumed.fingerprint() == whole.fingerprint()
    assert resumed.report() == whole.report()
    with pytest.raises(ValueError, match="another problem"):
        make(texts[0].replace("over 12", "over 13"), texts[1]).load_state_dict(first.state_dict())


def test_a_schedule_that_has_passed_what_can_be_reached_is_suspected():
    duals = make("g >= 0.3 -> 0.9 over 30 (mean, unit=0.05)", steps=100)
    statuses = []
    for t in range(60):
        duals.update(batch([0.45, 0.55]), 2, generation=t)  # met until the tenth generation
        statuses.append(duals.status(0))
    assert statuses[5] == "slack"
    assert statuses[-1] == "infeasible_suspected"


def test_a_bound_that_moves_away_as_fast_as_the_mean_follows_is_judged_by_where_it_stands():
    duals = make("g >= 0.3 -> 0.9 over 60 (mean, unit=0.05)", steps=100)
    seen = set()
    for t in range(60):
        duals.update(batch([0.2 + 0.01 * t] * 2), 2, generation=t)  # a lag of 2 units, but never a standstill
        seen.add(duals.status(0))
    assert seen <= {"violated", "saturated"}


# --- other starts and controllers ---


def test_log_controller_by_hand():
    duals = Duals(
        Problem.build("r", ["g >= 0.6 (mean)", "g >= 0.1 (gate)"], RANGES), DualConfig(), 100, "log"
    )
    assert duals.multipliers.tolist() == [1.0, 0.0]
    log = 0.0
    for t, mean in enumerate([0.4, 0.5, 0.9]):
        duals.update(batch([mean - 0.1, mean + 0.1]), 2, generation=t)
        log += 0.1 * (0.6 - mean) / 0.5
        assert duals.multipliers.tolist() == pytest.approx([math.exp(log), 0.0])
        row = duals.report()[0]
        assert (row.p, row.i) == (0.0, row.multiplier)


def test_log_controller_never_reaches_zero_and_stops_at_the_ceiling():
    config = DualConfig(lam_max=2.0, clip=30.0)
    duals = Duals(Problem.build("r", ["g >= 0.6 (mean, unit=0.01)"], RANGES), config, 100, "log")
    for t in range(20):
        duals.update(batch([1.0, 1.0]), 2, generation=t)  # a factor of e^-3 at each step
    assert duals.multipliers.tolist() == [1e-6]
    for t in range(20, 40):
        duals.update(batch([0.3, 0.3]), 2, generation=t)
    assert duals.multipliers.tolist() == [2.0]
    assert duals.status(0) == "saturated"


def test_a_new_constraint_starts_where_its_controller_starts():
    problem = Problem.build("r", ["g >= 0.6 (mean)"], RANGES)
    old = Duals(problem, DualConfig(), 100, "log")
    old.update(batch([0.3, 0.5]), 2, generation=0)
    wider = Problem.build("r", ["g >= 0.6 (mean)", "r >= 0.2 (mean)", "r >= 0.1 (gate)"], RANGES)
    for controller, start in (("log", 1.0), ("pi", 0.0)):
        duals = Duals(wider, DualConfig(kp=0.0), 100, controller)
        duals.load_state_dict(old.state_dict(), strict=False)
        assert duals.multipliers.tolist() == pytest.approx([math.exp(0.1 * 0.4), start, 0.0])


def test_an_unknown_controller_is_refused():
    with pytest.raises(ValueError, match=r"unknown controller='pid'; use one of \('pi', 'log'\)"):
        Duals(Problem.build("r", [], RANGES), DualConfig(), 10, "pid")


def test_multipliers_may_start_from_given_ones_before_the_first_step_only():
    duals = make("g >= 0.6 (mean)", "r >= 0.2 (mean)", "g >= 0.1 (gate)", lam_max=3.0)
    duals.start_from(torch.tensor([0.7, 9.0, 0.4]))
    assert duals.multipliers.tolist() == pytest.approx([0.7, 3.0, 0.0])
    duals.update(batch([0.5, 0.5]), 2, generation=0)  # e = 0.2: P adds 0.2, I 0.01
    assert duals.multipliers[0].item() == pytest.approx(0.7 + 0.01 + 0.2)
    with pytest.raises(ValueError, match="stepped 1 times already"):
        duals.start_from(torch.tensor([0.0, 0.0, 0.0]))


@pytest.mark.parametrize("given", [[0.7], [0.7, math.nan], 0.7])
def test_a_start_that_is_no_number_for_each_constraint_is_refused(given):
    duals = make("g >= 0.6 (mean)", "r >= 0.2 (mean)")
    with pytest.raises(ValueError, match="one finite number for each of 2 constraints"):
        duals.start_from(torch.tensor(given))


# --- bad input ---


def test_a_constant_reward_moves_its_multiplier_and_stays_finite():
    duals = make("g >= 0.6 (mean)")
    for t in range(200):
        duals.update(batch([0.5, 0.5]), 2, generation=t)
    assert duals.multipliers.isfinite().all()
    assert duals.report()[0].i == pytest.approx(200 * 0.05 * 0.2)
    assert duals.status(0) == "violated"


def test_a_group_without_values_is_as_good_as_absent():
    rewards = random_rewards(0, samples=16)
    rewards[4:8] = NAN
    one, other = make("g >= 0.6 (mean)"), make("g >= 0.6 (mean)")
    one.update(rewards, 4, generation=0)
    other.update(torch.cat([rewards[:4], rewards[8:]]), 4, generation=0)
    assert one.multipliers.tolist() == other.multipliers.tolist()
    assert one.report() == other.report()


def test_problem_without_constraints_steps():
    duals = make()
    assert duals.update(batch([0.1, 0.2]), 2, generation=0)
    assert (duals.multipliers.shape, duals.report()) == ((0,), [])

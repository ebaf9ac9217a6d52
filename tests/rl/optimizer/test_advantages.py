"""Every rule against its formula, computed sample by sample; missing values, segments, gates, bad input."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from recrl.rl.optimizer.advantages import AdvantageBatch
from recrl.rl.optimizer.duals import Duals
from recrl.rl.optimizer.groups import leave_one_out, within_group, z_scores
from recrl.rl.optimizer.problem import Problem, Units
from recrl.rl.optimizer.rules import RULES, find_rule
from recrl.rl.optimizer.settings import DualConfig

NAN = math.nan
RANGES = {"recall": (0.0, 1.0), "novelty": (0.0, 1.0), "length": (0.0, 20.0), "clicks": (0.0, 1.0)}
USES_DUALS = {"lagrangian", "log_lambda", "scalarized_reward", "scalarized_advantage"}
Z_SCORED = {"scalarized_reward", "weighted_sum", "gate", "single_reward"}


def random_rewards(groups=5, size=4, missing=0.0, seed=0):
    generator = np.random.default_rng(seed)
    rewards = generator.uniform(0, 1, (groups, size, len(RANGES))) * [1, 1, 20, 1]
    rewards[generator.uniform(size=rewards.shape) < missing] = NAN
    return rewards


def compute(rule, rewards, constraints=(), multipliers=(), weights=None, units=None, ranges=RANGES, **tags):
    problem = Problem.build("recall", constraints, ranges, weights=weights)
    lam = torch.tensor(multipliers, dtype=torch.float64)
    tensor = rewards if isinstance(rewards, torch.Tensor) else torch.tensor(rewards, dtype=torch.float64)
    return RULES[rule](AdvantageBatch(tensor, problem, lam, units or problem.declared_units(), **tags))


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
    scaled = math.sqrt(2) + 1e-4  # the std of 1 and 3
    assert z_scores(values).tolist() == [
        pytest.approx([-1 / scaled, 0.0, 1 / scaled, 0.0]),
        [0.0] * 4,
        [0.0] * 4,
    ]


def test_equal_values_have_exactly_no_deviation():
    values = torch.full((1, 3), 0.1, dtype=torch.float64)
    assert (values - values.mean()).abs().max() > 0  # rounding, which the mask has to hide
    assert within_group(values)[0].tolist() == [[0.0, 0.0, 0.0]]


# --- every rule, computed again sample by sample ---
# A sample is a dictionary of its rewards, None where missing. A constraint is what it reads from a sample,
# the sign of its pull, its unit and its bound, all written by hand.


def reads(name, complies=None, where=None):
    def value(sample):
        if sample[name] is None or (where and sample[where] != 1):
            return None
        return sample[name] if complies is None else float(complies(sample[name]))

    return value


CASES = {
    "means": {
        "texts": ["novelty >= 0.3 (mean)", "clicks <= 0.6 (mean, margin=0.05, unit=0.2)"],
        "constraints": [(reads("novelty"), 1, 0.5, 0.3), (reads("clicks"), -1, 0.2, 0.6)],
        "multipliers": [0.7, 1.9],
        "weights": {"recall": 1.0, "novelty": 0.5, "clicks": -2.0},
    },
    "band and rate": {
        "texts": ["length in [6, 11] (mean)", "novelty <= 0.8 for 0.9 (rate)"],
        "constraints": [
            (reads("length"), 1, 2.5, 6.0),
            (reads("length"), -1, 2.5, 11.0),
            (reads("novelty", lambda value: value <= 0.8), 1, 0.5, 0.9),
        ],
        "multipliers": [0.0, 1.5, 0.4],
        "weights": {"recall": 1.0, "novelty": -1.0},  # by default; a band has no better side
    },
    "gate and segment": {
        "texts": [
            "clicks >= 0.2 (gate)",
            "novelty >= 0.3 where user=cold (mean)",
            "novelty >= 0.5 for 0.7 (rate)",
        ],
        "constraints": [
            (reads("clicks", lambda value: value >= 0.2), 1, 0.5, 1.0),
            (reads("novelty", where="user=cold"), 1, 0.5, 0.3),
            (reads("novelty", lambda value: value >= 0.5), 1, 0.5, 0.7),
        ],
        "multipliers": [0.0, 0.8, 0.3],
        "weights": {"recall": 1.0, "novelty": 1.0, "clicks": 1.0},  # by default
        "gate": 0,
    },
}
UNIT_OF_RECALL = 0.5


def objective(sample, case):
    value = sample["recall"]
    if "gate" in case:
        passed = case["constraints"][case["gate"]][0](sample)
        value = None if value is None or passed is None else value * passed
    return value


def components(group, case):
    """Objective and constrained values of each sample of a group: one list a component."""
    columns = [[objective(sample, case) for sample in group]]
    return columns + [[read(sample) for sample in group] for read, *_ in case["constraints"]]


def centred(values):
    """Each value minus the mean of the others; 0 where there is nothing to compare."""
    present = [v for v in values if v is not None]
    alone = len(present) < 2
    return [0.0 if v is None or alone else v - (sum(present) - v) / (len(present) - 1) for v in values]


def z(values):
    present = np.array([v for v in values if v is not None])
    if len(present) < 2 or (present == present[0]).all():
        return [0.0] * len(values)
    return [0.0 if v is None else (v - present.mean()) / (present.std(ddof=1) + 1e-4) for v in values]


def combined(columns, factors):
    """sum_j factor_j column_j, sample by sample; None counts as 0."""
    rows = zip(*columns, strict=True)
    return [sum(f * (v or 0.0) for f, v in zip(factors, row, strict=True)) for row in rows]


def pulls(case):
    dual = zip(case["multipliers"], case["constraints"], strict=True)
    return [1 / UNIT_OF_RECALL] + [lam * sign / unit for lam, (_, sign, unit, _) in dual]


def lagrangian(groups, case):
    shares = [
        np.mean([v is not None for g in groups for v in components(g, case)[j]])
        for j in range(len(pulls(case)))
    ]
    factors = [pull / share for pull, share in zip(pulls(case), shares, strict=True)]
    x = np.array([combined(map(centred, components(g, case)), factors) for g in groups])
    return x / np.sqrt((x**2).mean())


def scalarized_reward(groups, case):
    nothing = [all(v is None for v in s) for g in groups for s in zip(*components(g, case), strict=True)]
    sums = [v for g in groups for v in combined(components(g, case), pulls(case))]
    sums = [None if missing else v for v, missing in zip(sums, nothing, strict=True)]
    size = len(groups[0])
    return [z(sums[i : i + size]) for i in range(0, len(sums), size)]


def scalarized_advantage(groups, case):
    dual = zip(case["multipliers"], case["constraints"], strict=True)
    factors = [1.0] + [lam * sign for lam, (_, sign, *_) in dual]
    return [combined(map(z, components(g, case)), factors) for g in groups]


def weighted(group, case):
    return [[sample[name] for sample in group] for name in case["weights"]], list(case["weights"].values())


def has_any(sample):
    return any(sample[name] is not None for name in RANGES)


def weighted_sum(groups, case):
    found = []
    for group in groups:
        sums = combined(*weighted(group, case))
        found.append(z([v if has_any(sample) else None for v, sample in zip(sums, group, strict=True)]))
    return found


def gdpo(groups, case, consensus=0.0):
    parts = [
        np.array([np.multiply(z(c), w) for c, w in zip(*weighted(g, case), strict=True)]) for g in groups
    ]
    scored = [
        a
        for p, g in zip(parts, groups, strict=True)
        for a, s in zip(p.sum(axis=0), g, strict=True)
        if has_any(s)
    ]
    mean, std = np.mean(scored), np.std(scored, ddof=1)

    def advantage(part, sample):
        agrees = abs(part.sum()) >= consensus * np.abs(part).sum()
        return (part.sum() - mean) / (std + 1e-4) if agrees and has_any(sample) else 0.0

    return [
        [advantage(a, s) for a, s in zip(p.T, g, strict=True)] for p, g in zip(parts, groups, strict=True)
    ]


def gd2po(groups, case):
    found = gdpo(groups, case, consensus=0.2)
    dropped = sum(a != b for a, b in zip(np.ravel(found), np.ravel(gdpo(groups, case)), strict=True))
    assert 0 < dropped < 0.5 * np.size(found)
    return found


def dvao(groups, case):
    found = []
    for group in groups:
        columns, weights = weighted(group, case)
        present = [np.array([v for v in column if v is not None]) for column in columns]
        sigma = [values.std(ddof=1) if len(values) > 1 else 0.0 for values in present]
        spread = sum(abs(w) * s for w, s in zip(weights, sigma, strict=True)) + 1e-4
        terms = [
            [0.0 if v is None or s == 0 else w * (v - values.mean()) for v in column]
            for column, w, s, values in zip(columns, weights, sigma, present, strict=True)
        ]
        found.append([sum(sample) / spread for sample in zip(*terms, strict=True)])
    return found


def gate(groups, case):
    def kept(sample):
        for k, (read, sign, _, bound) in enumerate(case["constraints"]):
            asked = "(mean" in case["kinds"][k]
            value = read(sample)
            if value is not None and (sign * value < sign * bound if asked else value < 1):
                return 0.0
        return objective(sample, case)

    found = [[kept(sample) if objective(sample, case) is not None else None for sample in g] for g in groups]
    assert 0.1 < np.mean([v == 0.0 for row in found for v in row]) < 0.9
    return [z(row) for row in found]


def tchebycheff(groups, case):
    means = []
    for j in range(1 + len(case["constraints"])):
        present = [v for g in groups for v in components(g, case)[j] if v is not None]
        means.append(np.mean(present))
    signs = [1, *(sign for _, sign, *_ in case["constraints"])]
    units = [UNIT_OF_RECALL, *(unit for _, _, unit, _ in case["constraints"])]
    goals = [1.0, *(bound for *_, bound in case["constraints"])]
    f = [s * (m - g) / u for s, m, g, u in zip(signs, means, goals, units, strict=True)]
    raw = [0.0 if "gate" in case and j == 1 + case["gate"] else math.exp(-v / 0.1) for j, v in enumerate(f)]
    factors = [w / sum(raw) * s / u for w, s, u in zip(raw, signs, units, strict=True)]
    x = np.array([combined(map(centred, components(g, case)), factors) for g in groups])
    return x / np.sqrt((x**2).mean())


def single_reward(groups, case):
    return [z([objective(sample, case) for sample in group]) for group in groups]


REFERENCE = {
    "lagrangian": lagrangian,
    "log_lambda": lagrangian,  # its controller differs, not its advantages
    "scalarized_reward": scalarized_reward,
    "scalarized_advantage": scalarized_advantage,
    "weighted_sum": weighted_sum,
    "gdpo": gdpo,
    "gd2po": gd2po,
    "dvao": dvao,
    "gate": gate,
    "tchebycheff": tchebycheff,
    "single_reward": single_reward,
}


def odd_groups(missing=0.3):
    """Random rewards with missing ones; dead groups, a lone value, a sample without any, and no two alike."""
    rewards = random_rewards(groups=24, size=5, missing=missing, seed=3)
    rewards[0] = [0.3, 0.4, 7.0, 0.5]  # a dead group
    rewards[1, :, 0] = 0.1  # dead in one reward
    rewards[2, 1:, 1] = NAN  # at most one value of a reward
    rewards[3, 2] = NAN  # a sample without any
    rewards[4, :, 3] = NAN  # a group without one reward
    rewards[5] = NAN  # an empty group
    members = np.zeros((24, 5, 1))
    members[::3] = 1.0
    return rewards, members


def run(rule, name, rewards, members):
    case = CASES[name]
    segments = members if "segment" in name else members[..., :0]
    columns = torch.tensor(np.concatenate([rewards, segments], axis=-1))
    weights = case["weights"] if name == "means" else None
    problem = Problem.build("recall", case["texts"], RANGES)
    duals = Duals(problem, DualConfig(), 10)
    duals.update(columns.flatten(0, 1), columns.shape[1], 0)  # counts who has a value
    return compute(rule, columns, case["texts"], case["multipliers"], weights, duals.units)


@pytest.mark.parametrize("missing", [0.0, 0.35])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rule", REFERENCE)
def test_a_rule_equals_its_formula_computed_sample_by_sample(rule, name, missing):
    rewards, members = odd_groups(missing)
    found = run(rule, name, rewards, members)
    kinds = [text for text in CASES[name]["texts"] for _ in range(2 if " in [" in text else 1)]
    case = {**CASES[name], "kinds": kinds}
    groups = [
        [
            {
                **dict(zip(RANGES, (None if math.isnan(v) else v for v in row), strict=True)),
                "user=cold": member[0],
            }
            for row, member in zip(group, inside, strict=True)
        ]
        for group, inside in zip(rewards.tolist(), members.tolist(), strict=True)
    ]
    np.testing.assert_allclose(found.values.numpy(), REFERENCE[rule](groups, case), rtol=1e-9, atol=1e-12)
    assert found.values.abs().max() > 0.5


def test_the_reference_covers_every_rule_and_which_of_them_have_multipliers():
    assert set(REFERENCE) == set(RULES)
    assert {name for name, rule in RULES.items() if rule.uses_duals} == USES_DUALS
    assert {name for name, rule in RULES.items() if rule.per_tag} == {
        "lagrangian",
        "log_lambda",
        "tchebycheff",
    }
    assert {name for name, rule in RULES.items() if rule.controller == "log"} == {"log_lambda"}


@pytest.mark.parametrize("rule", RULES)
def test_multipliers_enter_where_a_rule_says_so(rule):
    rewards, constraint = random_rewards(), ["novelty >= 0.3 (mean)"]
    low, high = (compute(rule, rewards, constraint, [lam]).values for lam in (0.1, 9.0))
    assert torch.equal(low, high) == (rule not in USES_DUALS)


@pytest.mark.parametrize("rule", RULES)
def test_an_infinite_reward_is_a_missing_one(rule):
    rewards, members = odd_groups()
    infinite = np.where(np.isnan(rewards), np.where(np.arange(5)[:, None] % 2, math.inf, -math.inf), rewards)
    found = [run(rule, "gate and segment", given, members).values for given in (rewards, infinite)]
    assert torch.equal(*found)


@pytest.mark.parametrize("rule", RULES)
def test_a_sample_without_any_reward_gets_nothing_and_changes_nothing_for_the_others(rule):
    rewards = random_rewards(groups=3, size=4)
    rewards[1, 2] = NAN
    texts, lam = ["novelty >= 0.3 (mean)", "length in [6, 11] (mean)"], [0.5, 1.0, 0.3]
    found = compute(rule, rewards, texts, lam)
    assert found.values[1, 2] == 0
    # The group is like one of the three others alone: only what is taken over the batch may differ.
    alone = compute(rule, np.delete(rewards, 2, axis=1)[1:2], texts, lam)
    others = found.values[1, [0, 1, 3]] * found.divisor
    if rule not in ("gdpo", "gd2po", "tchebycheff"):
        torch.testing.assert_close(others, alone.values[0] * alone.divisor)


@pytest.mark.parametrize("rule", RULES)
def test_a_batch_that_nobody_could_score_has_zero_advantages(rule):
    found = compute(rule, np.full((2, 4, 4), NAN), ["novelty >= 0.3 (mean)"], [1.0])
    assert found.values.tolist() == [[0.0] * 4] * 2
    assert math.isfinite(found.kl_scale)


@pytest.mark.parametrize("rule", RULES)
def test_a_batch_without_any_variation_has_zero_advantages(rule):
    found = compute(
        rule, np.full((3, 4, 4), 0.1), ["novelty >= 0.3 (mean)", "clicks <= 0.6 for 0.5 (rate)"], [1.0, 2.0]
    )
    assert found.values.tolist() == [[0.0] * 4] * 3
    assert found.divisor == (1e-3 if RULES[rule].per_tag else 1.0)


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"gdpo", "gd2po"}))
def test_a_dead_group_gets_nothing(rule):
    """TRL's normalize_then_sum is centred over the batch, which moves dead groups too."""
    rewards = random_rewards()
    rewards[2] = [0.1, 0.2, 9.0, 0.7]
    found = compute(rule, rewards, ["novelty >= 0.3 (mean)"], [1.0])
    assert found.values[2].tolist() == [0.0] * 4
    assert (found.values[[0, 1, 3, 4]].abs().amax(dim=1) > 0).all()


@pytest.mark.parametrize("rule", sorted(Z_SCORED))
def test_z_scored_rules_give_every_group_unit_spread(rule):
    values = compute(rule, random_rewards(), ["novelty >= 0.3 (mean)"], [1.0]).values
    assert values.std(dim=1).tolist() == pytest.approx([1.0] * 5, abs=0.01)


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
    assert x[1] == pytest.approx([-0.8, 0.8])
    scored = compute("scalarized_advantage", rewards, ["novelty >= 0.3 (mean)"], [1.0])
    assert scored.values.abs().max() < 1e-3  # per-group z-scores call this trade even as well


def test_a_constraint_of_a_segment_moves_the_prompts_of_the_segment_only():
    rewards, members = random_rewards(groups=6), np.zeros((6, 4, 1))
    members[[1, 4]] = 1.0
    columns = np.concatenate([rewards, members], axis=-1)
    text, share = ["novelty >= 0.3 where user=cold (mean)"], 2 / 6
    units = Units(
        0.5, torch.tensor([0.5], dtype=torch.float64), torch.tensor([1.0, share], dtype=torch.float64)
    )
    found = compute("lagrangian", columns, text, [0.7], units=units)
    free = compute("lagrangian", columns, text, [0.0], units=units)
    change = (found.values * found.divisor - free.values * free.divisor).numpy()
    assert np.abs(change[[0, 2, 3, 5]]).max() < 1e-12
    novelty = rewards[[1, 4], :, 1]
    own = 4 / 3 * (novelty - novelty.mean(axis=1, keepdims=True))
    np.testing.assert_allclose(change[[1, 4]], 0.7 * own / 0.5 / share, rtol=1e-9)


def test_units_come_with_the_batch():
    rewards = random_rewards()
    units = Units(2.0, torch.tensor([0.25], dtype=torch.float64))
    found = compute("lagrangian", rewards, ["novelty >= 0.3 (mean)"], [0.5], units=units)
    total = rewards[..., 0] / 2.0 + 0.5 * rewards[..., 1] / 0.25
    x = 4 / 3 * (total - total.mean(axis=1, keepdims=True))
    np.testing.assert_allclose(found.values.numpy() * found.divisor, x, rtol=1e-9)
    assert found.kl_scale == pytest.approx(1 / (2.0 * found.divisor))


def test_values_come_back_in_the_dtype_of_the_rewards():
    for rule in RULES:
        found = compute(rule, torch.rand(2, 4, 4), weights={"recall": 1.0})
        assert (found.values.dtype, tuple(found.values.shape)) == (torch.float32, (2, 4))


# --- credit per tag ---


@pytest.mark.parametrize("rule", ["lagrangian", "log_lambda", "tchebycheff"])
def test_credit_per_tag_takes_off_what_the_tags_before_gave(rule):
    """Position by position, with the same pulls as for whole answers; D is the rms over tokens."""
    generator = np.random.default_rng(1)
    rewards, case = random_rewards(groups=3, missing=0.2, seed=5), CASES["band and rate"]
    running = generator.uniform(0, 1, (3, 4, 5, 4)) * [1, 1, 20, 1]
    tokens = generator.integers(0, 3, (3, 4, 5)).astype(float)
    tags = {"running": torch.tensor(running), "tokens": torch.tensor(tokens)}
    found = compute(rule, rewards, case["texts"], case["multipliers"], **tags)

    whole = compute(rule, rewards, case["texts"], case["multipliers"])
    columns = np.stack([rewards[..., 0], rewards[..., 2], rewards[..., 2], rewards[..., 1] <= 0.8], axis=-1)
    columns[..., 3][np.isnan(rewards[..., 1])] = NAN
    before = np.stack([running[..., 0], running[..., 2], running[..., 2], np.zeros((3, 4, 5))], axis=-1)

    def centre(values):  # [group, sample, component]
        return np.array([[centred([None if math.isnan(v) else v for v in c]) for c in g.T] for g in values])

    # The pulls of whole answers, by least squares: they are four numbers, and the rule is linear.
    flat = centre(columns).transpose(0, 2, 1).reshape(12, 4)
    factors = np.linalg.lstsq(flat, (whole.values * whole.divisor).numpy().ravel(), rcond=None)[0]
    x = np.stack(
        [np.einsum("gcs,c->gs", centre(columns - before[:, :, p]), factors) for p in range(5)], axis=-1
    )
    divisor = np.sqrt((x**2 * tokens).sum() / tokens.sum())
    assert found.divisor == pytest.approx(divisor)
    np.testing.assert_allclose(found.values.numpy(), x / divisor, rtol=1e-8, atol=1e-10)


def test_without_anything_credited_a_tag_gets_what_its_answer_gets():
    rewards = random_rewards()
    running, tokens = torch.zeros(5, 4, 3, 4), torch.ones(5, 4, 3)
    found = compute("lagrangian", rewards, ["novelty >= 0.3 (mean)"], [0.5], running=running, tokens=tokens)
    whole = compute("lagrangian", rewards, ["novelty >= 0.3 (mean)"], [0.5])
    torch.testing.assert_close(found.values, whole.values[..., None].expand(-1, -1, 3))
    assert found.divisor == pytest.approx(whole.divisor)


# --- bad input ---


def test_bad_batches_and_rules_are_refused():
    with pytest.raises(ValueError, match="num_generations=1"):
        compute("lagrangian", random_rewards(size=1))
    with pytest.raises(ValueError, match=r"shape \(4, 4\)"):
        compute("lagrangian", random_rewards()[0])
    with pytest.raises(ValueError, match="one for each of 1 constraints"):
        compute("lagrangian", random_rewards(), ["novelty >= 0.3 (mean)"], [1.0, 2.0])
    with pytest.raises(ValueError, match="did you mean 'lagrangian'"):
        find_rule("lagrange")
    with pytest.raises(ValueError, match=r"columns \('recall', .*'clicks', 'user=cold'\)"):
        compute("lagrangian", random_rewards(), ["novelty >= 0.3 where user=cold (mean)"], [1.0])


def test_a_batch_without_groups_is_refused():
    with pytest.raises(ValueError, match=r"shape \(0, 4, 4\)"):
        compute("lagrangian", random_rewards(groups=0))


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"lagrangian", "log_lambda", "tchebycheff"}))
def test_a_rule_that_cannot_credit_tags_says_which_can(rule):
    tags = {"running": torch.zeros(5, 4, 3, 4), "tokens": torch.ones(5, 4, 3)}
    with pytest.raises(ValueError, match=f"{rule!r} cannot credit tags.*lagrangian, log_lambda, tchebycheff"):
        compute(rule, random_rewards(), **tags)


def test_the_rule_gate_is_refused_when_violating_would_beat_complying():
    """As the kind gate is: 0 for a violation is more than a negative objective."""
    with pytest.raises(ValueError, match=r"gate.*negative"):
        compute(
            "gate",
            random_rewards(),
            ["novelty >= 0.3 (mean)"],
            [0.0],
            ranges=RANGES | {"recall": (-1.0, 1.0)},
        )


@pytest.mark.parametrize("level", [0.1, 0.3, 0.55, 0.9])
@pytest.mark.parametrize("sense", [">=", "<="])
def test_the_rule_gate_lets_a_float32_reward_on_its_bound_pass(level, sense):
    rewards = torch.full((1, 4, 4), level, dtype=torch.float32)
    rewards[0, :, 0] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    free = compute("single_reward", rewards).values
    assert torch.equal(compute("gate", rewards, [f"novelty {sense} {level} (mean)"], [0.0]).values, free)
    rewards[0, 3, 1] += 0.01 if sense == "<=" else -0.01
    assert not torch.equal(compute("gate", rewards, [f"novelty {sense} {level} (mean)"], [0.0]).values, free)


def test_a_constant_reward_stops_nothing():
    """Its constraint is violated for good: the multiplier rises, the advantages follow the other rewards."""
    rewards = random_rewards()
    rewards[..., 1] = 0.2
    problem = Problem.build("recall", ["novelty >= 0.3 (mean)"], RANGES)
    duals = Duals(problem, DualConfig(), 100)
    columns = torch.tensor(rewards)
    for t in range(3):
        duals.update(columns.flatten(0, 1), 4, generation=t)
    assert duals.multipliers.tolist() == pytest.approx([0.2 + 3 * 0.05 * 0.2])  # e = 0.1 / 0.5
    found = RULES["lagrangian"](AdvantageBatch(columns, problem, duals.multipliers, duals.units))
    torch.testing.assert_close(found.values, compute("lagrangian", rewards).values)
    constant = torch.full_like(columns, 0.2)
    found = RULES["lagrangian"](AdvantageBatch(constant, problem, duals.multipliers, duals.units))
    assert (found.values.abs().max().item(), found.divisor, found.kl_scale) == (0.0, 1e-3, 2000.0)


# --- with a KL penalty ---


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


SEEN = {"r": 0, "g": 1, "h": 2, "v": 3}


@pytest.mark.parametrize("nothing", [math.nan, math.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("missing", ["r", "g", "rg", "v", "rghv"])
@pytest.mark.parametrize("name", RULES)
def test_a_reward_that_a_batch_has_no_score_of_holds_its_multiplier_and_gives_finite_advantages(
    name, missing, nothing
):
    constraints = ["g >= 0.5 (mean)", "h <= 0.5 for 0.5 (rate)", "v >= 1 (gate)", "g >= 0.2 where s=x (mean)"]
    problem = Problem.build("r", constraints, dict.fromkeys(SEEN, (0.0, 1.0)))
    duals = Duals(problem, DualConfig(), 10, RULES[name].controller)
    generator = torch.Generator().manual_seed(0)
    for generation in range(4):
        rewards = torch.rand(16, 5, generator=generator)
        rewards[:, 3:] = rewards[:, 3:].round()
        if generation % 2:
            rewards[:, [SEEN[reward] for reward in missing]] = nothing
        before = duals.multipliers
        duals.update(rewards, 4, generation)
        found = RULES[name](
            AdvantageBatch(rewards.unflatten(0, (-1, 4)), problem, duals.multipliers, duals.units)
        )
        assert found.values.isfinite().all()
        assert math.isfinite(found.divisor + found.kl_scale)
        for k, constraint in enumerate(problem.constraints):
            if generation % 2 and constraint.reward in missing:
                assert duals.multipliers[k] == before[k]
        if generation % 2 and missing == "rghv":
            assert not found.values.any()

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch

from recrl.benchmarks.conflict import problems, tabular
from recrl.benchmarks.conflict.oracles import attainable, find_oracle
from recrl.benchmarks.conflict.problems import suite
from recrl.benchmarks.conflict.scores import score_policy
from recrl.benchmarks.conflict.tabular import Run, TabularPolicy, train
from recrl.rl.optimizer.advantages import Advantages
from recrl.rl.optimizer.problem import Problem
from recrl.rl.optimizer.rules import Rule, find_rule

SUITE = suite()
SOLVABLE = [name for name, known in SUITE.items() if known.oracle is not None]
LAGRANGIAN = find_rule("lagrangian")


def small(**changes):
    """Two contexts, two arms; r and g are at odds in both."""
    table = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.3], [0.4, 0.6]]], dtype=torch.float64)
    text = f"g {changes.get('sense', '>=')} {changes.get('bound', 0.5)} (mean)"
    return Problem.build("r", [text], {"r": (0.0, 1.0), "g": (0.0, 1.0)}), table


def brute_force(table, bound, grid=2001):
    """Best E[r] with E[g] >= bound over a grid of both contexts' probabilities of the first arm."""
    p = np.linspace(0, 1, grid)
    r, g = np.moveaxis(table.numpy(), 2, 0)
    mixed = [[p * column[x, 0] + (1 - p) * column[x, 1] for x in range(2)] for column in (r, g)]
    total_r, total_g = [(first[:, None] + second[None, :]) / 2 for first, second in mixed]
    return total_r[total_g >= bound - 1e-9].max()


# oracles


@pytest.mark.parametrize(
    ("bound", "value", "price"), [(0.3, 0.455, 0.3), (0.6, 0.32, 0.6), (0.9, 0.095, 0.9)]
)
def test_knapsack_by_hand(bound, value, price):
    v = (np.arange(20) + 0.5) / 20
    kept = round(20 * bound)  # g is taken where v is lowest
    oracle = SUITE[f"T0 b={bound}"].oracle
    assert v[kept:].sum() / 20 == pytest.approx(value)
    assert oracle.objective == pytest.approx(value)
    assert oracle.prices.tolist() == pytest.approx([price])
    assert oracle.intervals[0].tolist() == pytest.approx([v[kept - 1], v[kept]])


@pytest.mark.parametrize("bound", [0.3, 0.45, 0.5, 0.62])
def test_linear_programme_agrees_with_brute_force(bound):
    problem, table = small(bound=bound)
    oracle = find_oracle(problem, table)
    assert oracle.objective == pytest.approx(brute_force(table, bound), abs=1e-3)
    slope = (brute_force(table, bound - 0.02) - brute_force(table, bound + 0.02)) / 0.04
    assert oracle.prices[0] == pytest.approx(slope, abs=0.03)
    assert oracle.policy.sum(axis=1) == pytest.approx([1, 1])


def test_an_upper_bound_has_a_positive_price_too():
    problem, table = small(sense="<=", bound=0.5)
    swapped = Problem.build("g", ["r >= 0.5 (mean)"], problem.ranges)
    for one in (problem, Problem.build("g", ["r <= 0.5 (mean)"], problem.ranges)):
        assert find_oracle(one, table).prices[0] >= 0
    mirrored = find_oracle(swapped, table)
    assert mirrored.prices[0] == pytest.approx(0.7 / 0.7)  # one context trades .7 of r for .7 of g
    upper = find_oracle(Problem.build("r", ["r <= 0.5 (mean)"], problem.ranges), table)
    assert (upper.objective, upper.prices[0]) == pytest.approx((0.5, 1.0))


def test_a_rate_is_solved_on_its_indicator():
    _, table = small()
    problem = Problem.build("r", ["g >= 0.55 for 0.75 (rate)"], {"r": (0.0, 1.0), "g": (0.0, 1.0)})
    # The second arm complies in both contexts; it costs .7 in the first and .1 in the second.
    assert find_oracle(problem, table).objective == pytest.approx((0.9 * 0.5 + 0.2 * 0.5 + 0.4) / 2)


def test_no_feasible_policy_has_no_optimum():
    problem, table = small(bound=0.71)  # the second arms together give .7
    assert find_oracle(problem, table) is None
    reference = torch.full((2, 2), math.log(0.5), dtype=torch.float64)
    assert find_oracle(problem, table, 0.1, reference) is None
    assert SUITE["T5 infeasible"].oracle is None


def test_tightest_bound_has_no_upper_price():
    problem, table = small(bound=0.7)
    assert find_oracle(problem, table).intervals[0, 1] == math.inf


def test_kl_term_needs_its_reference():
    problem, table = small()
    with pytest.raises(ValueError, match=r"beta=0\.1.*give reference"):
        find_oracle(problem, table, 0.1)


@pytest.mark.parametrize("bound", [0.4, 0.55, 0.7])
def test_convex_dual_in_closed_form(bound):
    """One context, two arms, g the second arm: the constraint fixes the policy, so both are known."""
    problem = Problem.build("r", [f"g >= {bound} (mean)"], {"r": (0.0, 1.0), "g": (0.0, 1.0)})
    table = torch.tensor([[[0.8, 0.0], [0.3, 1.0]]], dtype=torch.float64)
    reference, beta = torch.tensor([[0.7, 0.3]], dtype=torch.float64), 0.5

    def value(p):
        kl = p * math.log(p / 0.3) + (1 - p) * math.log((1 - p) / 0.7)
        return 0.3 * p + 0.8 * (1 - p) - beta * kl

    oracle = find_oracle(problem, table, beta, reference.log())
    assert oracle.objective == pytest.approx(value(bound), abs=1e-8)
    assert oracle.policy[0] == pytest.approx([1 - bound, bound], abs=1e-6)
    assert oracle.prices[0] == pytest.approx((value(bound - 1e-5) - value(bound + 1e-5)) / 2e-5, rel=1e-4)


@pytest.mark.parametrize("name", ["T1 two constraints", "T1 four constraints", "T2 two prices", "T3"])
def test_prices_are_slopes_of_the_value(name):
    known = SUITE[name]
    for k, constraint in enumerate(known.problem.constraints):
        values = []
        for move in (-1e-4, 1e-4):
            text = f"{constraint.reward} {constraint.sense} {constraint.bound + move} (mean)"
            others = [c for j, c in enumerate(known.problem.constraints) if j != k]
            problem = Problem.build(known.problem.objective, [*others, text], known.problem.ranges)
            values.append(find_oracle(problem, known.table, known.beta, known.reference).objective)
        slope = constraint.sign * (values[0] - values[1]) / 2e-4
        assert known.oracle.prices[k] == pytest.approx(slope, abs=0.02)


def test_bounds_reach_from_free_to_the_most_there_is():
    table = SUITE["T1 two constraints"].table
    ranges = dict.fromkeys(("r", "g1", "g2"), (0.0, 1.0))

    def with_share(share):
        lowest = Problem.build("r", ["g1 >= 0 (mean)", "g2 >= 0 (mean)"], ranges)
        bounds = attainable(lowest, table, share)
        texts = [f"g{k} >= {bound:.9f} (mean)" for k, bound in enumerate(bounds, start=1)]
        return find_oracle(Problem.build("r", texts, ranges), table)

    unconstrained = table[..., 0].max(dim=1).values.mean().item()
    assert with_share(0.0).objective == pytest.approx(unconstrained)
    assert with_share(0.3).objective < unconstrained
    assert with_share(0.9999) is not None
    assert with_share(1.0001) is None


# problems


def test_suite_has_every_family_and_each_rule_gets_weights():
    assert list(dict.fromkeys(known.family for known in SUITE.values())) == ["T0", "T1", "T2", "T3", "T5"]
    for known in SUITE.values():
        wanted = {name: weight for name, weight in known.problem.directions.items() if weight}
        assert known.problem.weights == wanted  # equal weights, none for a band
        low, high = known.table.amin(dim=(0, 1)), known.table.amax(dim=(0, 1))
        for column, (least, most) in enumerate(known.problem.ranges.values()):
            assert least <= low[column] <= high[column] <= most + 1e-12


def test_variants_of_the_bandit_vary_what_they_say():
    def correlations(name):
        d = SUITE[name].table - SUITE[name].table.mean(dim=1, keepdim=True)
        d = d / d.square().sum(dim=1, keepdim=True).sqrt()
        return (d[..., :1] * d[..., 1:]).sum(dim=1).mean().item()

    assert correlations("T1 base") == pytest.approx(-0.5, abs=0.1)
    assert correlations("T1 corr -0.9") == pytest.approx(-0.9, abs=0.05)
    assert correlations("T1 corr 0.5") == pytest.approx(0.5, abs=0.1)
    spreads = {name: SUITE[name].table[..., 0].std(dim=1) for name in ("T1 base", "T1 equal spread")}
    assert spreads["T1 base"].max() > 5 * spreads["T1 base"].min()
    assert spreads["T1 equal spread"].max() < 3 * spreads["T1 equal spread"].min()
    base, scaled, tight = (SUITE[name].oracle for name in ("T1 base", "T1 x100", "T1 98%"))
    assert scaled.prices.tolist() == pytest.approx((100 * base.prices).tolist())
    assert tight.prices[0] > 3 * base.prices[0]


def test_recommender_has_all_sequences_and_rewards_by_hand():
    known, answers = SUITE["T3"], problems.sequences()
    assert len(answers) == len(set(answers)) == 341 == known.table.shape[1]
    single = {token: known.table[:, answers.index((token,))] for token in range(4)}
    row = known.table[:, answers.index((2, 2, 0))]
    expected = single[2][:, 0] * 1.8 + single[0][:, 0] * 0.64
    torch.testing.assert_close(row[:, 0], expected)
    torch.testing.assert_close(row[:, 1], torch.full((6,), 2 / 3, dtype=torch.float64))
    torch.testing.assert_close(row[:, 2], (2 * single[2][:, 2] + single[0][:, 2]) / 3)
    assert known.table[:, 0].abs().sum() == 0  # the empty answer
    assert known.oracle.prices[[0, 1, 3]].min() > 0.1  # all but the lower end of the band cost something


# policies


def random_policy(known, seed, spread=1.5):
    policy = TabularPolicy(known)
    generator = torch.Generator().manual_seed(seed)
    policy.logits += spread * torch.randn(policy.logits.shape, generator=generator, dtype=torch.float64)
    return policy


def test_sequence_probabilities_are_products_of_token_probabilities():
    known, answers = SUITE["T3"], problems.sequences()
    policy = random_policy(known, 0)
    prefixes = [answer for answer in answers if len(answer) < 4]
    found = policy.log_probabilities().exp()
    torch.testing.assert_close(found.sum(dim=1), torch.ones(6, dtype=torch.float64))
    for user, answer in itertools.product((0, 5), ((), (3,), (1, 0), (2, 2, 1), (0, 3, 1, 2))):
        spelled = [*answer, 4][:4]  # 4 ends the answer; a fifth choice does not exist
        expected = 1.0
        for position, choice in enumerate(spelled):
            logits = policy.logits[user, prefixes.index(tuple(spelled[:position]))]
            expected *= (logits[choice].exp() / logits.exp().sum()).item()
        assert found[user, answers.index(answer)].item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["T1 four constraints", "T2 two prices", "T3"])
def test_exact_evaluation_agrees_with_sampling(name):
    known = SUITE[name]
    run = Run(known, LAGRANGIAN, seed=0)
    run.policy = random_policy(known, 1)
    objective, values = run.evaluate()
    log_pi = run.policy.log_probabilities()
    picked = torch.multinomial(log_pi.exp(), 20_000, True, generator=torch.Generator().manual_seed(2))
    samples = known.table.gather(1, picked[..., None].expand(-1, -1, known.table.shape[2]))
    if known.reference is not None:
        samples[..., 0] -= known.beta * (log_pi - known.reference).gather(1, picked)
    columns = [0, *(known.problem.names.index(c.reward) for c in known.problem.constraints)]
    error = (samples.var(dim=1) / samples.shape[1]).mean(dim=0).div(len(samples)).sqrt()[columns]
    exact = torch.cat([torch.tensor([objective], dtype=torch.float64), values])
    assert ((samples.mean(dim=(0, 1))[columns] - exact).abs() < 4 * error).all()


@pytest.mark.parametrize("name", ["T1 base", "T3"])
def test_gradient_is_that_of_automatic_differentiation(name):
    policy = random_policy(SUITE[name], 3)
    weights = torch.randn(SUITE[name].table.shape[:2], dtype=torch.float64)
    policy.logits.requires_grad_()
    (weights * policy.log_probabilities()).sum().backward()
    torch.testing.assert_close(policy.gradient(weights).detach(), policy.logits.grad)


def test_kl_term_is_descended_by_its_exact_gradient():
    known = SUITE["T2 two prices"]
    nothing = torch.zeros(16, known.group_size, dtype=torch.float64)
    silent = Rule("silent", True, "pi", False, lambda batch: Advantages(nothing, kl_scale=3.0))
    run = Run(known, silent, seed=0)
    run.policy = random_policy(known, 4)
    logits = run.policy.logits.clone().requires_grad_()
    log_pi = logits[:, 0].log_softmax(dim=1)
    (log_pi.exp() * (log_pi - known.reference)).sum().backward()
    before = run.policy.logits.clone()
    run.step()
    torch.testing.assert_close(run.policy.logits, before - known.rate * known.beta * 3.0 * logits.grad)


# scores


def slacks_of(known, pi):
    """Objective and slacks of a policy, by plain loops over contexts and arms."""
    n = len(pi)
    columns = np.einsum("xa,xar->r", pi, known.table.numpy()) / n
    names, objective = list(known.problem.names), columns[0]
    if known.reference is not None:
        objective -= known.beta * (pi * (np.log(pi) - known.reference.numpy())).sum() / n
    slacks = [c.sign * (columns[names.index(c.reward)] - c.bound) for c in known.problem.constraints]
    return objective, np.array(slacks)


@pytest.mark.parametrize("name", SOLVABLE)
def test_certificate_is_zero_at_the_optimum_and_positive_elsewhere(name):
    known = SUITE[name]
    best = score_policy(known.problem, known.oracle, *slacks_of(known, known.oracle.policy))
    scale = known.oracle.objective
    assert best.certificate / scale == pytest.approx(0, abs=1e-6)
    assert best.complementary / scale == pytest.approx(0, abs=1e-5)
    assert best.violation == pytest.approx(0, abs=1e-6)
    assert best.score == pytest.approx(1, abs=1e-5)
    assert best.feasible
    for seed in range(20):
        pi = random_policy(known, seed, spread=0.3 + seed).log_probabilities().exp().numpy().clip(1e-300)
        found = score_policy(known.problem, known.oracle, *slacks_of(known, pi))
        assert found.certificate > 0
        assert 0 <= found.score < 1


@pytest.mark.parametrize("name", SOLVABLE)
def test_violating_gains_nothing(name):
    """The best policies under looser bounds earn more, and score less the more they violate."""
    known = SUITE[name]
    if not known.oracle.prices.any():
        return
    scores, earned = [], []
    for looser in (0.0, 0.01, 0.03, 0.1):
        constraints = [
            f"{c.reward} {c.sense} {c.bound - c.sign * looser} (mean)" for c in known.problem.constraints
        ]
        problem = Problem.build(known.problem.objective, constraints, known.problem.ranges)
        policy = find_oracle(problem, known.table, known.beta, known.reference).policy
        objective, slacks = slacks_of(known, policy)
        earned.append(objective)
        scores.append(score_policy(known.problem, known.oracle, objective, slacks).score)
    assert earned == sorted(earned)
    assert earned[-1] > earned[0]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < 0.99 * scores[0]


def test_score_by_hand():
    problem = Problem.build("r", ["g >= 0.6 (mean, unit=0.25)"], {"r": (0.0, 1.0), "g": (0.0, 1.0)})
    oracle = SUITE["T0 b=0.6"].oracle  # J* = .32, price .6, and u_R/u_g = 2
    found = score_policy(problem, oracle, 0.34, np.array([-0.02]))
    assert (found.violation, found.feasible) == (0.02, False)
    assert found.certificate == pytest.approx(0.32 - (0.34 - 0.6 * 0.02))
    assert found.complementary == pytest.approx(0.6 * 0.02)
    assert found.score == pytest.approx((0.34 - (0.6 + 2.0) * 0.02) / 0.32)
    assert score_policy(problem, oracle, 0.4, np.array([-0.5])).score == 0
    assert score_policy(problem, None, 0.34, np.array([-0.005])).feasible
    assert score_policy(problem, None, 0.34, np.array([0.1])).score is None


# runs


def batches(known, rule, steps=1, seed=0):
    """Rewards that a rule got to see, `[step, context, sample, reward]`."""
    seen = []

    def spy(batch):
        seen.append(batch.rewards)
        return rule(batch)

    run = Run(known, Rule(rule.name, rule.uses_duals, rule.controller, False, spy), seed)
    for _ in range(steps):
        run.step()
    return torch.stack(seen)


def test_rules_of_one_seed_meet_the_same_random_numbers():
    known = SUITE["T5 unequal ranks"]
    first = batches(known, LAGRANGIAN)
    torch.testing.assert_close(first, batches(known, find_rule("gdpo")), equal_nan=True)
    assert not torch.equal(first.nan_to_num(), batches(known, LAGRANGIAN, seed=1).nan_to_num())


def test_missing_rewards_are_as_many_as_declared():
    assert batches(SUITE["T5 missing"], LAGRANGIAN, 40).isnan().double().mean() == pytest.approx(
        0.05, abs=0.01
    )
    shares = batches(SUITE["T5 unequal ranks"], LAGRANGIAN, 40).isfinite().double().mean(dim=(2, 3))
    shares = shares.sort(dim=1).values
    assert shares[:, :8].mean() == pytest.approx(0.125, abs=0.02)
    assert shares[:, 8:].mean() == pytest.approx(0.875, abs=0.02)


@pytest.mark.parametrize("name", ["T3", "T5 infeasible"])
@pytest.mark.parametrize("rule", ["lagrangian", "gdpo"])
def test_record_is_json_with_finite_numbers(name, rule):
    known = SUITE[name]
    known = dataclasses.replace(known, steps=70)
    record = train(known, rule, seed=0)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    constraints = [c.name for c in known.problem.constraints]
    for field in ("values", "slacks", "multipliers", "prices", "statuses"):
        assert list(record[field]) == constraints
    trace = record["trace"]
    assert (len(trace["step"]), trace["step"][0], trace["step"][-1]) == (tabular.TRACE_POINTS, 0, 69)
    assert len(trace["objective"]) == tabular.TRACE_POINTS
    assert trace["objective"][-1] == record["objective"]
    for k, constraint in enumerate(known.problem.constraints):
        slack = record["slacks"][constraint.name]
        assert slack == pytest.approx(
            constraint.sign * (record["values"][constraint.name] - constraint.bound)
        )
        assert trace["slacks"][constraint.name][-1] == slack
        prices = trace["prices"][constraint.name]
        assert (prices is None) == (rule == "gdpo") == (record["prices"][constraint.name] is None), k
    assert (record["score"] is None) == (name == "T5 infeasible") == (record["oracle"]["objective"] is None)
    assert 0 < record["rule_seconds"] < record["seconds"]


def test_same_seed_gives_the_same_record():
    known = SUITE["T5 inactive"]
    one, other = (train(known, "gate", seed=3) for _ in range(2))
    for record in (one, other):
        record.pop("seconds")
        record.pop("rule_seconds")
    assert one == other

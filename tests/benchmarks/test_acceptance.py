"""What the constrained optimiser promises, on problems whose optimum is known; a minute on one core in all.

Also promised and tested elsewhere: the trainer steps the multipliers in training only
(`rl/test_trl_seams.py`), two processes train as one (`rl/test_distributed.py`).
"""

import dataclasses
import functools
import json

import pytest
import torch

from recrl.benchmarks.conflict.problems import bandit, knapsack, suite
from recrl.benchmarks.conflict.tabular import Run, train
from recrl.rl.optimizer.duals import Duals
from recrl.rl.optimizer.problem import Problem
from recrl.rl.optimizer.rules import find_rule
from recrl.rl.optimizer.settings import DualConfig

LAGRANGIAN = find_rule("lagrangian")
SUITE = suite()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As the benchmark's workers: on tables this small, threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def trained(name, rule="lagrangian", seed=0):
    return train(SUITE[name], rule, seed)


def price_errors(record):
    """Relative distance of each learned price from the true one."""
    true = record["oracle"]["prices"]
    return [abs(record["prices"][name] / true[name] - 1) for name in true]


@pytest.mark.parametrize("bound", [0.3, 0.6, 0.9])
def test_knapsack_reaches_the_linear_programme_and_its_price(bound):
    record = trained(f"T0 b={bound}")
    assert record["objective"] >= 0.99 * record["oracle"]["objective"]
    assert record["violation"] < 0.01
    ((low, high),), (price,) = record["oracle"]["intervals"].values(), record["prices"].values()
    assert 0.95 * low <= price <= 1.05 * high
    assert list(record["statuses"].values()) == ["active"]


@pytest.mark.parametrize("name", ["T1 base", "T1 equal spread", "T1 corr -0.9", "T1 four constraints"])
def test_bandits_reach_the_linear_programme(name):
    record = trained(name)
    assert record["feasible"]
    assert record["score"] >= 0.95
    assert record["certificate"] <= 0.02 * record["oracle"]["objective"]


def test_reward_times_100_with_its_unit_takes_the_same_path():
    plain, scaled = (Run(knapsack(0.6, scale), LAGRANGIAN, seed=0) for scale in (1.0, 100.0))
    for _ in range(300):
        plain.step()
        scaled.step()
        torch.testing.assert_close(scaled.duals.multipliers, plain.duals.multipliers, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(scaled.policy.logits, plain.policy.logits, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(scaled.duals.prices, 100 * plain.duals.prices, rtol=1e-6, atol=1e-9)
    assert scaled.evaluate()[0] == pytest.approx(100 * plain.evaluate()[0], rel=1e-6)


@pytest.mark.parametrize("name", ["T2 one price", "T2 two prices"])
def test_regularised_bandit_learns_its_unique_prices(name):
    record = trained(name)
    assert max(price_errors(record)) < 0.03
    assert record["objective"] == pytest.approx(record["oracle"]["objective"], rel=0.02)
    assert record["violation"] < 0.01


@pytest.mark.parametrize("name", ["T2 one price", "T2 two prices"])
def test_without_the_rescaled_kl_coefficient_the_prices_are_wrong(name):
    """Mutation: beta divided by u_R but not by D. It shows that the test above can fail."""
    units = SUITE[name].problem.declared_units()

    def without_rescale(batch):
        return dataclasses.replace(LAGRANGIAN(batch), kl_scale=1 / units.objective)

    record = train(SUITE[name], dataclasses.replace(LAGRANGIAN, function=without_rescale), seed=0)
    assert max(price_errors(record)) > 0.1
    assert record["feasible"]  # the constraint is met all the same: it is the objective that is another one


@pytest.mark.parametrize("seed", [0, 1])
def test_recommender_reaches_the_linear_programme(seed):
    record = trained("T3", seed=seed)
    assert record["objective"] >= 0.98 * record["oracle"]["objective"]
    assert min(record["slacks"].values()) > -0.01


def test_inactive_constraint_ends_at_exactly_zero():
    record = trained("T5 inactive")
    assert max(record["trace"]["prices"]["g <= 0.45"]) > 0.05  # the first policies broke it
    assert record["multipliers"] == {"g <= 0.45": 0.0}
    assert record["statuses"] == {"g <= 0.45": "slack"}
    assert record["objective"] >= 0.99 * record["oracle"]["objective"]


@pytest.mark.parametrize("seed", [0, 1])
def test_infeasible_is_suspected(seed):
    record = trained("T5 infeasible", seed=seed)
    assert "infeasible_suspected" in record["statuses"].values()
    assert not record["feasible"]


@pytest.mark.parametrize("known", [bandit("98%", share=0.98), knapsack(0.98)], ids=["bandit", "knapsack"])
def test_98_percent_of_the_attainable_is_never_suspected(known):
    run, seen = Run(known, LAGRANGIAN, seed=0), set()
    for _ in range(known.steps):
        run.step()
        seen.add(run.duals.status(0))
    assert "violated" in seen
    assert "infeasible_suspected" not in seen
    (slack,) = run.evaluate()[1] - known.problem.constraints[0].bound
    assert slack > -0.01


def test_ranks_with_2_and_14_samples_equal_one_with_16():
    problem = Problem.build("r", ["g >= 0.6 (mean)"], {"r": (0.0, 1.0), "g": (0.0, 1.0)})
    pooled = torch.rand(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.5
    few, many = pooled[:2], pooled[2:]
    one, ranks = (Duals(problem, DualConfig(), 100) for _ in range(2))
    one.update(pooled, 2, generation=0)
    ranks.update(torch.cat([many, few]), 2, generation=0)  # gathered in any order
    torch.testing.assert_close(ranks.multipliers, one.multipliers, rtol=1e-12, atol=0)

    def after_one_step(mean):  # P + I with kp = 1, ki = .05
        return 1.05 * (0.6 - mean) / 0.5

    means = [part[:, 1].mean().item() for part in (few, many)]
    assert one.multipliers.item() == pytest.approx(after_one_step((2 * means[0] + 14 * means[1]) / 16))
    assert abs(after_one_step(sum(means) / 2) - one.multipliers.item()) > 0.01


def test_ranks_that_see_unequal_shares_reach_the_optimum():
    record = trained("T5 unequal ranks")
    assert record["feasible"]
    assert record["score"] >= 0.97


def test_missing_rewards_change_neither_optimum_nor_price():
    record = trained("T5 missing")
    assert record["feasible"]
    assert record["score"] >= 0.97
    assert max(price_errors(record)) < 0.15


def test_multipliers_and_policy_hold_while_every_reward_is_missing():
    known = SUITE["T0 b=0.6"]
    run = Run(known, LAGRANGIAN, seed=0)
    for _ in range(50):
        run.step()
    multipliers, logits = run.duals.multipliers, run.policy.logits.clone()
    assert multipliers.min() > 0
    run.known = dataclasses.replace(known, observed=(0.0,))
    for _ in range(5):
        run.step()
    assert torch.equal(run.duals.multipliers, multipliers)
    assert torch.equal(run.policy.logits, logits)
    assert run.duals.status(0) == "unobserved"


@pytest.mark.parametrize("name", ["T5 missing", "T2 two prices"])
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(name):
    whole, first, resumed = (Run(SUITE[name], LAGRANGIAN, seed=seed) for seed in (0, 0, 7))
    for _ in range(60):
        whole.step()
    for _ in range(35):
        first.step()
    resumed.duals.load_state_dict(json.loads(json.dumps(first.duals.state_dict())))
    resumed.policy.logits = first.policy.logits.clone()
    resumed.generator.set_state(first.generator.get_state())
    for _ in range(25):
        resumed.step()
    assert torch.equal(resumed.policy.logits, whole.policy.logits)
    assert resumed.duals.fingerprint() == whole.duals.fingerprint()
    assert resumed.duals.report() == whole.duals.report()


def test_evaluation_never_steps_the_duals():
    run = Run(SUITE["T0 b=0.6"], LAGRANGIAN, seed=0)
    run.step()
    before = run.duals.fingerprint()
    run.evaluate()
    assert run.duals.fingerprint() == before


def test_price_is_what_the_bound_costs_by_finite_difference():
    """Of policies that were trained under neighbouring bounds, and of the exact optimum."""
    (price,) = trained("T0 b=0.6")["prices"].values()
    values = [train(knapsack(bound), "lagrangian", seed=0)["objective"] for bound in (0.55, 0.65)]
    assert price == pytest.approx(-(values[1] - values[0]) / 0.1, rel=0.1)

    known, record = SUITE["T2 two prices"], trained("T2 two prices")
    for k, (name, price) in enumerate(record["prices"].items()):
        moved = []
        for step in (-0.01, 0.01):
            constraints = list(known.problem.constraints)
            constraints[k] = dataclasses.replace(constraints[k], bound=constraints[k].bound + step)
            problem = dataclasses.replace(known.problem, constraints=tuple(constraints))
            moved.append(dataclasses.replace(known, problem=problem).oracle.objective)
        assert price == pytest.approx(-(moved[1] - moved[0]) / 0.02, rel=0.1), name


@pytest.mark.parametrize("seed", [0, 1])
def test_scalarized_advantages_settle_where_every_prompt_flips_together(seed):
    """Published pathology: z-scored per group, all 20 contexts change sides at lambda = 1, and E[r] = .20."""
    record = trained("T0 b=0.6", "scalarized_advantage", seed)
    assert record["objective"] == pytest.approx(0.20, abs=0.03)
    assert trained("T0 b=0.6")["objective"] > 0.31
    (price,) = record["prices"].values()
    multiplier = price * SUITE["T0 b=0.6"].problem.declared_units().constraints.item() / 0.5
    assert multiplier == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("rule", ["gdpo", "weighted_sum", "gate", "log_lambda"])
def test_other_rules_miss_what_the_lagrangian_reaches(rule):
    assert trained("T0 b=0.9")["score"] > trained("T0 b=0.9", rule)["score"] + 0.1

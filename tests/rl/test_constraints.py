import math

import pytest
import torch

from recrl.rl.constraints import Constraint, Problem, constraint_values, objective_values, parse_constraint

UNIT = (0.0, 1.0)
RANGES = {"recall": UNIT, "novelty": UNIT, "diversity": UNIT, "length": (0.0, 20.0), "validity": UNIT}
NAN = math.nan


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("novelty >= 0.30 (mean)", [Constraint("novelty", ">=", 0.3, "mean", name="novelty >= 0.3")]),
        (
            "duplicates<=3e-2 (mean)",
            [Constraint("duplicates", "<=", 0.03, "mean", name="duplicates <= 0.03")],
        ),
        (
            "length in [6, 11] (mean)",
            [
                Constraint("length", ">=", 6, "mean", unit=2.5, name="length >= 6"),
                Constraint("length", "<=", 11, "mean", unit=2.5, name="length <= 11"),
            ],
        ),
        (
            "diversity >= 0.55 for 0.9 (rate)",
            [Constraint("diversity", ">=", 0.9, "rate", 0.55, name="diversity >= 0.55 for 0.9")],
        ),
        ("validity >= 1.0 (gate)", [Constraint("validity", ">=", 1, "gate", name="validity >= 1 (gate)")]),
        ("ctr >= -.5 (mean, margin=0.02, unit=2)", [Constraint("ctr", ">=", -0.5, "mean", None, 0.02, 2.0)]),
    ],
)
def test_text_parses_to_constraints(text, expected):
    assert list(parse_constraint(text)) == expected


def test_missing_kind_is_refused_with_the_meaning_of_all_three():
    with pytest.raises(ValueError, match="no kind") as error:
        parse_constraint("novelty >= 0.3")
    for meaning in (
        "(mean) the average",
        "(rate) a share",
        "(gate) every single response",
        "'novelty >= 0.3'",
    ):
        assert meaning in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("novelty > 0.3 (mean)", "does not parse"),
        ("novelty >= 0.3 (mean, weight=2)", "does not parse"),
        ("novelty >= 0.3 (median)", "unknown kind 'median'"),
        ("novelty >= 0.3 (rate)", "for SHARE"),
        ("novelty >= 0.3 for 0.9 (mean)", "for SHARE"),
        ("novelty >= 0.3 for 1.5 (rate)", r"share 1.5 must be in \(0, 1\]"),
        ("novelty >= 0.3 for 0.99 (rate, margin=0.02)", r"share 1.01 must be in \(0, 1\]"),
        ("length in [11, 6] (mean)", "LOW < HIGH"),
        ("length in [6, 11] for 0.9 (rate)", "LOW < HIGH"),
        ("novelty >= 0.3 (mean, margin=-0.1)", "margin=-0.1"),
        ("novelty >= 0.3 (mean, unit=0)", "unit=0.0 must be positive"),
        ("validity >= 1 (gate, margin=0.1)", "a gate has no margin"),
    ],
)
def test_bad_text_is_refused_with_the_reason(text, message):
    with pytest.raises(ValueError, match=message):
        parse_constraint(text)


@pytest.mark.parametrize(
    ("objective", "constraints", "message"),
    [
        ("recal", [], "objective: unknown reward 'recal'; did you mean 'recall'"),
        ("recall", ["noveltyy >= 0.3 (mean)"], "did you mean 'novelty'"),
        ("recall", ["novelty >= 1.3 (mean)"], r"1.3 is outside \[0, 1\]"),
        ("recall", ["novelty >= 0.95 (mean, margin=0.1)"], r"1.05 is outside \[0, 1\]"),
        ("recall", ["length >= 25 for 0.5 (rate)"], r"25 is outside \[0, 20\]"),
        ("recall", ["novelty >= 0.6 (mean)", "novelty <= 0.4 (mean)"], "contradict"),
        ("recall", ["novelty >= 0.5 (mean, margin=0.1)", "novelty <= 0.55 (mean)"], "contradict"),
        ("recall", ["novelty >= 0.6 (gate)", "novelty <= 0.4 (mean)"], "contradict"),
        ("recall", ["novelty >= 0.6 for 0.7 (rate)", "novelty <= 0.4 for 0.7 (rate)"], "contradict"),
        ("recall", ["novelty >= 0.6 for 0.1 (rate)", "novelty <= 0.4 (gate)"], "contradict"),
        ("recall", ["novelty >= 0.3 (mean)", "novelty >= 0.4 (mean)"], "duplicates"),
    ],
)
def test_impossible_problems_are_refused(objective, constraints, message):
    with pytest.raises(ValueError, match=message):
        Problem.build(objective, constraints, RANGES)


def test_compatible_constraints_on_one_reward_are_accepted():
    Problem.build("recall", ["novelty >= 0.6 for 0.5 (rate)", "novelty <= 0.4 for 0.5 (rate)"], RANGES)
    Problem.build("recall", ["novelty >= 0.4 for 0.9 (rate)", "novelty >= 0.6 for 0.5 (rate)"], RANGES)
    Problem.build("recall", ["novelty >= 0.6 for 0.5 (rate)", "novelty <= 0.5 (mean)"], RANGES)


def test_gate_is_refused_when_violating_would_beat_complying():
    gate = "validity >= 1 (gate)"
    with pytest.raises(ValueError, match="beats negative values of profit"):
        Problem.build("profit", [gate], {"profit": (-1.0, 1.0), "validity": UNIT})
    assert (
        Problem.build("profit", [gate], {"profit": (0.0, 1.0), "validity": UNIT}).constraints[0].kind
        == "gate"
    )


def test_weights_and_ranges_are_checked():
    with pytest.raises(ValueError, match="weights: unknown reward 'nov'; did you mean 'novelty'"):
        Problem.build("recall", [], RANGES, weights={"nov": 1.0})
    with pytest.raises(ValueError, match="low < high"):
        Problem.build("recall", [], {"recall": (1.0, 0.0)})
    with pytest.raises(ValueError, match="objective_unit=-1"):
        Problem.build("recall", [], RANGES, objective_unit=-1)


def test_units_are_declared_then_half_range_then_unknown():
    constraints = [
        "novelty >= 0.3 (mean)",
        "novelty <= 0.9 (mean, unit=0.1)",
        "length in [6, 11] (mean)",
        "length >= 3 for 0.9 (rate)",
        "clicks >= 2 (mean)",
        "clicks >= 1 (mean, unit=3)",
    ]
    ranges = RANGES | {"clicks": (0.0, math.inf)}
    units = Problem.build("length", constraints[:-1], ranges).declared_units()
    assert units.objective == 10.0
    assert units.constraints.tolist()[:-1] == [0.5, 0.1, 2.5, 2.5, 0.5]
    assert math.isnan(units.constraints[-1])
    declared = Problem.build("clicks", constraints[-1:], ranges, objective_unit=7.0).declared_units()
    assert (declared.objective, declared.constraints.tolist()) == (7.0, [3.0])


def test_values_are_rewards_indicators_and_missing():
    problem = Problem.build(
        "recall",
        [
            "length <= 11 (mean)",
            "length >= 6 for 0.9 (rate)",
            "novelty <= 0.4 for 0.5 (rate)",
            "validity >= 1 (gate)",
        ],
        RANGES,
    )
    #                recall novelty diversity length validity
    rewards = [[0.5, 0.4, 0.0, 6.0, 1.0], [0.7, 0.5, 0.0, 5.0, 0.0], [0.9, NAN, 0.0, math.inf, NAN]]
    values = constraint_values(problem, torch.tensor(rewards, dtype=torch.float64))
    expected = [[6.0, 1.0, 1.0, 1.0], [5.0, 0.0, 0.0, 0.0], [NAN, NAN, NAN, NAN]]
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), equal_nan=True)
    assert [c.sign for c in problem.constraints] == [-1, 1, 1, 1]
    objective = objective_values(problem, torch.tensor(rewards, dtype=torch.float64))
    torch.testing.assert_close(objective, torch.tensor([0.5, 0.0, NAN], dtype=torch.float64), equal_nan=True)


@pytest.mark.parametrize("level", [0.1, 0.3, 0.55, 0.9])
def test_float32_reward_that_equals_its_threshold_complies(level):
    texts = [f"novelty >= {level} for 0.9 (rate)", f"novelty <= {level} for 0.9 (rate)"]
    problem = Problem.build("recall", texts, RANGES)
    rewards = torch.full((1, 5), level, dtype=torch.float32)
    assert constraint_values(problem, rewards).tolist() == [[1.0, 1.0]]


def test_spec_hash_follows_what_is_optimised_and_nothing_else():
    base = Problem.build("recall", ["novelty >= 0.3 (mean)", "length <= 9 (mean)"], RANGES)
    reordered = dict(reversed(RANGES.items())) | {"clicks": (0.0, math.inf)}
    same = Problem.build("recall", ["length <= 9.0 (mean)", "novelty >= 0.30 (mean)"], reordered)
    assert same.spec_hash() == base.spec_hash()
    others = [
        Problem.build("diversity", ["novelty >= 0.3 (mean)", "length <= 9 (mean)"], RANGES),
        Problem.build("recall", ["novelty >= 0.31 (mean)", "length <= 9 (mean)"], RANGES),
        Problem.build("recall", ["novelty >= 0.3 (mean, margin=0.01)", "length <= 9 (mean)"], RANGES),
        Problem.build("recall", ["novelty >= 0.3 (mean, unit=0.4)", "length <= 9 (mean)"], RANGES),
        Problem.build("recall", ["novelty >= 0.3 (mean)"], RANGES),
        Problem.build("recall", ["novelty >= 0.3 (mean)", "length <= 9 (mean)"], RANGES, objective_unit=1.0),
        Problem.build(
            "recall", ["novelty >= 0.3 (mean)", "length <= 9 (mean)"], RANGES, weights={"recall": 1.0}
        ),
    ]
    assert len({base.spec_hash(), *(other.spec_hash() for other in others)}) == len(others) + 1

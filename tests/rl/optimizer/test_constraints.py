import math

import pytest
import torch

from recrl.rl.optimizer.constraints import Constraint, Segment, parse_constraint
from recrl.rl.optimizer.problem import Problem, constraint_values, objective_values, segment_indicators

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
        (
            "novelty >= 0.3 where segment=cold (mean)",
            [
                Constraint(
                    *("novelty", ">=", 0.3, "mean"),
                    segment=Segment("segment", "cold"),
                    name="novelty >= 0.3 where segment=cold",
                )
            ],
        ),
        (
            "novelty >= 0.1 -> 0.3 over 100 (mean)",
            [Constraint("novelty", ">=", 0.3, "mean", start=0.1, over=100, name="novelty >= 0.3")],
        ),
        (
            "length in [6, 11] where age=30-39 (mean, margin=0.5)",
            [
                Constraint("length", ">=", 6, "mean", None, 0.5, 2.5, Segment("age", "30-39")),
                Constraint("length", "<=", 11, "mean", None, 0.5, 2.5, Segment("age", "30-39")),
            ],
        ),
        (
            "diversity >= 0.55 for 0.5->0.9 over 20 where segment = new.users (rate, unit=0.2)",
            [
                Constraint(
                    *(
                        "diversity",
                        ">=",
                        0.9,
                        "rate",
                        0.55,
                        0.0,
                        0.2,
                        Segment("segment", "new.users"),
                        0.5,
                        20,
                    ),
                    name="diversity >= 0.55 for 0.9 where segment=new.users",
                )
            ],
        ),
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
        ("validity >= 1 where segment=cold (gate)", "for every answer at all times"),
        ("validity >= 0 -> 1 over 5 (gate)", "for every answer at all times"),
        ("novelty >= 0.3 where cold (mean)", "does not parse.*'where COLUMN=VALUE'"),
        ("novelty >= 0.3 where segment=cold -> 0.5 over 9 (mean)", "does not parse"),
        ("novelty >= 0.3 where segment=cold", "no kind"),
        ("novelty >= 0.1 -> 0.3 (mean)", "does not parse.*'-> X over N'"),
        ("novelty >= 0.1 -> 0.3 over 2.5 (mean)", "does not parse"),
        ("novelty >= 0.1 -> 0.3 over 0 (mean)", r"over=0 >= 1"),
        ("length in [6, 11] -> 12 over 5 (mean)", "no schedule; write its two sides apart"),
        ("novelty >= 0.3 for 1.2 -> 0.9 over 5 (rate)", "share 1.2 is no share"),
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
        ("recall", ["novelty >= 0.1 -> 0.6 over 9 (mean)", "novelty <= 0.4 (mean)"], "contradict"),
        ("recall", ["novelty >= 0.1 -> 1.3 over 9 (mean)"], r"1.3 is outside \[0, 1\]"),
        ("recall", ["novelty >= -0.5 -> 0.3 over 9 (mean)"], r"-0.5 is outside \[0, 1\]"),
        (
            "recall",
            ["novelty >= 0.6 where user=cold (mean)", "novelty <= 0.4 where user=cold (mean)"],
            "contradict",
        ),
        (
            "recall",
            ["novelty >= 0.6 where user=cold (mean)", "novelty >= 0.4 where user=cold (mean)"],
            "duplicates",
        ),
    ],
)
def test_impossible_problems_are_refused(objective, constraints, message):
    with pytest.raises(ValueError, match=message):
        Problem.build(objective, constraints, RANGES)


def test_compatible_constraints_on_one_reward_are_accepted():
    Problem.build("recall", ["novelty >= 0.6 for 0.5 (rate)", "novelty <= 0.4 for 0.5 (rate)"], RANGES)
    Problem.build("recall", ["novelty >= 0.4 for 0.9 (rate)", "novelty >= 0.6 for 0.5 (rate)"], RANGES)
    Problem.build("recall", ["novelty >= 0.6 for 0.5 (rate)", "novelty <= 0.5 (mean)"], RANGES)


def test_segments_may_be_asked_for_different_things():
    texts = [f"novelty >= {b} where user={u} (mean)" for b, u in ((0.6, "cold"), (0.2, "warm"))]
    problem = Problem.build(
        "recall", [*texts, "novelty <= 0.5 (mean)", "length <= 9 where user=cold (mean)"], RANGES
    )
    assert problem.segments == (Segment("user", "cold"), Segment("user", "warm"))
    assert problem.columns == (*RANGES, "user=cold", "user=warm")


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("novelty >= 0.1 -> 0.3 over 4 (mean, margin=0.05)", [0.1, 0.15, 0.2, 0.25, 0.3, 0.3]),
        ("novelty <= 0.9 -> 0.5 over 2 (mean)", [0.9, 0.7, 0.5, 0.5, 0.5, 0.5]),
        ("novelty >= 0.3 for 0.5 -> 0.9 over 1 (rate)", [0.5, 0.9, 0.9, 0.9, 0.9, 0.9]),
        ("novelty >= 0.3 (mean)", [0.3] * 6),
    ],
)
def test_a_bound_moves_in_equal_steps_and_then_stays(text, bounds):
    (constraint,) = parse_constraint(text)
    assert [constraint.bound_at(t) for t in range(6)] == pytest.approx(bounds)
    assert constraint.bound_at(10**6) == constraint.bound


def test_directions_and_the_weights_that_follow_from_them():
    texts = ["novelty >= 0.3 (mean)", "diversity <= 0.5 (mean)", "length in [6, 11] (mean)"]
    problem = Problem.build("recall", texts, RANGES)
    wanted = {"recall": 1.0, "novelty": 1.0, "diversity": -1.0, "length": 0.0, "validity": 0.0}
    assert problem.directions == wanted
    assert problem.sum_weights == wanted
    assert Problem.build("recall", texts, RANGES, weights=dict.fromkeys(RANGES, 0.0)).sum_weights == wanted
    declared = {"recall": 1.0, "validity": 0.2}
    assert Problem.build("recall", texts, RANGES, weights=declared).sum_weights == declared


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


def test_values_outside_of_the_segment_are_missing():
    texts = [
        "novelty >= 0.3 where user=cold (mean)",
        "length <= 9 for 0.5 where user=cold (rate)",
        "novelty >= 0.2 (mean)",
    ]
    problem = Problem.build("recall", texts, RANGES)
    #                recall novelty diversity length validity user=cold
    rewards = [
        [0.5, 0.4, 0.0, 6.0, 1.0, 1.0],
        [0.5, 0.6, 0.0, 6.0, 1.0, 0.0],
        [0.5, NAN, 0.0, 12.0, 1.0, 1.0],
    ]
    values = constraint_values(problem, torch.tensor(rewards))
    expected = [[0.4, 1.0, 0.4], [NAN, NAN, 0.6], [NAN, 0.0, NAN]]
    torch.testing.assert_close(values.float(), torch.tensor(expected), equal_nan=True)


def test_who_belongs_to_a_segment():
    texts = ["novelty >= 0.3 where user=cold (mean)", "novelty >= 0.2 where week=21 (mean)"]
    problem = Problem.build("recall", texts, RANGES)
    indicators = segment_indicators(problem, {"week": [21, 22, 21], "user": ["cold", "cold", "warm"]}, 3)
    assert indicators.tolist() == [[1, 1], [1, 0], [0, 1]]
    assert segment_indicators(Problem.build("recall", [], RANGES), {}, 3).shape == (3, 0)
    with pytest.raises(
        ValueError, match=r"where week=21, but the data have no column 'week'; they have: user"
    ):
        segment_indicators(problem, {"user": ["cold"] * 3}, 3)


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
        *(
            Problem.build("recall", [f"novelty >= {text} (mean)", "length <= 9 (mean)"], RANGES)
            for text in (
                "0.3 where user=cold",
                "0.3 where user=warm",
                "0.1 -> 0.3 over 9",
                "0.2 -> 0.3 over 9",
                "0.1 -> 0.3 over 8",
            )
        ),
    ]
    assert len({base.spec_hash(), *(other.spec_hash() for other in others)}) == len(others) + 1


def test_a_metric_of_weight_zero_leaves_the_spec_hash_alone():
    texts = ["novelty >= 0.3 (mean)"]
    declared = Problem.build("recall", texts, RANGES, weights={"recall": 1.0})
    with_metric = Problem.build("recall", texts, RANGES, weights={"recall": 1.0, "validity": 0.0})
    assert with_metric.spec_hash() == declared.spec_hash()

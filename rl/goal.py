"""Objective and constraints of a run against its rewards, checked before anything starts."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from ..rewards import Reward
from ..rewards.base import PER_TAG
from .optimizer.constraints import Constraint
from .optimizer.problem import Problem
from .optimizer.rules import RULES, find_rule


def state(
    rewards: Sequence[Reward],
    objective: str,
    constraints: Sequence[str | Constraint],
    *,
    objective_unit: float | None = None,
    weights: Mapping[str, float] | None = None,
) -> Problem:
    """The constrained problem over some rewards.

    Args:
        rewards: Rewards with their ranges, units and directions.
        objective: Name of the reward to maximise.
        constraints: Constraints as :func:`recrl.rl.optimizer.constraints.parse_constraint` reads them.
        objective_unit: Unit in place of the one that the objective declares.
        weights: Weights of rewards, for rules that add them up.

    Raises:
        ValueError: an unknown reward, a bound that cannot be met, or a direction that is the wrong one.
    """
    units = {reward.name: reward.unit for reward in rewards}
    problem = Problem.build(
        objective,
        constraints,
        {reward.name: reward.range for reward in rewards},
        objective_unit=units.get(objective) if objective_unit is None else objective_unit,
        weights=weights,
    )
    check_directions(rewards, problem)
    return problem


def check_directions(rewards: Sequence[Reward], problem: Problem) -> None:
    """Refuse to raise a reward that is better low."""
    for reward in rewards:
        if reward.direction == "higher":
            continue
        held = f"hold it down by a constraint such as '{reward.name} <= ... (mean)'"
        fix = f"{held}, or declare direction: higher in its entry"
        if reward.name == problem.objective:
            raise ValueError(f"optimizer.objective={reward.name}: lower is better; {fix}")
        for constraint in problem.constraints:
            # A band (in [a, b]) holds it from both sides and is meant.
            both = any(c.reward == reward.name and c.sense == "<=" for c in problem.constraints)
            if constraint.reward == reward.name and constraint.sense == ">=" and not both:
                raise ValueError(f"constraint {constraint.name!r}: lower is better; {fix}")
        if problem.weights.get(reward.name, 0.0) > 0:
            raise ValueError(
                f"weight={problem.weights[reward.name]:g} of reward {reward.name!r}: lower is better; give "
                f"it a negative weight, or {fix}"
            )


def check_segments(problem: Problem, names: Sequence[str], values: Callable[[str], Iterable[object]]) -> None:
    """Refuse a segment that a constraint names and that has no prompts.

    Args:
        problem: Problem that names the segments.
        names: Columns of the training data.
        values: Function that gives the entries of a column.
    """
    for column, value in problem.segments:
        if column not in names:
            raise ValueError(
                f"a constraint holds where {column}={value}, but the training data have no column "
                f"{column!r}; they have: {', '.join(names)}"
            )
        entries = list(values(column))
        if not all(entry is None or isinstance(entry, str | int | float) for entry in entries):
            raise ValueError(
                f"a constraint holds where {column}={value}, but the column {column!r} holds lists; name a "
                "column with one value for each prompt, such as segment"
            )
        found = sorted(map(str, set(entries)))
        if value not in found:
            raise ValueError(
                f"a constraint holds where {column}={value}, but no training prompt has that value; "
                f"found: {', '.join(found[:10])}"
            )


def check_rule(problem: Problem, rule: str) -> None:
    """Refuse a rule that cannot be used on the problem."""
    find_rule(rule).check(problem)


def check_credit(rewards: Iterable[Reward], problem: Problem, rule: str, credit: str) -> None:
    """Refuse credit per tag without a rule that can give it and a reward that can be credited to tags."""
    if credit == "sequence":
        return
    if credit != "tag":
        raise ValueError(f"{credit=} is unknown; use 'sequence' or 'tag'")
    if not find_rule(rule).per_tag:
        able = ", ".join(name for name, known in RULES.items() if known.per_tag)
        raise ValueError(
            f"credit=tag does not work with rule {rule!r}; use credit=sequence, or one of {able}"
        )
    used = {problem.objective, *(constraint.reward for constraint in problem.constraints)}
    if not any(reward.per in PER_TAG for reward in rewards if reward.name in used):
        raise ValueError(
            f"credit=tag: none of {sorted(used)} is declared per='tag', so no tag can get credit; "
            "set per: tag on a reward that can judge an answer's first tags, or use credit=sequence"
        )

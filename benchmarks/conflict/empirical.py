"""Sampled answers as a problem whose optimum is known.

``empirical``   each prompt's answers are the arms of a contextual bandit; sampling is its uniform policy
``prices``      the constrained optimum, and the price of each constraint
``sweep``       objective and price along one bound
``pair_sweep``  a sweep of two rewards without constraints

A policy here picks among the answers that were sampled, prompt by prompt, so the optimum is what the best
choice among them reaches.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recrl.rl.optimizer.constraints import Constraint
from recrl.rl.optimizer.problem import Problem, constraint_values, objective_values

from .oracles import find_oracle
from .problems import KnownProblem, bandit
from .suite import BenchmarkError, rebound

Scores = NDArray[np.float32]
"""Scores `[prompt, answer, reward]`; NaN = missing."""

FAMILY = "own"
SWEEP_POINTS = 21
RESAMPLES = 100
"""Bootstrap samples of the prompts; each takes a linear programme."""
# Below this share of its range a reward's spread is rounding.
_LEAST_SPREAD = 1e-9


@dataclass(frozen=True)
class Empirical:
    """The answers as a problem whose optimum is known."""

    known: KnownProblem
    left_out: int
    """Number of prompts on which a reward of the problem is missing for some answer."""
    shift: float
    """Summand with which the objective starts at 0; a score relative to the optimum needs that."""


def empirical(
    name: str,
    scores: Scores,
    ranges: Mapping[str, tuple[float, float]],
    objective: str,
    constraints: Sequence[str | Constraint],
) -> Empirical:
    """Each prompt's answers as the arms of a contextual bandit.

    Args:
        name: Name of the problem.
        scores: Scores of the answers.
        ranges: Declared range of each reward, in the order of the scores.
        objective: Name of the reward to maximise.
        constraints: Constraints as in a configuration.

    Raises:
        BenchmarkError: the problem cannot be right, see `Problem`, or there is nothing to choose.
    """
    try:
        whole = Problem.build(objective, constraints, ranges)
    except ValueError as error:
        raise BenchmarkError(f"--objective, --constraint: {error}") from error
    if whole.segments:
        raise BenchmarkError(
            f"--constraint: {whole.segments[0]} names a segment, which has no optimum over all prompts; give "
            "the prompts of that segment alone"
        )
    used = [r for r in whole.names if r in {objective, *(c.reward for c in whole.constraints)}]
    columns = [whole.names.index(r) for r in used]
    complete = np.isfinite(scores[..., columns]).all(axis=(1, 2))
    if not complete.any():
        raise BenchmarkError(f"no prompt has a value of all of {', '.join(used)} on every answer")
    table = _decimal(scores[complete][..., columns])
    for k, reward in enumerate(used):
        _check_spread(f"reward {reward!r}", table[..., k], ranges[reward])
    values = constraint_values(replace(whole, ranges={r: ranges[r] for r in used}), torch.from_numpy(table))
    for constraint, value in zip(whole.constraints, values.unbind(dim=-1), strict=True):
        if constraint.kind != "gate":
            _check_spread(f"constraint {constraint.name!r}", value.numpy(), (0.0, 1.0))
    shift = max(0.0, -ranges[objective][0])
    table[..., used.index(objective)] += shift
    low, high = ranges[objective]
    kept = {r: ranges[r] for r in used} | {objective: (low + shift, high + shift)}
    problem = replace(whole, ranges=kept, objective_unit=(high - low) / 2)
    # It is trained as the built-in bandits of the same kind are.
    known = replace(bandit(name, family=FAMILY), problem=problem, table=torch.from_numpy(table))
    if known.oracle is not None and known.oracle.objective <= 0:
        raise BenchmarkError(
            f"under these constraints the best that {objective!r} can reach is its lowest value, so there is "
            "nothing to compare rules by; relax a constraint"
        )
    return Empirical(known, int((~complete).sum()), shift)


def _check_spread(what: str, values: NDArray[np.float64], span: tuple[float, float]) -> None:
    if np.ptp(values, axis=1).max() <= _LEAST_SPREAD * (span[1] - span[0]):
        raise BenchmarkError(
            f"{what} says the same of all answers of a prompt, whichever prompt, so it leaves no choice; "
            "take more --samples, a higher --temperature, or leave it out"
        )


def _decimal(scores: Scores) -> NDArray[np.float64]:
    """float64 of the shortest decimal: a threshold of 0.9 has to hold for a float32 of 0.9."""
    return np.array([float(str(value)) for value in scores.ravel()], dtype=np.float64).reshape(scores.shape)


def prices(
    found: Empirical, seed: int = 0, on_sample: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """The constrained optimum over the answers, with 95 % intervals bootstrapped over prompts.

    Args:
        found: Problem from `empirical`.
        seed: Seed of the resampling.
        on_sample: Function that is called with the number of resamples done.

    Returns:
        ``sampled``: objective and constraint values of the sampling policy. By constraint name ``bounds`` and
        ``attainable``, the most without the other constraints. ``feasible``; if so ``optimum`` and by
        constraint ``price``, each with value, low and high; ``optimal`` is the interval of prices that are
        optimal at these prompts; ``feasible share`` is that of the resamples.
    """
    known, problem, oracle = found.known, found.known.problem, found.known.oracle
    names = [c.name for c in problem.constraints]
    values = constraint_values(problem, known.table).mean(dim=(0, 1)).tolist()
    result: dict[str, Any] = {
        "sampled": {
            "objective": objective_values(problem, known.table).mean().item() - found.shift,
            "values": dict(zip(names, values, strict=True)),
        },
        "bounds": {c.name: [c.sense if c.kind == "mean" else ">=", _bound(c)] for c in problem.constraints},
        "attainable": {name: attainable(known, k, alone=True) for k, name in enumerate(names)},
        "feasible": oracle is not None,
    }
    if oracle is None:
        return result
    rng = np.random.default_rng(seed)
    drawn = []
    for n in range(RESAMPLES):
        rows = torch.from_numpy(rng.integers(len(known.table), size=len(known.table)))
        solved = find_oracle(problem, known.table[rows])
        if solved is not None:
            drawn.append([solved.objective - found.shift, *solved.prices])
        on_sample(n + 1)
    spread = (
        np.percentile(drawn, [2.5, 97.5], axis=0).T.tolist() if drawn else [[None, None]] * (1 + len(names))
    )
    return result | {
        "feasible share": len(drawn) / RESAMPLES,
        "optimum": {
            "value": float(oracle.objective) - found.shift,
            "low": spread[0][0],
            "high": spread[0][1],
        },
        "price": {
            name: {
                "value": float(oracle.prices[k]),
                "low": spread[1 + k][0],
                "high": spread[1 + k][1],
                "optimal": [x if np.isfinite(x) else None for x in oracle.intervals[k].tolist()],
            }
            for k, name in enumerate(names)
        },
    }


def _bound(constraint: Constraint) -> float:
    return 1.0 if constraint.kind == "gate" else constraint.bound


def attainable(known: KnownProblem, k: int, *, alone: bool = False) -> float | None:
    """The most that constraint k's value can be (least, for an upper bound); None if the others cannot hold.

    Args:
        known: Problem from `empirical`.
        k: Index of the constraint.
        alone: Whether the other constraints are dropped.
    """
    problem, sign = known.problem, known.problem.constraints[k].sign
    value = sign * constraint_values(problem, known.table)[..., k]
    others = tuple(c for j, c in enumerate(problem.constraints) if j != k)
    if alone or not others:
        return sign * value.amax(dim=1).mean().item()
    low, high = value.min().item(), value.max().item()
    # The value becomes the objective of a problem of its own, from 0, so that gates may multiply it.
    ranges = {**problem.ranges, "": (0.0, high - low)}
    goal = replace(problem, objective="", objective_unit=None, constraints=others, ranges=ranges)
    solved = find_oracle(goal, torch.cat([known.table, (value - low)[..., None]], dim=2))
    return None if solved is None else sign * (float(solved.objective) + low)


def sweep(found: Empirical, k: int) -> dict[str, Any] | None:
    """Objective and price as bound k goes from what the sampling policy has to the most that is attainable.

    The other constraints stay at their bounds. None where they cannot hold, or nothing is left to sweep.

    Args:
        found: Problem from `empirical`.
        k: Index of the constraint; no gate.
    """
    known, problem, constraint = found.known, found.known.problem, found.known.problem.constraints[k]
    start = constraint_values(problem, known.table)[..., k].mean().item()
    end = attainable(known, k)
    if end is None or constraint.sign * (end - start) <= 0:
        return None
    points = []
    # It stops just short of the end, where a rounding error would leave no feasible policy.
    for bound in np.linspace(start, end - 1e-7 * (end - start), SWEEP_POINTS):
        bounds = [float(bound) if j == k else _bound(c) for j, c in enumerate(problem.constraints)]
        moved = rebound(problem, bounds)
        solved = moved and find_oracle(moved, known.table)
        if solved:
            points.append((float(bound), float(solved.objective) - found.shift, float(solved.prices[k])))
    if not points:
        return None
    bounds, objective, price = map(list, zip(*points, strict=True))
    sampled = objective_values(problem, known.table).mean().item() - found.shift
    return {
        "title": f"{problem.objective} against {constraint.reward}",
        "objective name": problem.objective,
        "constraint": "bound on "
        + (constraint.reward if constraint.kind == "mean" else f"share: {constraint.key}"),
        "bound": bounds,
        "objective": objective,
        "price": price,
        "sampled": [start, sampled],
        "asked": constraint.bound,
    }


def pair_sweep(
    scores: Scores, ranges: Mapping[str, tuple[float, float]], first: str, second: str
) -> dict[str, Any] | None:
    """Sweep of a lower bound on `second` with `first` maximised; None where nothing is left to choose."""
    floor = Constraint(second, ">=", ranges[second][0], "mean")
    found = sweep(empirical("pair", scores, ranges, first, [floor]), 0)
    return found and found | {"asked": None, "title": f"{first} against {second}"}

"""The tables of an evaluation: intervals, slacks and differences."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ...envs.statistics import Estimate, Values, estimate
from ...envs.task import PRICED, Row, Task
from ..decoding.settings import Decoding
from ..optimizer.problem import Problem, constraint_values, objective_values
from .answers import Answers
from .bounds import rows_inside, slack_of
from .settings import UNPRICED


def evaluation(
    task: Task,
    rows: Sequence[Row],
    answers: Mapping[str, Answers],
    problem: Problem,
    floors: Mapping[str, float],
    scored: Callable[[Sequence[str]], Mapping[str, Values]],
    decoding: Decoding,
    priced: tuple[Sequence[str], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Every table of a report, as JSON.

    Args:
        rows: Rows that were answered.
        answers: Policy name -> answers; the first is the reference of the differences (the warm start), the
            last the policy that was trained.
        floors: Reward -> bound that baselines meet.
        scored: Function that scores one answer to every row with the run's rewards.
        decoding: Decoding of the deployed answers.
        priced: Answers of the task's ranker under the bounds, and their prices.

    Returns:
        What was asked for, and ``populations``: per population ``sampled`` (rewards, objective, constraints)
        and ``deployed`` (metrics by policy and baseline, paired differences to the reference, constraints and
        exposure).
    """
    texts = {name: answerer(rows) for name, answerer in task.baselines(floors).items()}
    if priced is not None:
        texts[PRICED] = list(priced[0])
    texts |= {f"{name}{UNPRICED}": found.unpriced for name, found in answers.items() if found.unpriced}
    texts |= {name: found.deployed for name, found in answers.items()}
    deployed = {name: task.metrics(rows, given, partial(scored, given)) for name, given in texts.items()}
    constrained = {c.reward for c in problem.constraints if c.kind == "mean"}
    for name in (*answers, *(f"{name}{UNPRICED}" for name in answers), PRICED, task.reference):
        if name in deployed and (lacking := constrained - deployed[name].keys()):
            scores = scored(texts[name])
            deployed[name] = {**deployed[name], **{reward: scores[reward] for reward in sorted(lacking)}}
    held: dict[str, Any] = {name: found.hold for name, found in answers.items() if found.hold is not None}
    if priced is not None:
        held[PRICED] = dict(priced[1])
    unseen = np.array([row["unseen"] for row in rows], dtype=bool)
    populations = {task.populations[0]: unseen} if unseen.any() else {}
    if not unseen.all():
        populations[task.populations[1]] = np.ones_like(unseen)
    users = np.array([row["user"] for row in rows])
    return {
        **task.facts(floors),
        "decoding": decoding,
        **({"hold": held} if held else {}),
        "populations": {
            name: {
                "episodes": int(chosen.sum()),
                "users": len(np.unique(users[chosen])),
                "sampled": _sampled(
                    {policy: found.scores[chosen] for policy, found in answers.items()},
                    users[chosen],
                    problem,
                ),
                "deployed": _deployed(
                    task,
                    {policy: {m: v[chosen] for m, v in found.items()} for policy, found in deployed.items()},
                    {policy: [*compress(given, chosen)] for policy, given in texts.items()},
                    [*compress(rows, chosen)],
                    problem,
                    list(answers),
                ),
            }
            for name, chosen in populations.items()
        },
    }


def _sampled(
    scores: Mapping[str, npt.NDArray[np.float32]], users: npt.NDArray[np.integer], problem: Problem
) -> dict[str, Any]:
    """Rewards, objective and constraints of sampled answers: per episode first, then over users."""
    per_episode: dict[str, dict[str, Values]] = {}
    for policy, values in scores.items():
        tensor = torch.from_numpy(values)
        columns = {name: _episode_mean(values[:, :, j]) for j, name in enumerate(problem.names)}
        columns["objective"] = _episode_mean(objective_values(problem, tensor).numpy())
        constrained = constraint_values(problem, tensor).numpy()
        columns |= {c.name: _episode_mean(constrained[:, :, k]) for k, c in enumerate(problem.constraints)}
        per_episode[policy] = columns
    first, *_, last = [*per_episode] if len(per_episode) > 1 else [*per_episode] * 2
    constraints: list[dict[str, Any]] = []
    unobserved: list[str] = []
    for k, constraint in enumerate(problem.constraints):
        if any(np.isnan(columns[constraint.name]).all() for columns in per_episode.values()):
            unobserved.append(constraint.name)  # no episode of its segment in this population
            continue
        bound = 1.0 if constraint.kind == "gate" else constraint.bound
        row: dict[str, Any] = {"name": constraint.name, "kind": constraint.kind, "bound": bound}
        for policy, columns in per_episode.items():
            slack = estimate(constraint.sign * (columns[constraint.name] - bound), users)
            level = torch.from_numpy(scores[policy])
            missed = constraint_values(problem, level)[..., k].numpy()
            row[policy] = {"slack": asdict(slack), **_verdict(slack)}
            if constraint.kind == "mean":
                row[policy]["share of answers violating"] = float(
                    np.nanmean(constraint.sign * (missed - bound) < 0)
                )
        constraints.append(row)
    return {
        "rewards": {
            name: {policy: _estimate(columns[name], users) for policy, columns in per_episode.items()}
            for name in ("objective", *problem.names)
        },
        "gain": _estimate(per_episode[last]["objective"] - per_episode[first]["objective"], users),
        "constraints": constraints,
        "unobserved": unobserved,
    }


def _deployed(
    task: Task,
    values: Mapping[str, Mapping[str, Values]],
    texts: Mapping[str, Sequence[str]],
    rows: Sequence[Row],
    problem: Problem,
    policies: Sequence[str],
) -> dict[str, Any]:
    headline = task.headline or problem.objective
    references = [task.reference or policies[0]]
    if PRICED in values:  # answers that hold the same bounds by the same means
        references = list(dict.fromkeys([PRICED, *references, policies[0]]))
    users = np.array([row["user"] for row in rows])

    def table(name: str) -> dict[str, Any]:
        found = {}
        for metric, column in values[name].items():
            if (estimated := _estimate(column, users)) is not None:
                found[metric] = estimated
        return found

    constraints = []
    members = rows_inside(problem, problem.constraints, rows)
    for constraint, inside in zip(problem.constraints, members.T, strict=True):
        # Only rewards that are metrics of a deployed answer too can be read off it.
        if constraint.kind != "mean" or constraint.reward not in values[policies[-1]]:
            continue
        if not inside.any():  # no episode of that segment in this population
            continue
        row: dict[str, Any] = {"name": constraint.name, "bound": constraint.bound}
        for name in values:
            if constraint.reward not in values[name]:
                continue
            found = slack_of(constraint, inside, values[name][constraint.reward], users)
            if found is not None:  # else no answer has a score, such as of a reward whose server is away
                row[name] = {"slack": asdict(found), **_verdict(found)}
        if policies[-1] in row:
            constraints.append(row)
    trained = policies[-1]
    compared = {reference: _differences(values, reference, headline, users) for reference in references}
    # Where no episode has a value of both there is nothing to compare.
    compared = {reference: found for reference, found in compared.items() if trained in found}
    return {
        "metrics": {name: table(name) for name in values},
        "exposure": {name: task.spread(given) for name, given in texts.items()},
        **{f"difference to {reference}": found for reference, found in compared.items()},
        **{
            f"share of {reference}": np.nanmean(values[trained][headline])
            / np.nanmean(values[reference][headline])
            for reference in compared
        },
        "constraints": constraints,
    }


def _episode_mean(values: npt.NDArray[np.floating]) -> Values:
    """Mean over answers, ``[episodes, answers] -> [episodes]``; NaN where every answer is missing."""
    present = ~np.isnan(values)
    return np.where(
        present.any(axis=1),
        np.where(present, values, 0.0).sum(axis=1) / np.maximum(present.sum(axis=1), 1),
        np.nan,
    ).astype(float)


def _differences(
    values: Mapping[str, Mapping[str, Values]],
    reference: str,
    metric: str,
    users: npt.NDArray[np.integer],
) -> dict[str, Any]:
    """Paired differences of a metric to a reference, by name, where both have a value for some episode."""
    apart = {name: columns[metric] - values[reference][metric] for name, columns in values.items()}
    return {name: asdict(estimate(one, users)) for name, one in apart.items() if not np.isnan(one).all()}


def _estimate(values: Values, users: npt.NDArray[np.integer]) -> dict[str, Any] | None:
    """Estimate as JSON; None where no episode has a value, such as for a reward whose server is away."""
    return None if np.isnan(values).all() else asdict(estimate(values, users))


def _verdict(slack: Estimate) -> dict[str, Any]:
    """``met``: the mean is on the right side; ``within CI``: the interval does not exclude that."""
    return {"met": slack.mean >= 0, "within CI": slack.high >= 0}

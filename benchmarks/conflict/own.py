"""The benchmark on one's own rewards and prompts: how they conflict, and what each constraint costs.

``declared``   the rewards of a module
``score``      every reward on every answer
``conflicts``  which rewards pull against each other, within prompts
``measure``    all of it, with prices and frontiers: what ``own_report`` renders
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any

import torch

from recrl.rewards import RewardEngine, RewardSpec, declared_in
from recrl.rewards.base import Reward
from recrl.rl.optimizer.conflict import conflict_metrics

from .answers import Answers
from .empirical import Empirical, Scores, empirical, pair_sweep, prices, sweep
from .suite import BenchmarkError


def declared(module: str) -> list[str]:
    """The rewards that a module declares with ``@reward``, as ``use`` strings for the engine.

    Args:
        module: Name ``package.module``, or a path that ends with ``.py``.

    Raises:
        RewardSpecError: no such module or file.
        BenchmarkError: it declares no reward.
    """
    uses = declared_in(module)
    if not uses:
        raise BenchmarkError(
            f"--rewards {module}: nothing in it is declared with @reward; write "
            '`from recrl.rewards import reward` and `@reward("name", range=(low, high))` above a function'
        )
    return uses


def score(
    answers: Answers, uses: Sequence[str], resources: Mapping[str, Any]
) -> tuple[Scores, tuple[Reward, ...]]:
    """Score every answer with every reward.

    Args:
        answers: Answers to all prompts.
        uses: Registered names, or what `declared` returns.
        resources: Objects that rewards may read besides columns: ``catalog``, ``slots``, ``encoder``.

    Raises:
        RewardSpecError: a reward needs a column or resource that is not there.
        RewardError: a reward failed on an answer.
    """
    size = len(answers.completions[0])
    columns = {name: [v for v in values for _ in range(size)] for name, values in answers.columns.items()}
    specs: list[RewardSpec | str] = list(uses)
    engine = RewardEngine(specs, resources=resources, columns=columns)
    prompts = [prompt for prompt in answers.prompts for _ in range(size)]
    found = engine.score(prompts, list(chain.from_iterable(answers.completions)), columns, size)
    return found.reshape(len(answers.prompts), size, -1), engine.rewards


def conflicts(scores: Scores, names: Sequence[str], directions: Sequence[float]) -> dict[str, Any]:
    """Conflict within prompts, see `recrl.rl.optimizer.conflict`.

    Args:
        scores: Scores of the answers.
        names: Names of the rewards.
        directions: Direction of each: +1 if more is better, -1 if less is, 0 if it varies.

    Returns:
        ``names``, ``constant`` (those that never vary within a prompt), ``correlation`` (matrix, None where
        undefined), ``disagreement`` (by ``i~j``), ``dead`` (share of prompts, by name) and ``consensus``.
    """
    tensor = torch.from_numpy(scores)
    found = conflict_metrics(tensor, torch.zeros(tensor.shape[:2]), names, directions)

    def part(kind: str) -> dict[str, float]:
        prefix = f"conflict/{kind}/"
        return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}

    correlation, dead = part("corr"), part("dead_groups")

    def entry(i: str, j: str) -> float | None:
        if i == j:
            return 1.0 if dead[i] < 1 else None
        return correlation.get(f"{i}~{j}", correlation.get(f"{j}~{i}"))

    return {
        "names": list(names),
        "constant": [name for name in names if dead[name] == 1],
        "correlation": [[entry(i, j) for j in names] for i in names],
        "disagreement": part("sign_disagreement"),
        "dead": dead,
        "consensus": found.get("conflict/consensus"),
    }


@dataclass(frozen=True)
class Question:
    """Problem that is asked of the rewards; without an objective every pair of them is looked at."""

    objective: str | None = None
    """Name of the reward to maximise."""
    constraints: tuple[str, ...] = ()
    """Constraints as in a configuration."""


def measure(
    scores: Scores,
    rewards: Sequence[Reward],
    question: Question,
    source: str,
    on_progress: Callable[[int], None] = lambda done: None,
) -> tuple[dict[str, Any], Empirical | None]:
    """Conflict, optimum, prices and sweeps.

    Args:
        scores: Scores of the answers.
        rewards: Rewards in the order of the scores.
        question: Objective and constraints.
        source: Source of the answers, in words.
        on_progress: Function that is called with the number of bootstrap samples of the prices done.

    Returns:
        Content of ``own.json``, and the problem to compare rules on; None without constraints.

    Raises:
        BenchmarkError: there is nothing to choose.
    """
    names = [reward.name for reward in rewards]
    ranges = {reward.name: (reward.low, reward.high) for reward in rewards}
    content = json.dumps([names, ranges, question.objective, question.constraints]).encode()
    summary: dict[str, Any] = {
        "source": source,
        "prompts": len(scores),
        "answers": scores.shape[1],
        "fingerprint": hashlib.sha256(content + scores.tobytes()).hexdigest()[:16],
    }
    if not question.constraints:
        summary |= {"conflict": conflicts(scores, names, [1.0] * len(names)), "problem": None}
        varying = [name for name in names if name not in summary["conflict"]["constant"]]
        if len(varying) < 2:
            raise BenchmarkError(
                f"of the rewards {', '.join(names)}, {len(varying)} vary between the answers of a prompt; a "
                "conflict takes two: add rewards, take more --samples, or a higher --temperature"
            )
        pairs = (pair_sweep(scores, ranges, i, j) for i, j in combinations(varying, 2))
        return summary | {"sweeps": [found for found in pairs if found]}, None
    if question.objective is None:
        raise BenchmarkError("--constraint without --objective: name the reward to maximise under it")
    found = empirical("own rewards", scores, ranges, question.objective, question.constraints)
    wanted = found.known.problem.directions
    directions = [wanted.get(name, 1.0) for name in names]
    duals = [k for k, c in enumerate(found.known.problem.constraints) if c.kind != "gate"]
    return summary | {
        "conflict": conflicts(scores, names, directions),
        "problem": {
            "objective": question.objective,
            "constraints": list(question.constraints),
            "left out": found.left_out,
            "shift": found.shift,
            **prices(found, on_sample=on_progress),
        },
        "sweeps": [line for k in duals if (line := sweep(found, k))],
    }, found

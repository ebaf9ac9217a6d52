"""How good a policy is on the validation split: its deployed answers, under the bounds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...envs.statistics import Values, estimate
from ...envs.task import Row, Task
from ...rewards import RewardEngine
from ..optimizer.problem import Problem
from ..sampling import Sampling
from .answers import answer, scored
from .bounds import rows_inside, slack_of
from .settings import EvaluationConfig


def validated(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    rows: Sequence[Row],
    engine: RewardEngine,
    problem: Problem,
    sampling: Sampling,
    config: EvaluationConfig,
    seed: int,
    on_batch: Callable[[str, int], None] = lambda stage, done: None,
) -> dict[str, Any]:
    """Answer the validation rows, deployed as in a report; prices are fitted on these very rows.

    Returns:
        ``headline`` (name of the metric that ranks), ``metrics`` (means over users, each with its interval),
        ``constraints`` (name -> slack with its interval, of the means that an answer has a score for) and
        ``prices`` as an evaluation keeps them.
    """
    config = config.model_copy(update={"fit": "population", "answers_per_prompt": 1})
    found = answer(model, tokenizer, task, rows, engine, problem, sampling, config, seed, on_batch=on_batch)
    scores = scored(rows, found.deployed, tokenizer, engine)[0].astype(float)
    rewards: dict[str, Values] = {name: scores[:, k] for k, name in enumerate(engine.names)}
    users = np.array([row["user"] for row in rows])
    metrics = {**rewards, **task.metrics(rows, found.deployed, partial(dict, rewards))}
    constraints = {}
    for constraint, inside in zip(
        problem.constraints, rows_inside(problem, problem.constraints, rows).T, strict=True
    ):
        if constraint.kind != "mean":
            continue
        # A metric of that name goes first, as in a report: a reward with a memory holds these answers against
        # those of the training, and has no score for what was not trained on.
        if (slack := slack_of(constraint, inside, metrics[constraint.reward], users)) is not None:
            constraints[constraint.name] = asdict(slack)
    return {
        "headline": task.headline or problem.objective,
        "metrics": {
            name: asdict(estimate(values, users))
            for name, values in metrics.items()
            if not np.isnan(values).all()
        },
        "constraints": constraints,
        "prices": [] if found.hold is None else found.hold["prices"],
    }


def merit(found: Mapping[str, Any]) -> tuple[float, float]:
    """What makes one policy better than another: first to miss bounds by less, then a higher headline.

    A bound whose slack's 95 % interval reaches 0 counts as met, else noise would choose.
    """
    missed = sum(max(0.0, -slack["high"]) for slack in found["constraints"].values())
    return -missed, found["metrics"][found["headline"]]["mean"]

"""A policy's answers: sampled as in training, and deployed.

``sampled``   random answers as in the rollouts, scored by the run's own rewards: objective and constraints
``deployed``  greedy, lists without duplicates unless set otherwise: the task's own metrics
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...envs.task import Lines, Row, Task
from ...rewards import RewardEngine
from ..decoding.deploy import Bonuses, answer_texts, deploy
from ..decoding.kept import Kept
from ..optimizer.problem import Problem, segment_indicators
from ..sampling import Sampling
from .hold import Hold, as_json, holdable
from .settings import EvaluationConfig


@dataclass(frozen=True)
class Answers:
    """Answers of one policy to every row.

    Attributes:
        scores: Scores of sampled answers, ``[rows, answers, columns]`` (``Problem.columns``); NaN = missing.
        deployed: One deployed answer to each row.
        sampled: One sampled answer to each row.
        unpriced: Deployed answers without prices; None where there are none.
        hold: What holds the bounds in deployed answers, see :func:`recrl.rl.evaluation.hold.as_json`.
    """

    scores: npt.NDArray[np.float32]
    deployed: list[str]
    sampled: list[str]
    unpriced: list[str] | None = None
    hold: dict[str, Any] | None = None


def test_rows(task: Task, config: EvaluationConfig) -> list[dict[str, Any]]:
    """The rows that ``config`` asks for."""
    return task.rows("test", config.max_episodes, unseen=config.users == "unseen")


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    engine: RewardEngine,
    problem: Problem,
    sampling: Sampling,
    *,
    copies: int,
    batch_size: int,
    seed: int,
    kept: Kept | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Sampled answers to every row, scored.

    Args:
        rows: Rows with ``prompt`` and the columns that the rewards and the problem's segments read.
        copies: Number of answers to each row.
        kept: Answers of an earlier attempt, which are not sampled again.
        on_batch: Function that is called with the number of prompts answered.

    Returns:
        Scores ``[rows, copies, columns]``, see ``Problem.columns``, NaN = missing; and all texts, a row's
        answers next to each other.
    """
    prompts = [row["prompt"] for row in rows]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        texts = answer_texts(
            model,
            tokenizer,
            prompts,
            sampling,
            copies=copies,
            batch_size=batch_size,
            kept=kept,
            on_batch=on_batch,
        )
    scores, columns = scored(rows, texts, tokenizer, engine, copies)
    members = segment_indicators(problem, columns, len(texts)).numpy()
    return np.concatenate([scores, members], axis=1).reshape(len(rows), copies, -1), texts


def scored(
    rows: Sequence[Row],
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    engine: RewardEngine,
    copies: int = 1,
    only: Collection[str] | None = None,
) -> tuple[npt.NDArray[np.float32], dict[str, list[Any]]]:
    """Scores of ``copies`` answers to every row, ``[answers, rewards]``, and the columns they were given.

    Args:
        only: Rewards that are asked; all by default.
    """
    names = [key for key in rows[0] if key != "prompt"]
    columns: dict[str, list[Any]] = {key: [row[key] for row in rows for _ in range(copies)] for key in names}
    columns["completion_ids"] = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    scores = engine.score(
        [row["prompt"] for row in rows for _ in range(copies)],
        [[{"role": "assistant", "content": text}] for text in texts],
        columns,
        copies,
        only=only,
    )
    return scores, columns


def priced_ranking(
    task: Task,
    rows: Sequence[Row],
    engine: RewardEngine,
    problem: Problem,
    config: EvaluationConfig,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[list[str], dict[str, Any]] | None:
    """Lists of the task's ranker under the run's bounds, and their prices in the ranker's units for one unit
    of a reward; None without a ranker, or without a constraint that prices can hold."""
    constraints, why_not = holdable(task, engine, problem, config, rows) if config.hold != "off" else ([], {})
    if not constraints or (ranker := task.ranker()) is None:
        return None
    form, fitted_on = cast(Lines, task.form), _fitted_on(task, rows, config)
    ranked_rows = rows if fitted_on is rows else [*fitted_on, *rows]
    scores = ranker(ranked_rows)
    scale = float(scores.std()) or 1.0
    place = {id(row): i for i, row in enumerate(ranked_rows)}

    def ranked(asked: Sequence[Row], bonuses: Bonuses, copies: int) -> list[str]:
        own = torch.from_numpy(scores[[place[id(row)] for row in asked]] / scale)
        total = own[:, None] + bonuses(0, len(asked))
        best = total.topk(form.count, dim=-1).indices.flatten(0, 1)
        return [form.render(chosen) for chosen in best.tolist()]

    names = {constraint.reward for constraint in constraints}
    fitted = Hold(task, engine, problem, constraints, fitted_on)
    prices, priced = fitted.fit(
        ranked,
        lambda asked, given, copies: scored(asked, given, tokenizer, engine, copies, names)[0],
        margin=config.fit == "validation",
    )
    told = [replace(one, price=one.price * scale) for one in priced]
    served = fitted if fitted_on is rows else Hold(task, engine, problem, constraints, rows)
    return ranked(rows, served.bonuses(prices[None]), 1), as_json(told, why_not, config.fit)


def _fitted_on(task: Task, rows: Sequence[Row], config: EvaluationConfig) -> Sequence[Row]:
    """Rows that prices are fitted on, for rows that are answered."""
    return rows if config.fit == "population" else task.rows("validation", config.max_episodes)


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    rows: Sequence[Row],
    engine: RewardEngine,
    problem: Problem,
    sampling: Sampling,
    config: EvaluationConfig,
    seed: int,
    kept: Callable[[str], Kept | None] = lambda stage: None,
    on_batch: Callable[[str, int], None] = lambda stage, done: None,
) -> Answers:
    """Let a policy answer every row, sampled and deployed.

    Args:
        sampling: Sampling of the rollouts.
        kept: Store of the answers of ``sampled`` or ``deployed``, in case the process stops.
        on_batch: Function that is called with ``sampled``, ``deployed`` or ``priced`` and the number of
            prompts answered.
    """
    scores, texts = sample(
        model,
        tokenizer,
        rows,
        engine,
        problem,
        sampling,
        copies=config.answers_per_prompt,
        batch_size=config.batch_size,
        seed=seed,
        kept=kept("sampled"),
        on_batch=lambda done: on_batch("sampled", done),
    )
    prompts = [row["prompt"] for row in rows]
    unpriced = deploy(
        model,
        tokenizer,
        prompts,
        task.form,
        decoding=config.decoding,
        batch_size=config.batch_size,
        kept=kept("deployed"),
        on_batch=lambda done: on_batch("deployed", done),
    )
    sampled = texts[:: config.answers_per_prompt]
    if config.hold == "off":
        return Answers(scores, unpriced, sampled)
    constraints, why_not = holdable(task, engine, problem, config, rows)
    if not constraints:
        return Answers(scores, unpriced, sampled, hold=as_json([], why_not, config.fit))

    def answers(asked: Sequence[Row], bonuses: Bonuses, copies: int, stage: str) -> list[str]:
        return deploy(
            model,
            tokenizer,
            [row["prompt"] for row in asked],
            task.form,
            batch_size=config.batch_size * copies,
            bonuses=bonuses,
            copies=copies,
            on_batch=lambda done: on_batch(stage, done),
        )

    names = {constraint.reward for constraint in constraints}
    fitted_on = _fitted_on(task, rows, config)
    fitted = Hold(task, engine, problem, constraints, fitted_on)
    prices, priced = fitted.fit(
        lambda asked, bonuses, copies: answers(asked, bonuses, copies, "prices"),
        lambda asked, given, copies: scored(asked, given, tokenizer, engine, copies, names)[0],
        unpriced=unpriced if fitted_on is rows else None,
        margin=config.fit == "validation",
    )
    deployed = unpriced
    if prices.any():
        served = fitted if fitted_on is rows else Hold(task, engine, problem, constraints, rows)
        deployed = answers(rows, served.bonuses(prices[None]), 1, "priced")
    return Answers(
        scores,
        deployed,
        sampled,
        unpriced if prices.any() else None,
        as_json(priced, why_not, config.fit),
    )

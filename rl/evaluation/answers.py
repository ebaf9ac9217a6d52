"""A policy's answers: sampled as in training, and deployed.

``sampled``   random answers as in the rollouts, scored by the run's own rewards: objective and constraints
``deployed``  greedy, lists without duplicates unless set otherwise: the task's own metrics
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...envs.task import Row, Task
from ...rewards import RewardEngine
from ..decoding.deploy import answer_texts, deploy
from ..decoding.kept import Kept
from ..optimizer.problem import Problem, segment_indicators
from ..sampling import Sampling
from .deploying import Deploying
from .hold import as_json, holdable
from .serving import Serving
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


def fitted_rows(task: Task, rows: Sequence[Row], config: EvaluationConfig) -> Sequence[Row]:
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
        on_batch: Function that is called with ``sampled``, ``deployed``, ``prices``, ``priced`` or
            ``candidates``, and the number of prompts answered.
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
        barred=[task.barred(row) for row in rows],
        kept=kept("deployed"),
        on_batch=lambda done: on_batch("deployed", done),
    )
    sampled = texts[:: config.answers_per_prompt]
    if config.hold == "off":
        return Answers(scores, unpriced, sampled)
    constraints, why_not = holdable(task, engine, problem, config, rows)
    if not constraints:
        return Answers(scores, unpriced, sampled, hold=as_json([], why_not, config))
    names = {constraint.reward for constraint in constraints}
    served = Serving(
        Deploying(
            *(model, tokenizer, task, config, seed),
            lambda stage, count: nullcontext(partial(on_batch, stage)),
        ),
        lambda asked, given, copies: scored(asked, given, tokenizer, engine, copies, names)[0],
        task,
        engine,
        problem,
        config,
        rows,
        fitted_rows(task, rows, config),
    ).answers(constraints, unpriced)
    paid = any(one.price or one.choice for one in served.priced)
    return Answers(
        scores,
        served.texts,
        sampled,
        unpriced if paid else None,
        as_json(served.priced, why_not | served.why_not, config),
    )

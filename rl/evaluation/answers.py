"""A policy's answers and its tables: sampled as in training, and deployed, beside the baselines.

``sampled``   random answers as in the rollouts, scored by the run's own rewards: objective and constraints
``deployed``  greedy lists, without duplicates unless set otherwise: the protocol's metrics
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...envs.catalog import Catalog
from ...envs.data.prepared import TagTask
from ...envs.tags import metrics
from ...rewards import RewardEngine
from ..decoding.deploy import answer_texts, deploy
from ..decoding.kept import Kept
from ..optimizer.problem import Problem, segment_indicators
from ..sampling import Sampling
from .settings import EvaluationConfig


@dataclass(frozen=True)
class Answers:
    """What one policy answered to every episode.

    Attributes:
        scores: ``[episodes, answers, columns]`` of the sampled answers, see ``Problem.columns``; NaN =
        missing. slots: ``[episodes, K]`` tag ids of the deployed list.
        texts: One sampled answer for each episode.
    """

    scores: npt.NDArray[np.float32]
    slots: npt.NDArray[np.int32]
    texts: list[str]


def test_episodes(task: TagTask, config: EvaluationConfig) -> pl.DataFrame:
    """The episodes that ``config`` asks for."""
    episodes = task.split("test")
    if config.users == "unseen":
        episodes = episodes.filter(pl.col("unseen"))
    if config.max_episodes is not None and config.max_episodes < episodes.height:
        chosen = np.linspace(0, episodes.height - 1, config.max_episodes).round().astype(int)
        episodes = episodes[chosen]
    return episodes


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Any]],
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
        rows: ``prompt`` and the columns that the rewards and the problem's segments read.
        copies: Answers to each row.
        kept: Answers of an earlier attempt, which are not sampled again.
        on_batch: Called with the number of prompts answered.

    Returns:
        ``[rows, copies, columns]``, see ``Problem.columns``, NaN = missing; and all texts, a row's answers
        next to each other.
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
    columns = {key: [row[key] for row in rows for _ in range(copies)] for key in rows[0] if key != "prompt"}
    columns["completion_ids"] = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    scores = engine.score(
        [prompt for prompt in prompts for _ in range(copies)],
        [[{"role": "assistant", "content": text}] for text in texts],
        columns,
        copies,
    )
    members = segment_indicators(problem, columns, len(texts)).numpy()
    return np.concatenate([scores, members], axis=1).reshape(len(rows), copies, -1), texts


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Any]],
    catalog: Catalog,
    engine: RewardEngine,
    problem: Problem,
    slots: int,
    sampling: Sampling,
    config: EvaluationConfig,
    seed: int,
    kept: Callable[[str], Kept | None] = lambda stage: None,
    on_batch: Callable[[str, int], None] = lambda stage, done: None,
) -> Answers:
    """Let a policy answer every row, sampled and deployed.

    Args:
        rows: ``prompt`` and the columns that the rewards read.
        sampling: The rollouts'.
        kept: Where answers of ``sampled`` or ``deployed`` are kept in case the process stops.
        on_batch: Called with ``sampled`` or ``deployed`` and the number of prompts answered.
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
    listed = deploy(
        model,
        tokenizer,
        [row["prompt"] for row in rows],
        catalog,
        slots,
        decoding=config.decoding,
        batch_size=config.batch_size,
        kept=kept("deployed"),
        on_batch=lambda done: on_batch("deployed", done),
    )
    return Answers(
        scores=scores,
        slots=metrics.to_slots([catalog.parse(text) for text in listed], slots),
        texts=texts[:: config.answers_per_prompt],
    )

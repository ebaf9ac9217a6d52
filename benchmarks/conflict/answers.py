"""Answers to one's own prompts: read from a file, or sampled from a policy.

``read_rows``     prompts and their columns, JSON lines or Parquet
``read_answers``  the same with ready-made ``completions``
``sample``        lets a policy answer; ``save`` keeps its answers in the form that ``read_answers`` reads
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recrl.envs.tags.prompts import Message
from recrl.rewards.base import Completion
from recrl.rl.policy.settings import PolicyConfig

from .suite import BenchmarkError

PROMPT, COMPLETIONS = "prompt", "completions"


@dataclass(frozen=True)
class Answers:
    """Prompts with the same number of answers each."""

    prompts: list[Any]
    """Prompts: text or chat messages each."""
    completions: list[list[Completion]]
    """Answers `[prompt][answer]`: text, or chat messages as TRL passes them if the prompt is chat."""
    columns: dict[str, list[Any]]
    """Other columns of the rows, one entry a prompt."""


@dataclass(frozen=True)
class Sampling:
    """How a policy answers."""

    policy: str
    """Policy: ``smollm2``, ``tiny`` (with a catalogue), a local path or a hub name."""
    answers: int = 8
    """Answers to each prompt."""
    max_tokens: int = 128
    """Tokens of the longest answer."""
    temperature: float = 1.0
    """Temperature; 1 leaves the policy as it is."""
    batch_size: int = 64
    """Answers generated at once."""
    seed: int = 0
    """Seed of the sampling."""


def read_rows(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """Rows with a ``prompt``, and the same columns in each.

    Args:
        path: File: ``.parquet``, else one JSON object a line.
        limit: Largest number of rows, from the start.

    Raises:
        BenchmarkError: no such file, no rows, or a row that lacks something.
    """
    if not path.is_file():
        raise BenchmarkError(f"no file {path}; --prompts and --answers take a .jsonl or .parquet file")
    if path.suffix == ".parquet":
        import polars as pl

        rows = pl.read_parquet(path).to_dicts()
    else:
        rows = [
            _parsed(path, n, line) for n, line in enumerate(path.read_text().splitlines(), start=1) if line
        ]
    rows = rows[:limit]
    if not rows:
        raise BenchmarkError(f"{path} holds no rows; give one prompt a row")
    for number, row in enumerate(rows, start=1):
        for column in (PROMPT, *rows[0]):
            if column not in row:
                raise BenchmarkError(f"{path}, row {number} has no {column!r}; it has: {', '.join(row)}")
    return rows


def _parsed(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise BenchmarkError(f"{path}, line {number} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise BenchmarkError(f'{path}, line {number} is no object; write {{"prompt": ...}}')
    return row


def read_answers(path: Path, limit: int | None = None) -> Answers:
    """Ready-made answers; where their numbers differ, the first of each prompt up to the smallest number.

    Raises:
        BenchmarkError: what `read_rows` refuses, or a prompt has fewer than 2 answers.
    """
    rows = read_rows(path, limit)
    if COMPLETIONS not in rows[0]:
        raise BenchmarkError(
            f"{path} has no column 'completions'; it has: {', '.join(rows[0])}. Give each row a list of "
            "answers, or pass the file as --prompts with a --policy that answers"
        )
    for number, row in enumerate(rows, start=1):
        if len(row[COMPLETIONS]) < 2:
            raise BenchmarkError(
                f"{path}, row {number} has {len(row[COMPLETIONS])} answers; rewards are compared within a "
                "prompt, which takes 2 or more"
            )
    count = min(len(row[COMPLETIONS]) for row in rows)
    return _answers(rows, [row[COMPLETIONS][:count] for row in rows])


def sample(
    rows: Sequence[Mapping[str, Any]],
    sampling: Sampling,
    tags: Sequence[str] = (),
    on_batch: Callable[[int], None] = lambda done: None,
) -> Answers:
    """Let a policy answer every row; a prompt that is text becomes one user message.

    Args:
        rows: Rows with ``prompt``.
        sampling: Policy, and how it answers.
        tags: Tags of the catalogue, for the policy ``tiny``.
        on_batch: Function that is called with the number of prompts answered.

    Raises:
        BenchmarkError: fewer than 2 answers a prompt, or no such policy.
    """
    import torch

    from recrl.rl import policy
    from recrl.rl.decoding import generate as generation
    from recrl.rl.decoding.deploy import answer_texts

    if sampling.answers < 2:
        raise BenchmarkError(
            f"--samples {sampling.answers}: rewards are compared within a prompt; take 2 or more"
        )
    chats: list[list[Message]] = [
        [{"role": "user", "content": row[PROMPT]}] if isinstance(row[PROMPT], str) else row[PROMPT]
        for row in rows
    ]
    texts = [message["content"] for chat in chats for message in chat]
    try:
        model, tokenizer = policy.load(PolicyConfig(model=sampling.policy), options=tags, texts=texts)
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"--policy {sampling.policy}: {error}") from error
    drawn = generation.Sampling(
        sampling.max_tokens, ends=(int(tokenizer.eos_token_id),), temperature=sampling.temperature
    )
    with torch.random.fork_rng():
        torch.manual_seed(sampling.seed)
        found = answer_texts(
            model,
            tokenizer,
            chats,
            drawn,
            copies=sampling.answers,
            batch_size=sampling.batch_size,
            on_batch=on_batch,
        )
    groups = [found[i : i + sampling.answers] for i in range(0, len(found), sampling.answers)]
    completions: list[list[Completion]] = [
        [text if isinstance(row[PROMPT], str) else [{"role": "assistant", "content": text}] for text in group]
        for row, group in zip(rows, groups, strict=True)
    ]
    return _answers(rows, completions)


def save(answers: Answers, path: Path) -> None:
    """Write one row a prompt, for `read_answers`."""
    with path.open("w") as file:
        for i, (prompt, given) in enumerate(zip(answers.prompts, answers.completions, strict=True)):
            columns = {name: values[i] for name, values in answers.columns.items()}
            row = {PROMPT: prompt, COMPLETIONS: given, **columns}
            file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def _answers(rows: Sequence[Mapping[str, Any]], completions: list[list[Completion]]) -> Answers:
    names = [name for name in rows[0] if name not in (PROMPT, COMPLETIONS)]
    return Answers(
        [row[PROMPT] for row in rows], completions, {name: [row[name] for row in rows] for name in names}
    )

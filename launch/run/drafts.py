"""Answers without a policy, to ask rewards about before there is one.

``Asked``         answers with what rewards read beside them
``drafted``       answers that a half-trained policy could write
``awkward``       odd answers, as they occur early in training
``asked``         given texts
``resources_of``  what rewards may name as a parameter, where nothing is trained
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerState

from ...envs.task import AWKWARD, Row
from .setup import Setup


@dataclass(frozen=True)
class Asked:
    """Answers to real episodes, whole groups in consecutive rows.

    Attributes:
        prompts: ``[sample]`` prompts.
        completions: ``[sample]`` answers.
        columns: Dataset columns, ``completion_ids`` included.
        group: Number of answers to a prompt.
        origin: Origin of the answers, in words.
    """

    prompts: list[Any]
    completions: list[Any]
    columns: dict[str, list[Any]]
    group: int
    origin: str

    def rows(self, chosen: Sequence[int]) -> tuple[list[Any], list[Any], dict[str, list[Any]]]:
        return (
            [self.prompts[i] for i in chosen],
            [self.completions[i] for i in chosen],
            {name: [values[i] for i in chosen] for name, values in self.columns.items()},
        )


def drafted(setup: Setup, prompts: int, group: int, seed: int = 0) -> Asked:
    """Answers that a half-trained policy could write, for training episodes."""
    rows = setup.task.rows("train", prompts)
    texts = setup.task.drafts(rows, group, seed)
    return asked([row for row in rows for _ in range(group)], texts, group, f"{len(texts)} drafts")


def awkward(row: Row, words: int | None = None) -> Asked:
    """Odd answers to one prompt.

    Args:
        words: Largest number of words of an answer; by default any.
    """
    texts = [text for text in AWKWARD if words is None or len(text.split()) <= words]
    return asked([row] * len(texts), texts, len(texts), f"{len(texts)} odd answers")


def asked(rows: Sequence[Row], texts: Sequence[str], group: int, origin: str) -> Asked:
    """Texts as answers to the prompts of rows, one a row."""
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
    # Stand-ins for tokens, of which a draft has none: one a word.
    columns["completion_ids"] = [list(range(len(text.split()))) for text in texts]
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    return Asked([row["prompt"] for row in rows], completions, columns, group, origin)


def resources_of(setup: Setup) -> dict[str, Any]:
    """Resources of a run's rewards, with the trainer's state and logs as they are before a training."""
    return {
        **setup.engine.resources,
        "trainer_state": TrainerState(),
        "log_metric": lambda name, value: None,
        "log_extra": lambda column, values: None,
    }

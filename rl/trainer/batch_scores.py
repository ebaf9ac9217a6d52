"""``BatchScores``: the scores of one generation batch, from its first answer to its advantages.

Groups that are answered before others may be asked for early; when the batch is whole its scores are
gathered, so that every rank holds the same matrix; and where tags are credited, the scores of the answers'
beginnings are gathered beside them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather, gather_object
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from trl.data_utils import is_conversational

from ...rewards import RewardEngine, RewardError
from ..distributed.processes import on_all_or_none
from ..optimizer.credit import count_tokens, spread, tag_positions
from ..optimizer.problem import Problem, segment_indicators


@dataclass(frozen=True)
class TagCredit:
    """Scores of the beginnings of all answers, and the tokens of each of their tags.

    Attributes:
        running: Scores of the first 0, 1, 2, ... tags, ``[sample of all ranks, position, reward]``.
        tokens: Number of tokens of each tag, ``[sample of all ranks, position]``.
        positions: Tag that each token belongs to, ``[sample of this rank][token]``.
    """

    running: Tensor
    tokens: Tensor
    positions: list[list[int]]

    def grouped(self, group_size: int) -> dict[str, Tensor]:
        """Both tensors as ``[group, sample, ...]``."""
        shape = (-1, group_size)
        return {"running": self.running.unflatten(0, shape), "tokens": self.tokens.unflatten(0, shape)}

    def spread(self, advantages: Tensor, width: int) -> Tensor:
        """Advantages of this rank's tags, ``[sample, position]``, to their tokens: ``[sample, width]``."""
        return spread(advantages, self.positions, width)

    def mean(self, advantages: Tensor) -> Tensor:
        """Mean over the tokens of each answer: ``[sample of all ranks, position] -> [sample]``."""
        return (advantages * self.tokens).sum(dim=1) / self.tokens.sum(dim=1).clamp(min=1)


class Pieces:
    """Text of each token of a tokenizer by itself; special tokens decode to nothing."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer: Any = tokenizer
        self._texts: dict[int, str] = {}

    def __call__(self, ids: Sequence[int]) -> list[str]:
        for token in set(ids) - self._texts.keys():
            self._texts[token] = self._tokenizer.decode([token], skip_special_tokens=True)
        return [self._texts[token] for token in ids]


class BatchScores:
    """Scores of the answers to one generation batch.

    Args:
        engine: Engine that scores completions.
        problem: Problem that names the rewards and the segments.
        rows: Samples of this rank, with ``prompt`` and the data's columns; those of a group are neighbours.
        group_size: Number of completions of a prompt.
        tokenizer: Tokenizer that decodes the answers that are asked for early.
        pieces: Texts of tokens, to split answers into tags; None credits whole answers.
        early: Whether ``ask`` may hand out groups before the batch is whole.

    Attributes:
        scores: Scores after ``score``, ``[N of all ranks, K + segments]``, NaN = missing.
        tags: Credit of the tags after ``score``; None credits whole answers.
        spent: Seconds of each reward and share of failed samples of this rank, by the name of their metric.
    """

    scores: Tensor
    tags: TagCredit | None = None

    def __init__(
        self,
        engine: RewardEngine,
        problem: Problem,
        rows: Sequence[Mapping[str, Any]],
        *,
        group_size: int,
        tokenizer: PreTrainedTokenizerBase,
        pieces: Pieces | None,
        early: bool,
    ) -> None:
        self._engine, self._problem, self._rows, self._pieces = engine, problem, rows, pieces
        self.group_size = group_size
        self._tokenizer: Any = tokenizer
        # Before the first group is asked for.
        self._failed, self._seconds = engine.failed, engine.seconds
        self._early = engine.early(group_size) if early else None
        self._answers: dict[int, Sequence[int]] = {}
        self.spent: dict[str, float] = {}

    def ask(self, members: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        """Ask for the rewards of the groups that these answers complete, where that saves time.

        Args:
            members: Rows of the answers.
            tokens: Token ids of each.
        """
        if self._early is None:
            return
        self._answers.update(zip(members, tokens, strict=True))
        for first in sorted({i // self.group_size * self.group_size for i in members}):
            group = range(first, first + self.group_size)
            if not all(i in self._answers for i in group):
                continue
            ids, rows = [list(self._answers[i]) for i in group], [self._rows[i] for i in group]
            texts = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
            conversational = is_conversational({"prompt": rows[0]["prompt"]})
            completions = [
                [{"role": "assistant", "content": text}] if conversational else text for text in texts
            ]
            self._early.add(first, [row["prompt"] for row in rows], completions, _columns(rows, ids))

    def close(self) -> None:
        """Cancel what was asked for early and is not awaited."""
        if self._early is not None:
            self._early.cancel()
        self._early, self._answers = None, {}

    def score(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        more: Mapping[str, Sequence[Any]],
        *,
        learn: bool,
        device: torch.device,
    ) -> Tensor:
        """Score the whole batch and gather the scores; every rank calls it.

        Args:
            prompts, completions, completion_ids: Samples of this rank, as TRL hands them to rewards.
            more: Columns that the data do not have.
            learn: Whether to show the batch to the rewards that remember samples.

        Returns:
            Scores ``[N of all ranks, K]`` in the order of the problem's rewards.

        Raises:
            RewardError: a reward failed on some rank.
        """
        columns = {**_columns(self._rows, completion_ids), **{name: [*more[name]] for name in more}}
        own, beginnings = on_all_or_none(
            lambda: self._own(prompts, completions, columns, completion_ids), RewardError
        )
        if learn:
            self._engine.learn(prompts, completions, columns, gather_object)
        members = segment_indicators(self._problem, columns, len(own))
        self.scores = gather(torch.cat([torch.from_numpy(own), members], dim=1).to(device))
        if beginnings is not None:
            self.tags = _gathered(*beginnings, device)
        return self.scores[:, : len(self._problem.names)]

    def _own(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        columns: dict[str, list[Any]],
        completion_ids: Sequence[Sequence[int]],
    ) -> tuple[np.ndarray, tuple[np.ndarray, list[list[int]]] | None]:
        """Scores of this rank; with credit per tag, those of the beginnings and the tag of each token."""
        engine, early, self._early = self._engine, self._early, None
        scores = engine.score(prompts, completions, columns, self.group_size, early)
        self.spent = {f"reward_seconds/{name}": s - self._seconds[name] for name, s in engine.seconds.items()}
        for name, count in engine.failed.items():
            self.spent[f"rewards/{name}/failed"] = (count - self._failed[name]) / len(scores)
        if self._pieces is None:
            return scores, None
        positions = [tag_positions(self._pieces(ids)) for ids in completion_ids]
        lengths = 1 + max(max(tags, default=0) for tags in positions)
        return scores, (engine.score_prefixes(prompts, completions, columns, lengths), positions)


def _columns(
    rows: Sequence[Mapping[str, Any]], completion_ids: Sequence[Sequence[int]]
) -> dict[str, list[Any]]:
    """Columns of the data, and the token ids of the completions."""
    columns = {key: [row[key] for row in rows] for key in rows[0] if key not in ("prompt", "completion")}
    return {**columns, "completion_ids": list(completion_ids)}


def _gathered(running: np.ndarray, positions: list[list[int]], device: torch.device) -> TagCredit:
    """Credit of all ranks' tags.

    Every rank is brought to the same number of positions; past its end an answer keeps its last score.
    """
    lengths = int(gather(torch.tensor([running.shape[1]], device=device)).max())
    padded = np.pad(running, ((0, 0), (0, lengths - running.shape[1]), (0, 0)), mode="edge")
    tokens = count_tokens(positions, lengths)
    return TagCredit(gather(torch.from_numpy(padded).to(device)), gather(tokens.to(device)), positions)

"""Answers by several processes: the first asks and notes, all of them write.

Each is given batches of the size that one process alone would write, so the answers are the same however many
there are.

``Spread``  the first process
``assist``  what the others do
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from ...envs.task import Message, Row
from ..decoding.candidates import Candidates
from ..decoding.deploy import Bonuses, deploy
from .asked import Asked
from .bounds import Floats
from .deploying import Deploying


@dataclass(frozen=True)
class _Share:
    """A batch of one process.

    Attributes:
        barred: Options that the answers to each prompt may not name.
        bonuses: Bonuses ``[prompt, copy, option]``; None for none.
        copies: Number of answers to each prompt.
        drawn: What draws them; None for greedy ones.
    """

    prompts: list[list[Message]]
    barred: list[Collection[int]]
    bonuses: Tensor | None
    copies: int
    drawn: Candidates | None

    def answers(self, policy: Deploying) -> tuple[list[str], Floats]:
        """Texts, and the log-probabilities of drawn ones in nats."""
        bonuses = self.bonuses
        texts = deploy(
            policy.model,
            policy.tokenizer,
            self.prompts,
            policy.task.form,
            decoding=policy.config.decoding,
            batch_size=len(self.prompts) * self.copies,
            bonuses=None if bonuses is None else lambda first, end: bonuses[first:end],
            barred=self.barred,
            copies=self.copies,
            candidates=self.drawn,
        )
        return texts, np.zeros(0) if self.drawn is None else self.drawn.logprobs.ravel()


@dataclass
class Spread(Asked):
    """The policy of several processes, asked by the first, which lets the others go by :meth:`end`."""

    def answered(
        self,
        rows: Sequence[Row],
        bonuses: Bonuses | None,
        copies: int,
        stage: str,
        drawn: Candidates | None = None,
    ) -> list[str]:
        processes = PartialState().num_processes
        each = max(1, self.config.batch_size // (1 if drawn is None else copies))
        kept = self.kept(rows, bonuses, copies, drawn, each * processes)
        texts = kept.begin() if kept is not None else []
        with self.watch(stage, len(rows)) as advance:
            for first in range(len(texts) // copies, len(rows), each * processes):
                shares = [
                    self._share(rows, bonuses, copies, drawn, at, min(at + each, len(rows)))
                    for at in range(first, min(first + each * processes, len(rows)), each)
                ]
                broadcast_object_list([shares])
                for answers, logprobs in gather_object([_answers(self, shares)]):
                    texts += answers
                    if drawn is not None:
                        drawn.add(logprobs)
                if kept is not None:
                    kept.keep(texts)
                advance(len(texts) // copies)
        return texts

    def end(self) -> None:
        """Let the other processes go."""
        broadcast_object_list([None])

    def _share(
        self,
        rows: Sequence[Row],
        bonuses: Bonuses | None,
        copies: int,
        drawn: Candidates | None,
        first: int,
        end: int,
    ) -> _Share:
        return _Share(
            [row["prompt"] for row in rows[first:end]],
            [self.task.barred(row) for row in rows[first:end]],
            None if bonuses is None else bonuses(first, end),
            copies,
            None if drawn is None else drawn.behind(first),
        )


def assist(policy: Deploying) -> None:
    """Answer what the first process asks, until it lets go."""
    while (shares := broadcast_object_list([None])[0]) is not None:
        gather_object([_answers(policy, shares)])


def _answers(policy: Deploying, shares: Sequence[_Share]) -> tuple[list[str], Floats]:
    """Answers of this process; of the last batches there may be too few for all."""
    number = PartialState().process_index
    if number >= len(shares):
        return [], np.zeros(0)
    return shares[number].answers(policy)

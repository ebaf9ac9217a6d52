"""A policy that is asked each thing once: what it answered before is read from a folder."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...envs.task import Row, Task
from ..decoding.candidates import Candidates
from ..decoding.deploy import Bonuses, deploy
from ..decoding.journal import Journal
from .serving import Drawn
from .settings import EvaluationConfig


@dataclass
class Asked:
    """A policy that is deployed, see :class:`recrl.rl.evaluation.serving.Answering`.

    A question is the prompts, what favours options, and how many answers; its file in ``folder`` has a digest
    of all that as its name.

    Attributes:
        folder: Folder of the answers; whoever has what they are for deletes it.
        identity: What else the answers depend on: weights, decoding, versions.
        seed: Seed of the candidates.
        watch: Function that shows progress: stage and number of prompts -> context of a function that is
            called with the number answered.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    config: EvaluationConfig
    folder: Path
    identity: str
    seed: int
    watch: Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

    def greedy(self, rows: Sequence[Row], bonuses: Bonuses | None, copies: int, stage: str) -> list[str]:
        if copies == 1:
            return self._answered(rows, bonuses, 1, Candidates(1, self.seed), stage)
        return self._answered(rows, bonuses, copies, None, stage)

    def candidates(self, rows: Sequence[Row], bonuses: Bonuses | None, copies: int) -> Drawn:
        drawn = Candidates(copies, self.seed)
        texts = self._answered(rows, bonuses, copies, drawn, "candidates" if copies > 1 else "priced")
        return Drawn(texts, drawn.logprobs)

    def _answered(
        self,
        rows: Sequence[Row],
        bonuses: Bonuses | None,
        copies: int,
        drawn: Candidates | None,
        stage: str,
    ) -> list[str]:
        # Copies that differ by their bonuses share the reading of the prompt; candidates are drawn apart.
        at_once = self.config.batch_size * (copies if drawn is None else 1)
        batch = max(1, at_once // copies)
        kind = f"{copies} {'alike' if drawn is None else 'drawn'}, {batch} prompts at once"
        digest = hashlib.sha256(f"{self.identity} {kind}".encode())
        for first in range(0, len(rows), batch):
            end = min(first + batch, len(rows))
            digest.update(json.dumps([row["prompt"] for row in rows[first:end]]).encode())
            if bonuses is not None:
                digest.update(np.ascontiguousarray(bonuses(first, end).numpy()).tobytes())
        path = self.folder / f"{digest.hexdigest()[:32]}.jsonl"
        journal = Journal(path, len(rows) * copies, batch * copies, drawn)
        with self.watch(stage, len(rows)) as advance:
            return deploy(
                self.model,
                self.tokenizer,
                [row["prompt"] for row in rows],
                self.task.form,
                decoding=self.config.decoding,
                batch_size=at_once,
                bonuses=bonuses,
                copies=copies,
                candidates=drawn,
                kept=journal,
                on_batch=advance,
            )

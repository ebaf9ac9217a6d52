"""A policy that is asked each thing once: what it answered before is read from a folder."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...envs.task import Row
from ..decoding.candidates import Candidates
from ..decoding.deploy import Bonuses
from ..decoding.journal import Journal
from .deploying import Deploying


@dataclass
class Asked(Deploying):
    """A policy whose answers are noted as they come.

    A question is the prompts, what favours and bars options, and how many answers; its file in ``folder`` has
    a digest of all that as its name.

    Attributes:
        folder: Folder of the answers; whoever has what they are for deletes it.
        identity: What else the answers depend on: weights, decoding, versions.
    """

    folder: Path = field(kw_only=True)
    identity: str = field(kw_only=True)

    def greedy(self, rows: Sequence[Row], bonuses: Bonuses | None, copies: int, stage: str) -> list[str]:
        # Noted with their log-probabilities, so that the answers that are served need not be asked again.
        drawn = Candidates(1, self.seed) if copies == 1 else None
        return self.answered(rows, bonuses, copies, stage, drawn)

    def kept(
        self,
        rows: Sequence[Row],
        bonuses: Bonuses | None,
        copies: int,
        drawn: Candidates | None,
        batch: int,
    ) -> Journal | None:
        kind = f"{copies} {'alike' if drawn is None else 'drawn'}, {batch} prompts at once"
        digest = hashlib.sha256(f"{self.identity} {kind}".encode())
        for first in range(0, len(rows), batch):
            end = min(first + batch, len(rows))
            digest.update(json.dumps([row["prompt"] for row in rows[first:end]]).encode())
            if any(barred := [sorted(self.task.barred(row)) for row in rows[first:end]]):
                digest.update(json.dumps(barred).encode())
            if bonuses is not None:
                digest.update(np.ascontiguousarray(bonuses(first, end).numpy()).tobytes())
        path = self.folder / f"{digest.hexdigest()[:32]}.jsonl"
        return Journal(path, len(rows) * copies, batch * copies, drawn)

"""A policy that is deployed: greedy answers under bonuses, and candidates."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...envs.task import Row, Task
from ..decoding.candidates import Candidates
from ..decoding.deploy import Bonuses, deploy
from ..decoding.journal import Journal
from ..decoding.writing import Writer
from .serving import Drawn
from .settings import EvaluationConfig

Watch = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Stage and number of prompts -> context of a function that is called with the number answered."""


def _unwatched(stage: str, count: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda done: None)


@dataclass
class Deploying:
    """A policy that answers, see :class:`recrl.rl.evaluation.serving.Answering`.

    Attributes:
        seed: Seed of the candidates.
        watch: Function that shows progress.
    """

    model: PreTrainedModel | Writer
    tokenizer: PreTrainedTokenizerBase
    task: Task
    config: EvaluationConfig
    seed: int
    watch: Watch = _unwatched

    def greedy(self, rows: Sequence[Row], bonuses: Bonuses | None, copies: int, stage: str) -> list[str]:
        return self.answered(rows, bonuses, copies, stage)

    def candidates(self, rows: Sequence[Row], bonuses: Bonuses | None, copies: int) -> Drawn:
        drawn = Candidates(copies, self.seed)
        texts = self.answered(rows, bonuses, copies, "candidates" if copies > 1 else "priced", drawn)
        return Drawn(texts, drawn.logprobs)

    def answered(
        self,
        rows: Sequence[Row],
        bonuses: Bonuses | None,
        copies: int,
        stage: str,
        drawn: Candidates | None = None,
    ) -> list[str]:
        """Answers to rows, ``copies`` to each.

        Args:
            drawn: What draws them; None for greedy ones.
        """
        # Copies that differ by their bonuses share the reading of the prompt; candidates are drawn apart.
        at_once = self.config.batch_size * (copies if drawn is None else 1)
        kept = self.kept(rows, bonuses, copies, drawn, max(1, at_once // copies))
        with self.watch(stage, len(rows)) as advance:
            return deploy(
                self.model,
                self.tokenizer,
                [row["prompt"] for row in rows],
                self.task.form,
                decoding=self.config.decoding,
                batch_size=at_once,
                bonuses=bonuses,
                barred=[self.task.barred(row) for row in rows],
                copies=copies,
                candidates=drawn,
                kept=kept,
                on_batch=advance,
            )

    def kept(
        self,
        rows: Sequence[Row],
        bonuses: Bonuses | None,
        copies: int,
        drawn: Candidates | None,
        batch: int,
    ) -> Journal | None:
        """Answers of an earlier attempt; none here.

        Args:
            batch: Number of rows that are answered at once.
        """
        return None

"""Judge-as-a-Reward: a judge's grades, distilled into a model (``recrl judge distill``).

``judge_score``             how good the judge would find an answer
``explanation_acceptance``  how likely the judge finds no defect in it
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from ..base import Completion
from ..registry import reward
from .models import RewardModel

logger = logging.getLogger(__name__)

CARD = "judge.json"
"""File beside a distilled model: where its grades come from, and what its scores mean."""
DRIFT = "drift.safetensors"
"""File beside it: what its features were in the training."""
# Share of a call's texts beyond the limit, where one of a hundred is usual, and texts that tell it.
_TOO_MANY, _ENOUGH = 0.1, 20


def distances(features: Any, mean: Any, directions: Any) -> Any:
    """Distance of each text from those of the training, ``[text]``, of tensors.

    Args:
        features: What the head reads, ``[text, hidden]``.
        mean: Mean of the training, ``[hidden]``.
        directions: Directions over their standard deviations, ``[directions, hidden]``.
    """
    return ((features - mean) @ directions.T).square().mean(-1).sqrt()


class Distilled(RewardModel):
    """A distilled judge: a calibrated probability, and an alarm where texts are of another kind.

    Args:
        model: folder that ``recrl judge distill`` wrote.
        batch_size, max_length, device, dtype: as of the reward ``reward_model``.

    Attributes:
        meaning: Entry of its card that calibrates the logit.
        card: What the folder says of itself: who graded, how well the scores agree.
        beyond: Number of texts so far that are unlike those of the training; ``scored``: of all texts.

    Raises:
        ValueError: the folder is no distilled judge.
    """

    meaning: ClassVar[Literal["score", "acceptance"]]

    def __init__(
        self,
        model: str,
        batch_size: int = 16,
        max_length: int | None = None,
        device: str | None = None,
        dtype: str = "float32",
    ) -> None:
        try:
            self.card: dict[str, Any] = json.loads((Path(model) / CARD).read_text(encoding="utf-8"))
            calibration = self.card[self.meaning]
            self._scale, self._shift = float(calibration["scale"]), float(calibration["shift"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ValueError(
                f"model={model!r} is no distilled judge, since its {CARD} cannot be read ({error}); make one "
                "with recrl judge distill, or use reward_model for another classifier"
            ) from error
        super().__init__(model, None, "none", batch_size, max_length, device, dtype)
        from safetensors.torch import load_file

        known = load_file(Path(model) / DRIFT, device=str(self._device))
        self._mean, self._directions, self._limit = known["mean"], known["directions"], known["limit"]
        self.beyond = self.scored = 0
        self._warned = False

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Completion]) -> list[float]:
        before, beyond = self.scored, self.beyond
        scores = super().__call__(prompts, completions)
        texts, strange = self.scored - before, self.beyond - beyond
        if not self._warned and texts >= _ENOUGH and strange > _TOO_MANY * texts:
            self._warned = True
            logger.warning(
                "%d of %d texts are unlike those that the judge %s was distilled from: its scores may mean "
                "nothing there; grade texts of this policy (recrl judge grade) and distil again",
                strange,
                texts,
                self._model.name_or_path,
            )
        return scores

    def _forward(self, rows: Sequence[list[int]]) -> list[float]:
        import torch

        ids, lengths = self._padded(rows)
        mask = torch.arange(ids.shape[1], device=self._device) < lengths[:, None]
        with torch.no_grad():
            body = self._model.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
            states = body.last_hidden_state[torch.arange(len(rows), device=self._device), lengths - 1]
            logits = self._model.score(states)[:, 0].float()
            apart = distances(states.float(), self._mean, self._directions)
        self.scored += len(rows)
        self.beyond += int((apart > self._limit).sum())
        return (self._scale * logits + self._shift).sigmoid().tolist()


@reward("judge_score", range=(0, 1))
class JudgeScore(Distilled):
    """Grade that the judge would give, as a share of the best one: the calibrated score of a model that
    ``recrl judge distill`` made of its grades.

    Worst cases: a policy that trains against it finds texts that it likes and the judge does not. Hold what
    can be checked beside it (``claim_precision``, ``claim_count``), heed the warning that texts are of
    another kind, and grade the policy's own texts now and then.

    Args:
        model: folder that ``recrl judge distill`` wrote.
        batch_size, max_length, device, dtype: as of the reward ``reward_model``.
    """

    meaning = "score"


@reward("explanation_acceptance", range=(0, 1))
class ExplanationAcceptance(Distilled):
    """Probability that the judge finds no defect: the calibrated score of a model that ``recrl judge
    distill`` made of its grades.

    Worst cases: as for ``judge_score``; and a text that says nothing has no defect either.

    Args:
        model: folder that ``recrl judge distill`` wrote.
        batch_size, max_length, device, dtype: as of the reward ``reward_model``.
    """

    meaning = "acceptance"

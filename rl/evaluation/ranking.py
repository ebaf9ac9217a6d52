"""The task's ranker under a run's bounds: what can be had without a language model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from ...envs.task import Lines, Row, Task
from ...rewards import RewardEngine
from ..decoding.deploy import Bonuses
from ..optimizer.problem import Problem
from .answers import fitted_rows, scored
from .hold import as_json, holdable
from .serving import Drawn, Serving
from .settings import EvaluationConfig

# Rows whose candidates are drawn together.
_AT_ONCE = 64


def priced_ranking(
    task: Task,
    rows: Sequence[Row],
    engine: RewardEngine,
    problem: Problem,
    config: EvaluationConfig,
    tokenizer: PreTrainedTokenizerBase,
    seed: int = 0,
) -> tuple[list[str], dict[str, Any]] | None:
    """Lists of the task's ranker under the run's bounds, and their prices in the ranker's units for one unit
    of a reward; None without a ranker, or without a constraint that prices can hold.

    Args:
        seed: Seed of the candidates, see :class:`Ranking`.
    """
    if config.hold == "off":
        return None
    # A ranking lists different options, however a policy is decoded.
    config = config.model_copy(update={"decoding": "distinct"})
    constraints, why_not = holdable(task, engine, problem, config, rows)
    if not constraints or (ranker := task.ranker()) is None:
        return None
    fitted_on = fitted_rows(task, rows, config)
    ranked = [*rows] if fitted_on is rows else [*fitted_on, *rows]
    scores = np.array(ranker(ranked), dtype=float)
    scale = float(scores.std()) or 1.0
    for found, row in zip(scores, ranked, strict=True):
        found[[*task.barred(row)]] = -np.inf
    names = {constraint.reward for constraint in constraints}
    served = Serving(
        Ranking(cast(Lines, task.form), dict(zip(map(id, ranked), scores / scale, strict=True)), seed),
        lambda asked, given, copies: scored(asked, given, tokenizer, engine, copies, names)[0],
        task,
        engine,
        problem,
        config,
        rows,
        fitted_on,
    ).answers(constraints)
    told = [
        replace(
            one,
            price=None if one.price is None else one.price * scale,
            choice=None if one.choice is None else one.choice * scale,
        )
        for one in served.priced
    ]
    return served.texts, as_json(told, why_not | served.why_not, config)


@dataclass(frozen=True)
class Ranking:
    """Lists of the options with the highest scores, see :class:`~recrl.rl.evaluation.serving.Answering`.

    Its random lists are those of the Plackett-Luce model: option by option, in proportion to the exponential
    of the score among those that are left. They come from Gumbel noise on the scores (Kool et al. 2019, arXiv
    1903.06059).

    Attributes:
        form: Form of a list.
        scores: Scores of all options, by id of the row; -inf for one that its lists may not name.
        seed: Seed of the noise.
    """

    form: Lines
    scores: dict[int, npt.NDArray[np.floating]]
    seed: int

    def greedy(self, rows: Sequence[Row], bonuses: Bonuses | None, copies: int, stage: str) -> list[str]:
        best = self._total(rows, bonuses, 0, len(rows)).topk(self.form.count, dim=-1)
        return self._rendered(best.values, best.indices)

    def candidates(self, rows: Sequence[Row], bonuses: Bonuses | None, copies: int) -> Drawn:
        texts: list[str] = []
        logprobs: list[torch.Tensor] = []
        for first in range(0, len(rows), _AT_ONCE):
            end = min(first + _AT_ONCE, len(rows))
            total = self._total(rows, bonuses, first, end).double()
            total = total.expand(-1, copies, -1)
            noise = torch.zeros(total.shape, dtype=torch.float64)
            for row in range(first, end):
                random = np.random.default_rng([self.seed, row])
                drawn = random.gumbel(size=(copies - 1, total.shape[-1]))
                noise[row - first, 1:] = torch.from_numpy(drawn)  # the first is the best list
            values, chosen = (total + noise).topk(self.form.count, dim=-1)
            texts += self._rendered(values, chosen)
            logprobs.append(plackett_luce(total, chosen))
        return Drawn(texts, torch.cat(logprobs).numpy())

    def _rendered(self, values: torch.Tensor, chosen: torch.Tensor) -> list[str]:
        """Lists of the chosen options that have a score, ``[row, copy, option]``, as texts."""
        lists = zip(values.flatten(0, 1), chosen.flatten(0, 1), strict=True)
        return [self.form.render(options[scores > -torch.inf].tolist()) for scores, options in lists]

    def _total(self, rows: Sequence[Row], bonuses: Bonuses | None, first: int, end: int) -> torch.Tensor:
        """Scores and bonuses, ``[rows, copies, options]``."""
        own = torch.from_numpy(np.stack([self.scores[id(row)] for row in rows[first:end]]))[:, None]
        return own if bonuses is None else own + bonuses(first, end)


def plackett_luce(scores: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Log-probability of lists that are drawn option by option without replacement.

    Args:
        scores: ``[..., options]``, unnormalised log-probabilities.
        chosen: Options of each list in order, ``[..., count]``; those of score -inf end it.

    Returns:
        ``[...]``, in nats.
    """
    picked = scores.gather(-1, chosen)
    others = scores.scatter(-1, chosen, -torch.inf).logsumexp(dim=-1, keepdim=True)
    # At each place those are left that come there or later, and those that are never chosen.
    later = picked.flip(-1).logcumsumexp(dim=-1).flip(-1)
    return (picked - torch.logaddexp(later, others)).where(picked > -torch.inf, 0.0).sum(dim=-1)

"""Metrics of a generation batch: objective, multipliers, conflicts between the rewards and gradients."""

import logging
from itertools import combinations
from typing import Any

import torch
from accelerate.utils import gather
from torch import Tensor

from ..optimizer.conflict import conflict_metrics, gradient_cosines, half_advantages, taking_part
from ..optimizer.duals import Duals
from ..optimizer.problem import Problem, objective_values

logger = logging.getLogger(__name__)

# The cosine of gradients is estimated on this many groups of a rank.
_COSINE_GROUPS = 8


class ConflictLog:
    """Metrics of the objective, its constraints and their conflicts.

    Args:
        problem: Problem that names the rewards; a constraint that seems out of reach is warned of once.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._suspected: set[str] = set()

    def objective(self, scores: Tensor) -> float:
        """Mean of the objective over the samples that have one, ``scores [sample, column]``."""
        values = objective_values(self._problem, scores)
        return values[values.isfinite()].mean().item()

    def constraints(self, duals: Duals) -> dict[str, float]:
        """Mean, slack, multiplier and price of each constraint."""
        found: dict[str, float] = {}
        for row in duals.report():
            for field in ("mean", "slack", "multiplier", "price"):
                found[f"constraint/{row.name}/{field}"] = getattr(row, field)
            if row.status == "infeasible_suspected" and row.name not in self._suspected:
                self._suspected.add(row.name)
                logger.warning("%s", row.explanation())
        return found

    def conflicts(self, groups: Tensor, advantages: Tensor) -> dict[str, float]:
        """Conflict between the rewards, see :func:`recrl.rl.optimizer.conflict.conflict_metrics`.

        Args:
            groups: Scores, ``[group, sample, column]``.
            advantages: Advantages, ``[group, sample]``.
        """
        problem = self._problem
        return conflict_metrics(
            groups[..., : len(problem.names)],
            advantages,
            problem.names,
            directions=list(problem.directions.values()),
            objective=problem.objective,
            participants=taking_part(problem),
        )

    @torch.no_grad()
    def gradients(
        self, model: Any, output: dict[str, Any], scores: Tensor, group_size: int, temperature: float
    ) -> dict[str, float]:
        """Cosines of the rewards' gradients in the last layer, from the first groups of each rank.

        Args:
            model: The policy, which every rank runs: sharded weights (ZeRO-3) need it.
            output: Prompts and completions of this rank, as TRL makes them.
            scores: Scores of its samples, ``[sample, column]``.
            group_size: Number of completions of a prompt.
            temperature: Temperature of the sampling.
        """
        names = self._problem.names
        n = min(len(scores) // group_size, _COSINE_GROUPS) * group_size
        groups = scores[:n, : len(names)].unflatten(0, (-1, group_size))
        advantages, half = half_advantages(groups)
        ids = torch.cat([output["prompt_ids"][:n], output["completion_ids"][:n]], dim=1)
        mask = torch.cat([output["prompt_mask"][:n], output["completion_mask"][:n]], dim=1)
        width = output["completion_ids"].shape[1]
        result = model(
            input_ids=ids,
            attention_mask=mask,
            logits_to_keep=width + 1,
            output_hidden_states=True,
            use_cache=False,
        )
        kept = output["completion_mask"][:n].bool()
        hidden = result.hidden_states[-1][:, -width - 1 : -1][kept]
        logits = result.logits[:, :-1][kept] / temperature
        sample = torch.arange(n, device=kept.device)[:, None].expand_as(kept)[kept]
        cosines = gradient_cosines(
            hidden.float(),
            logits.float(),
            output["completion_ids"][:n][kept],
            advantages.flatten(0, 1).to(hidden.device)[sample],
            half.to(hidden.device).repeat(n // group_size)[sample],
        )
        everywhere = gather(cosines.to(ids.device)[None]).nanmean(dim=0)
        return {
            f"conflict/gradient_cosine/{names[i]}~{names[j]}": everywhere[i, j].item()
            for i, j in combinations(range(len(names)), 2)
            if everywhere[i, j].isfinite()
        }

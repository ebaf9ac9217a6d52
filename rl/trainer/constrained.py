"""``ConstrainedGRPOTrainer``: constrained optimisation inside TRL's GRPO.

TRL 1.16 has no advantage hook. Two overrides of its private steps suffice; :mod:`recrl.rl.trainer.shared`
knows the others, and nothing else does:

``_calculate_rewards``              returns our engine's scores, gathered: every rank holds the same
                                    ``[N, K]`` matrix, so the multipliers need no communication of their own
``_generate_and_score_completions`` steps the multipliers and replaces the advantages (and their log)

``tests/rl/trainer/test_trl_seams.py`` holds them against the installed TRL.

Checkpoint behaviour: besides what :mod:`recrl.rl.trainer.resumable` keeps, ``constraints.json`` holds the
multipliers, their units and the generation index, and each rank keeps the memory of its stateful rewards. The
multipliers are never stepped twice for one generation batch.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather, gather_object
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOConfig
from trl.data_utils import is_conversational

from ...rewards import RewardEngine, RewardError
from ...rewards.scoring.binding import LIVE
from ...rewards.scoring.early import Early
from ..checkpoints import Manifest
from ..goal import check_credit, check_rule, check_segments
from ..optimizer.advantages import AdvantageBatch
from ..optimizer.conflict import conflict_metrics, gradient_cosines, half_advantages, taking_part
from ..optimizer.credit import count_tokens, spread, tag_positions
from ..optimizer.duals import Duals
from ..optimizer.problem import Problem, objective_values, segment_indicators
from ..optimizer.rules import find_rule
from ..optimizer.settings import Credit, DualConfig
from ..processes import on_all_or_none
from .preconditions import check_gradient_conflict, check_memories, check_prompts
from .shared import SharedPrefixGRPOTrainer

logger = logging.getLogger(__name__)

STATE_FILE = "constraints.json"

# A fingerprint of the multipliers is compared across ranks this often, in generation batches.
_AGREEMENT_EVERY = 50

# The cosine of gradients is estimated on this many groups of a rank.
_COSINE_GROUPS = 8


# Scores of beginnings, and which tag each token belongs to.
_Running = tuple[np.ndarray, list[list[int]]]


@dataclass(frozen=True)
class _TagCredit:
    """What credit per tag needs of one generation batch."""

    running: Tensor  # [sample of all ranks, position, reward]
    tokens: Tensor  # [sample of all ranks, position]
    positions: list[list[int]]  # [local sample][token]


class ConstrainedGRPOTrainer(SharedPrefixGRPOTrainer):
    """GRPO that maximises one named reward while others are held at their targets.

    Args:
        model: The policy. With ``args.beta > 0`` it must have been loaded from a path, which the reference
            is loaded from.
        engine: Scores completions; its reward names are the problem's.
        problem: Objective and constraints.
        rule: Name of the advantage rule, see :mod:`recrl.rl.optimizer.advantages`.
        duals: Settings of the multipliers.
        credit: ``tag`` gives the tokens of each tag an advantage of their own, from the rewards that are
            declared ``per="tag"`` or ``"tag_mean"``; ``sequence`` gives every token of an answer the same.
        gradient_conflict_every: Estimate the cosines of the rewards' gradients in the last layer once in so
            many generation batches, at the cost of one more forward pass; 0 = never.
        args: TRL's arguments.
        options: See :class:`recrl.rl.trainer.shared.SharedPrefixGRPOTrainer`.

    Raises:
        ValueError: groups would straddle ranks, engine and problem disagree on the rewards, a segment has no
            prompts, or nothing could be credited to tags.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        engine: RewardEngine,
        problem: Problem,
        *,
        args: GRPOConfig,
        train_dataset: Dataset,
        processing_class: PreTrainedTokenizerBase,
        rule: str = "lagrangian",
        duals: DualConfig | None = None,
        credit: Credit = "sequence",
        gradient_conflict_every: int = 0,
        eval_dataset: Dataset | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **options: Any,
    ) -> None:
        if engine.names != problem.names:
            raise ValueError(
                f"the engine scores {engine.names}, but the problem is over {problem.names}; make them equal"
            )
        check_prompts(args, train_dataset)
        check_segments(problem, train_dataset.column_names, train_dataset.__getitem__)
        check_rule(problem, rule)
        check_gradient_conflict(args, gradient_conflict_every)
        check_credit(engine.rewards, problem, rule, credit)
        check_memories(engine, args.world_size)
        self.engine = engine
        self.problem = problem
        self.rule = find_rule(rule)
        self.credit = credit
        self.gradient_conflict_every = gradient_conflict_every
        super().__init__(
            model=model,
            reward_funcs=[_placeholder(name) for name in engine.names],
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            **options,
        )
        # TRL's own total is only logged: make it the objective.
        self.reward_weights = torch.tensor([float(name == problem.objective) for name in engine.names])
        micro_steps = max(self.args.max_steps or 0, 0) * (self.args.gradient_accumulation_steps or 1)
        generations = micro_steps // self._micro_steps_per_generation
        self.duals = Duals(problem, duals or DualConfig(), max(1, generations), self.rule.controller)
        self.kl_coefficient = self.beta
        self._scores: Tensor | None = None
        self._tags: _TagCredit | None = None
        # Failures and seconds of the rewards before this batch, whose first groups may be asked for early.
        self._before = engine.failed, engine.seconds
        self._early: Early | None = None
        self._remembered = False
        self._asked: Any = []
        self._answered: dict[int, Sequence[int]] = {}
        self._pieces: dict[int, str] = {}
        self._suspected: set[str] = set()

    @property
    def generation(self) -> int:
        """Index of the generation batch, from the count of micro-steps, so that a resume agrees."""
        return self._step // self._micro_steps_per_generation

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        with self.timed("rewards"):
            return self._scored(inputs, prompts, completions, completion_ids_list)

    def _scored(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        columns = _columns(inputs)
        columns["completion_ids"] = completion_ids_list
        training = self.model.training
        group_size = self.num_generations if training else self.num_generations_eval

        def score() -> tuple[np.ndarray, _Running | None]:
            early, self._early = self._early, None
            scores = self.engine.score(prompts, completions, columns, group_size, early)
            self._log_rewards(scores, *self._before)
            if not (training and self.credit == "tag"):
                return scores, None
            positions = [tag_positions(self._decoded(ids)) for ids in completion_ids_list]
            lengths = 1 + max(max(found, default=0) for found in positions)
            return scores, (self.engine.score_prefixes(prompts, completions, columns, lengths), positions)

        scores, running = on_all_or_none(score, RewardError)
        if training:
            self.engine.learn(prompts, completions, columns, gather_object)
            if not self._remembered:  # what cannot be saved is found now, not at the first checkpoint
                on_all_or_none(self.engine.state_dict, RewardError)
                self._remembered = True
        members = segment_indicators(self.problem, columns, len(scores))
        local = torch.cat([torch.from_numpy(scores), members], dim=1)
        self._scores = gather(local.to(self.accelerator.device))
        if running is not None:
            self._tags = self._gather_tags(*running)
        return self._scores[:, : len(self.problem.names)]

    def _live(self, name: str) -> Any:
        """What TRL passes to its reward functions under this name."""
        return {
            "trainer_state": self.state,
            "log_extra": self._log_completion_extra,
            "log_metric": self._log_metric,
        }[name]

    def _log_rewards(self, scores: np.ndarray, failed: dict[str, int], seconds: dict[str, float]) -> None:
        """Of this rank, which TRL averages over ranks."""
        for name, spent in self.engine.seconds.items():
            self._log_metric(f"reward_seconds/{name}", spent - seconds[name])
        for name, count in self.engine.failed.items():
            self._log_metric(f"rewards/{name}/failed", (count - failed[name]) / len(scores))

    def answered(self, members: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        """Ask for the rewards of groups that are there before others, where that saves time."""
        early, inputs = self._early, self._asked
        if early is None:
            return
        self._answered.update(zip(members, tokens, strict=True))
        size = early.group_size
        for first in sorted({i // size * size for i in members}):
            rows = range(first, first + size)
            if not all(i in self._answered for i in rows):
                continue
            ids = [list(self._answered[i]) for i in rows]
            tokenizer: Any = self.processing_class
            texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
            conversational = is_conversational({"prompt": inputs[first]["prompt"]})
            completions = [
                [{"role": "assistant", "content": text}] if conversational else text for text in texts
            ]
            columns = _columns([inputs[i] for i in rows])
            columns["completion_ids"] = ids
            early.add(first, [inputs[i]["prompt"] for i in rows], completions, columns)

    def _decoded(self, ids: Any) -> list[str]:
        """What each token decodes to by itself; special tokens to nothing."""
        tokenizer: Any = self.processing_class
        for token in set(ids) - self._pieces.keys():
            self._pieces[token] = tokenizer.decode([token], skip_special_tokens=True)
        return [self._pieces[token] for token in ids]

    def _gather_tags(self, running: np.ndarray, positions: list[list[int]]) -> _TagCredit:
        """Bring every rank to the same number of positions; past its end an answer keeps what it has."""
        device = self.accelerator.device
        lengths = int(gather(torch.tensor([running.shape[1]], device=device)).max())
        padded = np.pad(running, ((0, 0), (0, lengths - running.shape[1]), (0, 0)), mode="edge")
        tokens = count_tokens(positions, lengths)
        return _TagCredit(gather(torch.from_numpy(padded).to(device)), gather(tokens.to(device)), positions)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        training = self.model.training
        self._before = self.engine.failed, self.engine.seconds
        for name in LIVE:
            if name in self.engine.resources:
                self.engine.resources[name] = self._live(name)
        if self.engine.elsewhere and not self.tools:
            size = self.num_generations if training else self.num_generations_eval
            self._early, self._asked, self._answered = self.engine.early(size), inputs, {}
        try:
            output = super()._generate_and_score_completions(inputs)
        finally:
            if self._early is not None:
                self._early.cancel()
            self._early, self._asked, self._answered = None, [], {}
        with self.timed("constraints"):
            return self._constrained(inputs, output, training)

    def _constrained(self, inputs: Any, output: dict[str, Any], training: bool) -> dict[str, Any]:
        """Step the multipliers and replace the advantages."""
        scores, self._scores = self._scores, None
        assert scores is not None, "TRL no longer calls _calculate_rewards"
        group_size = self.num_generations if training else self.num_generations_eval
        if training:
            self.duals.update(scores, group_size, self.generation)
            if self.generation % _AGREEMENT_EVERY == 0:
                self._check_agreement()
        if group_size < 2:  # evaluation with one sample a prompt has no groups to compare within
            output["advantages"] = torch.zeros_like(output["advantages"])
            return output
        groups = scores.unflatten(0, (-1, group_size))
        tags, self._tags = self._tags, None
        per_tag = {}
        if tags is not None:
            per_tag = {
                name: getattr(tags, name).unflatten(0, (-1, group_size)) for name in ("running", "tokens")
            }
        batch = AdvantageBatch(groups, self.problem, self.duals.multipliers, self.duals.units, **per_tag)
        advantages = self.rule(batch)
        found = advantages.values.flatten(0, 1).to(output["advantages"])
        first = self.accelerator.process_index * len(inputs)
        local = found[first : first + len(inputs)]
        if tags is None:
            output["advantages"], flat = local, found
        else:
            output["advantages"] = spread(local, tags.positions, output["completion_ids"].shape[1])
            flat = (found * tags.tokens).sum(dim=1) / tags.tokens.sum(dim=1).clamp(min=1)
        logged: Any = self._logs["advantages"]
        for _ in range(min(len(flat), len(logged))):
            logged.pop()
        logged.extend(flat.tolist())
        if training and self.kl_coefficient:
            # The advantages were divided by u_R D; the KL term of the loss must shrink with them.
            self.beta = self.kl_coefficient * advantages.kl_scale
        self._log_problem(scores, groups, flat.unflatten(0, (-1, group_size)), advantages.divisor)
        if training and self.gradient_conflict_every and self.generation % self.gradient_conflict_every == 0:
            self._log_gradient_conflict(output, scores[first : first + len(inputs)], group_size)
        return output

    def _log_problem(self, scores: Tensor, groups: Tensor, advantages: Tensor, divisor: float) -> None:
        metrics = self._metrics["train" if self.model.training else "eval"]
        objective = objective_values(self.problem, scores)
        metrics["objective"].append(objective[objective.isfinite()].mean().item())
        # TRL's own total is the objective without gates, but counts a missing one as 0.
        for own, name in (("reward", "mean"), ("reward_std", "std")):
            metrics[own][-1] = metrics[f"rewards/{self.problem.objective}/{name}"][-1]
        if self.model.training:
            for row in self.duals.report():
                for field in ("mean", "slack", "multiplier", "price"):
                    metrics[f"constraint/{row.name}/{field}"].append(getattr(row, field))
                if row.status == "infeasible_suspected" and row.name not in self._suspected:
                    self._suspected.add(row.name)
                    logger.warning("%s", row.explanation())
            metrics["advantage/divisor"].append(divisor)
        conflicts = conflict_metrics(
            groups[..., : len(self.problem.names)],
            advantages,
            self.problem.names,
            directions=list(self.problem.directions.values()),
            objective=self.problem.objective,
            participants=taking_part(self.problem),
        )
        for key, value in conflicts.items():
            metrics[key].append(value)

    @torch.no_grad()
    def _log_gradient_conflict(self, output: dict[str, Any], scores: Tensor, group_size: int) -> None:
        """Cosines of the rewards' gradients in the last layer, from the first groups of each rank."""
        n = min(len(scores) // group_size, _COSINE_GROUPS) * group_size
        groups = scores[:n, : len(self.problem.names)].unflatten(0, (-1, group_size))
        advantages, half = half_advantages(groups)
        ids = torch.cat([output["prompt_ids"][:n], output["completion_ids"][:n]], dim=1)
        mask = torch.cat([output["prompt_mask"][:n], output["completion_mask"][:n]], dim=1)
        width = output["completion_ids"].shape[1]
        # Every rank runs the model, which sharded weights (ZeRO-3) need.
        result = self.model(
            input_ids=ids,
            attention_mask=mask,
            logits_to_keep=width + 1,
            output_hidden_states=True,
            use_cache=False,
        )
        kept = output["completion_mask"][:n].bool()
        hidden = result.hidden_states[-1][:, -width - 1 : -1][kept]
        logits = result.logits[:, :-1][kept] / self.temperature
        sample = torch.arange(n, device=kept.device)[:, None].expand_as(kept)[kept]
        cosines = gradient_cosines(
            hidden.float(),
            logits.float(),
            output["completion_ids"][:n][kept],
            advantages.flatten(0, 1).to(hidden.device)[sample],
            half.to(hidden.device).repeat(n // group_size)[sample],
        )
        everywhere = gather(cosines.to(self.accelerator.device)[None]).nanmean(dim=0)
        for i, one in enumerate(self.problem.names):
            for j in range(i + 1, len(self.problem.names)):
                if everywhere[i, j].isfinite():
                    key = f"conflict/gradient_cosine/{one}~{self.problem.names[j]}"
                    self._metrics["train"][key].append(everywhere[i, j].item())

    def _check_agreement(self) -> None:
        prints = gather_object([self.duals.fingerprint()])
        if len(set(prints)) > 1:
            raise RuntimeError(
                "the ranks hold different multipliers; they must see the same gathered scores. Check that "
                f"every rank runs the same version and config (fingerprints {[p[:8] for p in prints]})"
            )

    def save_shared(self, folder: Path) -> None:
        super().save_shared(folder)
        (folder / STATE_FILE).write_text(json.dumps(self.duals.state_dict(), indent=1))

    def load_shared(self, folder: Path) -> None:
        super().load_shared(folder)
        self.duals.load_state_dict(json.loads((folder / STATE_FILE).read_text()))

    def rank_state(self) -> dict[str, Any]:
        return {**super().rank_state(), "rewards": self.engine.state_dict()}

    def load_rank_state(self, state: dict[str, Any], manifest: Manifest) -> None:
        super().load_rank_state(state, manifest)
        self.engine.load_state_dict(state["rewards"])


def _columns(inputs: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Dataset columns of some rows."""
    return {key: [row[key] for row in inputs] for key in inputs[0] if key not in ("prompt", "completion")}


def _placeholder(name: str) -> Any:
    """TRL wants callables to name its reward columns after; the engine does the scoring."""

    def score(**_: Any) -> list[float]:
        raise RuntimeError(
            f"reward {name!r} is scored by the RewardEngine; TRL no longer calls _calculate_rewards"
        )

    score.__name__ = name
    return score

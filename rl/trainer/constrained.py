"""``ConstrainedGRPOTrainer``: constrained optimisation inside TRL's GRPO.

TRL 1.16 has no advantage hook. Two overrides of its private steps suffice; :mod:`recrl.rl.trainer.shared`
knows the others, and nothing else does:

``_calculate_rewards``              returns our engine's scores, gathered: every rank holds the same
                                    ``[N, K]`` matrix, so the multipliers need no communication of their own
``_generate_and_score_completions`` steps the multipliers and replaces the advantages (and their log)

``tests/rl/trainer/test_trl_seams.py`` holds them against the installed TRL.

Checkpoint behaviour: besides what :mod:`recrl.rl.trainer.resumable` keeps, ``constraints.json`` holds the
multipliers, their units and the generation index. Each rank keeps the memory of its stateful rewards. The
multipliers are never stepped twice for one generation batch.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset, IterableDataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOConfig

from ...rewards import RewardEngine, RewardError
from ..distributed.checkpoints import Manifest
from ..distributed.processes import on_all_or_none
from ..goal import check_credit, check_rule, check_segments
from ..optimizer.advantages import AdvantageBatch
from ..optimizer.constraints import Constraint
from ..optimizer.duals import Duals
from ..optimizer.problem import Problem
from ..optimizer.rules import find_rule
from ..optimizer.settings import Credit, DualConfig
from .batch_scores import BatchScores, Pieces
from .conflict_log import ConflictLog
from .preconditions import check_gradient_conflict, check_memories, check_prompts
from .shared import SharedPrefixGRPOTrainer, default_arguments
from .statement import ENVIRONMENTS, RewardLike, columns_of, stated

STATE_FILE = "constraints.json"

# A fingerprint of the multipliers is compared across ranks this often, in generation batches.
_AGREEMENT_EVERY = 50


class ConstrainedGRPOTrainer(SharedPrefixGRPOTrainer):
    """GRPO that maximises one reward while others are held at their targets; the rest is as in TRL.

    Args:
        model: Policy: a path, a hub name, or a model. One that is given loaded must have been loaded from a
            path if ``args.beta > 0``, since the reference is loaded from it.
        reward_funcs: One reward or a list: functions, objects and classes with :func:`recrl.reward`, or
            wrapped in :class:`recrl.Reward`; names of registered rewards; entries of a configuration (dicts
            or :class:`recrl.rewards.RewardSpec`). Or an engine that scores by them.
        args: TRL's arguments. ``reward_weights`` are for the rules that add rewards up.
        train_dataset, eval_dataset, processing_class: TRL's parameters of the same names.
        objective: Name of the reward to maximise, which may be left out where there is one; or the whole
            problem over the rewards, constraints included.
        constraints: Constraints such as ``"brevity >= 0.8 (mean)"``, ``"toxic <= 0.1 for 0.95 (rate)"`` or
            ``"length in [20, 40] where segment=cold (mean)"``.
        rule: Name of the advantage rule, see :mod:`recrl.rl.optimizer.advantages`.
        duals: Settings of the multipliers.
        credit: Unit of credit: ``tag`` gives the tokens of each tag an advantage of their own, from rewards
            declared ``per="tag"`` or ``"tag_mean"``; ``sequence`` gives every token of an answer the same.
        gradient_conflict_every: Number of generation batches after which cosines of the rewards' gradients in
            the last layer are estimated once, at the cost of one more forward pass; 0 = never.
        average: Share of the steps, the last ones, whose weights are averaged for ``save_policy``; 0 = none.
        resources: Objects that rewards may name as a parameter, the same for all samples.
        options: TRL's other parameters (``peft_config``, ``tools``, ``environment_factory``, ``callbacks``,
            ...), and those of :class:`recrl.rl.trainer.shared.SharedPrefixGRPOTrainer`.

    Raises:
        ValueError: groups would straddle ranks, a constraint names an unknown reward or cannot be met, a
            segment has no prompts, nothing could be credited to tags, or a setting of TRL has no meaning
            here; the message names it and the fix.
        RewardSpecError: a reward declares no range, cannot be found, or reads what nothing provides.

    Example:
        >>> from datasets import Dataset, IterableDataset
        >>> from recrl import ConstrainedGRPOTrainer, Reward
        >>> from trl import GRPOConfig
        >>> def vowels(completions, **_):
        ...     return [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in completions]
        >>> def brevity(completions, **_):
        ...     return [1 / (1 + len(text)) for text in completions]
        >>> trainer = ConstrainedGRPOTrainer(
        ...     model="path-or-hub-name",
        ...     reward_funcs=[Reward(vowels, range=(0, 1)), Reward(brevity, range=(0, 1))],
        ...     objective="vowels",
        ...     constraints=["brevity >= 0.05 (mean)"],
        ...     args=GRPOConfig(max_steps=1, per_device_train_batch_size=4, num_generations=4),
        ...     train_dataset=Dataset.from_dict({"prompt": ["Say something:", "And now:"]}),
        ... )
        >>> _ = trainer.train()
        >>> [row.name for row in trainer.duals.report()]
        ['brevity >= 0.05']
    """

    def __init__(
        self,
        model: str | PreTrainedModel,
        reward_funcs: RewardLike | Sequence[RewardLike] | RewardEngine | None = None,
        args: GRPOConfig | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        objective: str | Problem | None = None,
        constraints: Sequence[str | Constraint] = (),
        rule: str = "lagrangian",
        duals: DualConfig | None = None,
        credit: Credit = "sequence",
        gradient_conflict_every: int = 0,
        average: float = 0.0,
        resources: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        args = args or default_arguments(model)
        engine, problem = stated(
            reward_funcs,
            objective,
            constraints,
            rule,
            args,
            columns=columns_of(train_dataset),
            resources=resources or {},
            environments=options.get("environment_factory") is not None,
            open_ended=options.get("rollout_func") is not None,
        )
        check_prompts(args, train_dataset)
        if isinstance(train_dataset, Dataset):
            check_segments(problem, train_dataset.column_names, train_dataset.__getitem__)
        check_rule(problem, rule)
        check_gradient_conflict(args, gradient_conflict_every)
        check_credit(engine.rewards, problem, rule, credit)
        check_memories(engine, args.world_size)
        if options.get("reward_processing_classes") is not None:
            raise ValueError(
                "reward_processing_classes: a reward model brings its tokenizer along; leave them out, and "
                "name the model in an entry with use: reward_model"
            )
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
            **options,
        )
        if len(self.reward_funcs) > len(engine.names):
            name = self.reward_func_names[-1]
            raise ValueError(
                f"environment {name} scores its rollouts by get_reward, whose range nobody knows; give that "
                f"method another name, score, and pass Reward(lambda environments: [one.score() for one in "
                f"environments], range=(low, high), name={name!r})"
            )
        # TRL's own total is only logged: make it the objective.
        self.reward_weights = torch.tensor([float(name == problem.objective) for name in engine.names])
        micro_steps = max(self.args.max_steps or 0, 0) * (self.args.gradient_accumulation_steps or 1)
        generations = micro_steps // self._micro_steps_per_generation
        self.duals = Duals(problem, duals or DualConfig(), max(1, generations), self.rule.controller)
        self.kl_coefficient = self.beta
        self._log = ConflictLog(problem)
        self._pieces = Pieces(self._tokenizer)
        self._batch: BatchScores | None = None
        self._memories_checked = False
        self.average_weights(average)

    @property
    def _group_size(self) -> int:
        """Number of completions of a prompt."""
        return self.num_generations if self.model.training else self.num_generations_eval

    @property
    def generation(self) -> int:
        """Index of the generation batch, from the count of micro-steps, so that a resume agrees."""
        return self._step // self._micro_steps_per_generation

    @property
    def _pace(self) -> float:
        """Learning rate over the peak of its schedule, once that has warmed up."""
        warming = self.state.global_step < self.args.get_warmup_steps(self.state.max_steps)
        group = self.optimizer.param_groups[0] if self.optimizer is not None and not warming else {}
        peak = group.get("initial_lr")  # written by schedulers of torch
        return min(1.0, float(group["lr"]) / float(peak)) if peak else 1.0

    def answered(self, members: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        if self._batch is not None:
            self._batch.ask(members, tokens)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        live = {
            "trainer_state": self.state,
            "log_extra": self._log_completion_extra,
            "log_metric": self._log_metric,
        }
        read = live.keys() & self.engine.resources.keys()
        self.engine.resources.update({name: live[name] for name in read})
        batch = self._batch = BatchScores(
            self.engine,
            self.problem,
            inputs,
            group_size=self._group_size,
            tokenizer=self._tokenizer,
            pieces=self._pieces if self.model.training and self.credit == "tag" else None,
            early=self.engine.elsewhere
            and not (self.tools or self.environment_factories or self.rollout_func),
        )
        try:
            output = super()._generate_and_score_completions(inputs)
        finally:
            batch.close()
            self._batch = None
        with self.timed("constraints"):
            return self._constrained(batch, output)

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        batch, training = self._batch, self.model.training
        assert batch is not None, "TRL scores what it has generated"
        with self.timed("rewards"):
            scores = batch.score(
                prompts,
                completions,
                completion_ids_list,
                {} if self.environments is None else {ENVIRONMENTS: self.environments},
                learn=training,
                device=self.accelerator.device,
            )
            if training and not self._memories_checked:
                # A memory that cannot be saved is found now, not at the first checkpoint.
                on_all_or_none(self.engine.state_dict, RewardError)
                self._memories_checked = True
        for name, value in batch.spent.items():  # of this rank; TRL averages over ranks
            self._log_metric(name, value)
        return scores

    def _constrained(self, batch: BatchScores, output: dict[str, Any]) -> dict[str, Any]:
        """Step the multipliers, and replace the advantages and their log."""
        scores, tags, group_size = batch.scores, batch.tags, batch.group_size
        if self.model.training:
            self.duals.update(scores, group_size, self.generation, self._pace)
            if self.generation % _AGREEMENT_EVERY == 0:
                self._check_agreement()
        if group_size < 2:  # evaluation with one sample a prompt has no groups to compare within
            output["advantages"] = torch.zeros_like(output["advantages"])
            return output
        groups = scores.unflatten(0, (-1, group_size))
        beginnings = tags.grouped(group_size) if tags is not None else {}
        found = self.rule(
            AdvantageBatch(groups, self.problem, self.duals.multipliers, self.duals.units, **beginnings)
        )
        advantages = found.values.flatten(0, 1).to(output["advantages"])
        samples = len(output["advantages"])
        first = self.accelerator.process_index * samples
        own = slice(first, first + samples)
        if tags is None:
            output["advantages"], flat = advantages[own], advantages
        else:
            output["advantages"] = tags.spread(advantages[own], output["completion_ids"].shape[1])
            flat = tags.mean(advantages)
        logged: Any = self._logs["advantages"]
        for _ in range(min(len(flat), len(logged))):
            logged.pop()
        logged.extend(flat.tolist())
        if self.model.training and self.kl_coefficient:
            # The advantages were divided by u_R D; the KL term of the loss must shrink with them.
            self.beta = self.kl_coefficient * found.kl_scale
        self._log_batch(output, scores, own, flat.unflatten(0, (-1, group_size)), found.divisor)
        return output

    def _log_batch(
        self, output: dict[str, Any], scores: Tensor, own: slice, advantages: Tensor, divisor: float
    ) -> None:
        training, group_size = self.model.training, advantages.shape[1]
        metrics = self._metrics["train" if training else "eval"]
        metrics["objective"].append(self._log.objective(scores))
        # TRL's own total is the objective without gates, but counts a missing one as 0.
        for total, name in (("reward", "mean"), ("reward_std", "std")):
            metrics[total][-1] = metrics[f"rewards/{self.problem.objective}/{name}"][-1]
        found: dict[str, float] = {}
        if training:
            found |= self._log.constraints(self.duals)
            found["advantage/divisor"] = divisor
        found |= self._log.conflicts(scores.unflatten(0, (-1, group_size)), advantages)
        every = self.gradient_conflict_every
        if training and every and self.generation % every == 0:
            found |= self._log.gradients(self.model, output, scores[own], group_size, self.temperature)
        for key, value in found.items():
            metrics[key].append(value)

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


def _placeholder(name: str) -> Any:
    """Callable that TRL names a reward column after; the engine does the scoring."""

    def score(**_: Any) -> list[float]:
        raise RuntimeError(
            f"reward {name!r} is scored by the RewardEngine; TRL no longer calls _calculate_rewards"
        )

    score.__name__ = name
    return score

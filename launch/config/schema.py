"""The configuration of a run: one YAML file, overridden by ``key=value`` arguments.

It is validated whole before anything starts: every field alone (:mod:`recrl.envs.settings`), what must hold
of several together, and the problem that the rewards and constraints make.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, SerializeAsAny, field_validator, model_validator

from ...envs.chat.settings import ChatConfig
from ...envs.data.settings import DataConfig
from ...envs.faults import MendableError
from ...envs.settings import LARGEST_SEED, MANY, Between, Each, Place, Text
from ...envs.tags.settings import TagsConfig
from ...envs.task import TaskSettings
from ...rewards import RewardSpec, RewardSpecError, resolve_all
from ...rl.evaluation.settings import EvaluationConfig
from ...rl.goal import check_credit, check_rule, state
from ...rl.hybrid.settings import HybridConfig
from ...rl.optimizer.constraints import parse_constraint
from ...rl.optimizer.problem import Problem
from ...rl.optimizer.settings import OptimizerConfig
from ...rl.policy.settings import PolicyConfig, WarmStartConfig
from ...rl.rollouts.settings import RolloutConfig
from ...rl.trainer.settings import TrainConfig, check_halves, check_split

# Answers in one step: more would not fit in memory as text.
_MOST_ANSWERS = MANY


class ConfigError(MendableError, ValueError):
    """The configuration cannot be used; the message names the setting, the value and the fix."""


class RunConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """A whole run."""

    model_config = ConfigDict(title="RunConfig")

    name: Annotated[str, Text(100)]
    """Name of the run: letters, digits and the like, no path."""
    output: Annotated[Path, Place()] | None = None
    """Folder of the run; by default ``runs/NAME``."""
    seed: Annotated[int, Between(0, LARGEST_SEED)] = 0
    """Seed of everything random."""
    data: DataConfig = DataConfig()
    """Source of the episodes."""
    # Read by `validate`, since its class depends on which task it names.
    task: SerializeAsAny[TaskSettings] = TagsConfig()
    """Task of the policy."""
    policy: PolicyConfig = PolicyConfig()
    """Language model that is trained."""
    warm_start: WarmStartConfig = WarmStartConfig()
    """Supervised training before reinforcement learning."""
    rewards: Annotated[tuple[RewardSpec, ...], Each(least=1)]
    """Rewards that are measured: a name, or an entry, see :class:`recrl.rewards.RewardSpec`."""
    judge: ChatConfig | None = None
    """A language model that rewards may ask: the resource ``judge``."""
    optimizer: OptimizerConfig
    """Objective and constraints: what is maximised and what is held at a target."""
    train: TrainConfig = TrainConfig()
    """Constrained GRPO."""
    rollout: RolloutConfig = RolloutConfig()
    """Sampling of answers during training: an engine's name, or a section."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """The tables at the end."""
    hybrid: HybridConfig = HybridConfig()
    """One vector an entity, for ``recrl hybrid``."""

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if name.startswith((".", "-")) or "/" in name or "\\" in name:
            raise ValueError(
                "must be a plain name, without slashes, '.' or '-' in front; for a path use output=..."
            )
        return name

    @field_validator("rewards", mode="before")
    @classmethod
    def _names_are_entries(cls, value: Any) -> Any:
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [{"name": item} if isinstance(item, str) else item for item in value]
        return value

    @field_validator("rollout", mode="before")
    @classmethod
    def _engine_alone(cls, value: Any) -> Any:
        return {"engine": value} if isinstance(value, str) else value

    @field_validator(
        "data", "policy", "warm_start", "train", "evaluation", "optimizer", "hybrid", mode="before"
    )
    @classmethod
    def _section(cls, value: Any) -> Any:
        if not isinstance(value, Mapping | BaseModel):
            raise ValueError("is a section; write its settings below it, or leave it out")
        return value

    @model_validator(mode="after")
    def _together(self) -> "RunConfig":
        """Check what must hold of several settings, however many processes train."""
        train, warm = self.train, self.warm_start
        check_split(train.prompts_per_step, train.group_size, 1, train.micro_batches)
        self._check_policy()
        check_halves(train.group_size, self.optimizer.gradient_conflict_every)
        for setting, answers in (
            ("train.prompts_per_step * train.group_size", train.prompts_per_step * train.group_size),
            (
                "warm_start.prompts_per_step * warm_start.lists_per_prompt",
                warm.prompts_per_step * warm.lists_per_prompt,
            ),
            (
                "optimizer.reference.prompts * optimizer.reference.answers",
                self.optimizer.reference.prompts * self.optimizer.reference.answers,
            ),
        ):
            if answers > _MOST_ANSWERS:
                raise ValueError(f"{setting} = {answers:,} answers at once; set at most {_MOST_ANSWERS:,}")
        return self

    def _check_policy(self) -> None:
        """Refuse what the policy rules out elsewhere."""
        policy, engine = self.policy, self.rollout.engine
        if self.train.prefix_sharing == "on" and policy.attention != "sdpa":
            raise ValueError(
                f"train.prefix_sharing=on with policy.attention={policy.attention}: prompts are shared with "
                "sdpa only; set policy.attention=sdpa, or train.prefix_sharing=auto"
            )
        if engine == "transformers":
            return
        for setting, given in (
            ("quantization", policy.quantization is not None),
            ("trust_remote_code", policy.trust_remote_code),
        ):
            if given:
                raise ValueError(
                    f"policy.{setting}={getattr(policy, setting)} with rollout.engine={engine}: vLLM cannot "
                    "take such a policy over; set rollout.engine=transformers, or leave it out"
                )

    @property
    def folder(self) -> Path:
        """Folder that the run writes."""
        return self.output if self.output is not None else Path("runs") / self.name

    def problem(self) -> Problem:
        """The constrained problem over the run's rewards.

        Raises:
            ConfigError: an unknown reward or rule, an impossible bound, or a rule that refuses the problem.
        """
        try:
            found = resolve_all(self.rewards)
            problem = state(
                found,
                self.optimizer.objective,
                self.optimizer.constraints,
                objective_unit=self.optimizer.objective_unit,
                weights={spec.name: spec.weight for spec in self.rewards},
            )
            check_rule(problem, self.optimizer.rule)
            check_credit(found, problem, self.optimizer.rule, self.optimizer.credit)
            return problem
        except (RewardSpecError, ValueError) as error:
            raise ConfigError(str(error)) from error

    @property
    def floors(self) -> dict[str, float]:
        """Reward -> the highest bound that its mean over all prompts is held above.

        Read from the constraints' text: no reward is looked up.
        """
        found: dict[str, float] = {}
        for c in (c for written in self.optimizer.constraints for c in parse_constraint(written)):
            if (c.sense, c.kind, c.segment) == (">=", "mean", None):
                found[c.reward] = max(c.bound, found.get(c.reward, c.bound))
        return found

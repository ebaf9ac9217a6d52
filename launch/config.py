"""The configuration of a run: one YAML file, overridden by ``key=value`` arguments.

It is validated whole before anything starts.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from ..envs.client import has_login
from ..envs.llm import ChatConfig
from ..envs.task import DataConfig
from ..rewards import RewardSpec, RewardSpecError, resolve_all
from ..rewards.registry import anchored
from ..rl.advantages import find_rule
from ..rl.constraints import Problem
from ..rl.credit import Credit
from ..rl.duals import DualConfig
from ..rl.evaluate import EvaluationConfig
from ..rl.policy import PolicyConfig
from ..rl.preconditions import check_credit, check_directions, check_rule
from ..rl.reference import ReferenceConfig
from ..rl.rollouts.settings import RolloutConfig
from ..rl.training import TrainConfig
from ..rl.warmstart import WarmStartConfig

# `data=logs.parquet`, `policy=smollm2` and `rollout=vllm-server` are what people write.
SHORTHANDS = {"data": "data.source", "policy": "policy.model", "rollout": "rollout.engine"}


class ConfigError(ValueError):
    """The configuration cannot be used; the message names the setting, the value and the fix."""


class TaskConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """What the policy is asked for."""

    slots: int = 10
    """Length of a list of tags."""
    max_history: int = 100
    """At most this many tags of the history stand in the prompt."""
    max_train_episodes: int | None = Field(default=None, ge=1)
    """At most so many training episodes, spread evenly over all of them; their prompts are held in memory."""


class OptimizerConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """What is maximised and what is held at a target."""

    objective: str
    """Name of the reward to maximise."""
    constraints: tuple[str, ...] = ()
    """``novelty >= 0.30 (mean)``, ``length in [6, 11] (mean)``, ``diversity >= 0.5 for 0.9 (rate)``,
    ``validity >= 1 (gate)``; for a part of the prompts ``novelty >= 0.3 where segment=cold (mean)``; moving
    ``novelty >= 0.1 -> 0.3 over 100 (mean)``."""
    rule: str = "lagrangian"
    """How rewards become advantages."""
    credit: Credit = "sequence"
    """``tag``: each tag of an answer gets the credit for what it adds; ``sequence``: all share the
    answer's."""
    gradient_conflict_every: int = 0
    """Compare the rewards' gradients in the last layer once in so many generation batches; 0 = never."""
    objective_unit: float | None = None
    """What counts as one step of the objective; by default half of its declared range."""
    duals: DualConfig = DualConfig()
    """Controller of the multipliers."""
    reference: ReferenceConfig = ReferenceConfig()
    """Where the multipliers start: at zero, or as samples of the warm start suggest."""

    @field_validator("rule")
    @classmethod
    def _known(cls, rule: str) -> str:
        find_rule(rule)
        return rule

    @field_validator("duals", mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        # Pydantic lets unknown keys of a plain dataclass pass.
        known = [field.name for field in fields(DualConfig)]
        for key in value if isinstance(value, Mapping) else ():
            if key not in known:
                raise ValueError(f"unknown key {key!r}{_nearest(key, known)}")
        return value


class RunConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """A whole run."""

    model_config = ConfigDict(title="RunConfig")

    name: str
    """Name of the run."""
    output: Path | None = None
    """Folder of the run; by default ``runs/NAME``."""
    seed: int = 0
    """Seed of everything random."""
    data: DataConfig = DataConfig()
    """Where the episodes come from."""
    task: TaskConfig = TaskConfig()
    """What the policy is asked for."""
    policy: PolicyConfig = PolicyConfig()
    """Which language model is trained."""
    warm_start: WarmStartConfig = WarmStartConfig()
    """Supervised training before reinforcement learning."""
    rewards: tuple[RewardSpec, ...]
    """What is measured: a name, or an entry, see :class:`recrl.rewards.RewardSpec`."""
    judge: ChatConfig | None = None
    """A language model that rewards may ask: the resource ``judge``."""
    optimizer: OptimizerConfig
    """What is maximised and what is held at a target."""
    train: TrainConfig = TrainConfig()
    """Constrained GRPO."""
    rollout: RolloutConfig = RolloutConfig()
    """Where answers are sampled during training: an engine's name, or a section."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """The tables at the end."""

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

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return self.output if self.output is not None else Path("runs") / self.name

    def problem(self) -> Problem:
        """The constrained problem over the run's rewards.

        Raises:
            ConfigError: an unknown reward or rule, a bound that cannot be, or a rule that refuses the
                problem.
        """
        try:
            found = resolve_all(self.rewards)
            units = {reward.name: reward.unit for reward in found}
            problem = Problem.build(
                self.optimizer.objective,
                list(self.optimizer.constraints),
                {reward.name: (reward.low, reward.high) for reward in found},
                objective_unit=self.optimizer.objective_unit or units.get(self.optimizer.objective),
                weights={spec.name: spec.weight for spec in self.rewards},
            )
            check_directions(found, problem)
            check_rule(problem, self.optimizer.rule)
            check_credit(found, problem, self.optimizer.rule, self.optimizer.credit)
            return problem
        except (RewardSpecError, ValueError) as error:
            raise ConfigError(str(error)) from error

    @property
    def novelty_floor(self) -> float:
        """The floor on novelty among the constraints, 0 without one: what the quota baseline has to meet."""
        floors = [
            c.bound
            for c in self.problem().constraints
            if (c.reward, c.sense, c.kind, c.segment) == ("novelty", ">=", "mean", None)
        ]
        return max(floors, default=0.0)


def load(path: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and validate a configuration.

    Args:
        path: A YAML file, or the name of one that ships with the package (``demo``).
        overrides: ``key=value``; the key is dotted (``train.steps=50``), the value is YAML.

    Raises:
        ConfigError: no such file, no YAML, an unknown key, a value that does not fit, or a problem that
            cannot be.
    """
    text = _find(path).read_text()
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {_yaml_fault(error)}") from error
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} must hold settings (name: ..., rewards: ..., optimizer: ...), not {type(tree).__name__}"
        )
    for override in overrides:
        _override(tree, override)
    return validate(tree, path)


def validate(tree: Mapping[str, Any], origin: str) -> RunConfig:
    """A tree of settings as a :class:`RunConfig`; the first fault is a :class:`ConfigError`."""
    _refuse_logins(tree, origin)
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_explain(error)}") from error
    try:
        config.problem()
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from error
    return config


def dump(config: RunConfig) -> str:
    """The resolved configuration as YAML that :func:`load` reads, from any folder."""
    tree = TypeAdapter(RunConfig).dump_python(config, mode="json")
    for entry in tree["rewards"]:
        entry["use"] = anchored(entry["use"])
    return yaml.safe_dump(tree, sort_keys=False)


def _find(path: str) -> Path:
    given = Path(path)
    if given.is_file():
        return given
    shipped = Path(str(resources.files("recrl.configs")))
    if (shipped / f"{path}.yaml").is_file():
        return shipped / f"{path}.yaml"
    names = sorted(file.stem for file in shipped.glob("*.yaml"))
    raise ConfigError(f"no configuration {path!r} (from {os.getcwd()}); give a YAML file, or one of {names}")


def _refuse_logins(tree: Mapping[str, Any], origin: str) -> None:
    """Settings are saved, shown in errors and sent to logs: none may be an address with a password."""
    seen, left = set(), [("", tree)]
    while left:
        place, node = left.pop()
        if isinstance(node, str):
            if has_login(node):
                raise ConfigError(
                    f"{origin}: {place} is an address with a user or password before an @; leave them out, "
                    "and give a token by its variable (token_env)"
                )
        elif isinstance(node, Mapping | Sequence) and id(node) not in seen:
            seen.add(id(node))  # an alias of YAML may stand in many places, even in itself
            entries = node.items() if isinstance(node, Mapping) else enumerate(node)
            left += [(f"{place}.{key}".lstrip("."), value) for key, value in entries]


def _override(tree: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text!r} is no override; write key=value, such as train.steps=50")
    shown = repr(text) if "@" not in text else f"{key}=..."  # there may be a password before it
    node = tree
    *parents, last = SHORTHANDS.get(key, key).split(".")
    for parent in parents:
        if parent in SHORTHANDS and isinstance(node.get(parent), str):  # `rollout: vllm-colocate`
            node[parent] = {SHORTHANDS[parent].rpartition(".")[2]: node[parent]}
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"{shown}: {parent!r} is a value in the configuration, not a section")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{shown}: the value is no YAML: {_yaml_fault(error)}") from error


def _yaml_fault(error: yaml.YAMLError) -> str:
    """What and where, without the lines themselves: there may be a password in them."""
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or type(error).__name__
    return f"{what} in line {mark.line + 1}, column {mark.column + 1}" if mark else str(what)


def _explain(error: ValidationError) -> str:
    """The first fault in words: where, what, and the nearest valid name."""
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        *parents, key = fault["loc"]
        known = _keys_at(RunConfig, parents)
        return f"unknown setting {place!r}{_nearest(str(key), known)}"
    if fault["type"] == "missing":
        return f"setting {place!r} is missing"
    message = str(fault["msg"]).removeprefix("Value error, ")
    # Behind an @ there may have been a password.
    given = "" if "@" in repr(fault["input"]) else f"={fault['input']!r}"
    return f"{place}{given}: {message}" if place else message


def _keys_at(model: Any, parents: Sequence[Any]) -> list[str]:
    for parent in parents:
        if isinstance(parent, int):
            model = RewardSpec
        else:
            annotation = model.model_fields[parent].annotation
            # A section that may be absent is `Section | None`.
            sections = [part for part in (annotation, *get_args(annotation)) if _is_section(part)]
            model = sections[0] if sections else RewardSpec
    return list(model.model_fields)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid here: {', '.join(known)}"

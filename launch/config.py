"""The configuration of a run: one YAML file, overridden by ``key=value`` arguments.

It is validated whole before anything starts: every field alone (:mod:`recrl.envs.settings`), what must hold
of several together, and the problem that the rewards and constraints make.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from ..envs.client import has_login
from ..envs.llm import ChatConfig
from ..envs.settings import LARGEST_SEED, MANY, SMALLEST_UNIT, Between, Each, Place, Text, shown
from ..envs.task import DataConfig
from ..rewards import RewardSpec, RewardSpecError, resolve_all
from ..rewards.base import LARGEST
from ..rewards.registry import anchored
from ..rl.advantages import find_rule
from ..rl.constraints import Problem, parse_constraint
from ..rl.credit import Credit
from ..rl.duals import DualConfig
from ..rl.evaluate import EvaluationConfig
from ..rl.policy import PolicyConfig
from ..rl.preconditions import check_credit, check_directions, check_halves, check_rule, check_split
from ..rl.reference import ReferenceConfig
from ..rl.rollouts.settings import RolloutConfig
from ..rl.training import TrainConfig
from ..rl.warmstart import WarmStartConfig
from . import plain_yaml

# `data=logs.parquet`, `policy=smollm2` and `rollout=vllm-server` are what people write.
SHORTHANDS = {"data": "data.source", "policy": "policy.model", "rollout": "rollout.engine"}

# Answers in one step: more would not fit in memory as text.
_MOST_ANSWERS = MANY
# Sections in sections of an override's key.
_DEEPEST = 20


class ConfigError(ValueError):
    """The configuration cannot be used; the message names the setting, the value and the fix."""


class TaskConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """What the policy is asked for."""

    slots: Annotated[int, Between(1, 10_000)] = 10
    """Length of a list of tags."""
    max_history: Annotated[int, Between(0, MANY)] = 100
    """At most this many tags of the history stand in the prompt."""
    max_train_episodes: Annotated[int, Between(1, MANY)] | None = None
    """At most so many training episodes, spread evenly over all of them; their prompts are held in memory."""


class OptimizerConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """What is maximised and what is held at a target."""

    objective: Annotated[str, Text(100)]
    """Name of the reward to maximise."""
    constraints: Annotated[tuple[Annotated[str, Text()], ...], Each()] = ()
    """``novelty >= 0.30 (mean)``, ``length in [6, 11] (mean)``, ``diversity >= 0.5 for 0.9 (rate)``,
    ``validity >= 1 (gate)``; for a part of the prompts ``novelty >= 0.3 where segment=cold (mean)``; moving
    ``novelty >= 0.1 -> 0.3 over 100 (mean)``."""
    rule: Annotated[str, Text(100)] = "lagrangian"
    """How rewards become advantages."""
    credit: Credit = "sequence"
    """``tag``: each tag of an answer gets the credit for what it adds; ``sequence``: all share the
    answer's."""
    gradient_conflict_every: Annotated[int, Between(0, MANY)] = 0
    """Compare the rewards' gradients in the last layer once in so many generation batches; 0 = never."""
    objective_unit: Annotated[float, Between(SMALLEST_UNIT, LARGEST)] | None = None
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

    @field_validator("constraints")
    @classmethod
    def _written(cls, constraints: tuple[str, ...]) -> tuple[str, ...]:
        for text in constraints:
            parse_constraint(text)
        return constraints


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
    """Where the episodes come from."""
    task: TaskConfig = TaskConfig()
    """What the policy is asked for."""
    policy: PolicyConfig = PolicyConfig()
    """Which language model is trained."""
    warm_start: WarmStartConfig = WarmStartConfig()
    """Supervised training before reinforcement learning."""
    rewards: Annotated[tuple[RewardSpec, ...], Each(least=1)]
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
        "data", "policy", "task", "warm_start", "train", "evaluation", "optimizer", mode="before"
    )
    @classmethod
    def _section(cls, value: Any) -> Any:
        if not isinstance(value, Mapping | BaseModel):
            raise ValueError("is a section; write its settings below it, or leave it out")
        return value

    @model_validator(mode="after")
    def _together(self) -> "RunConfig":
        """What must hold of several settings, however many processes train."""
        train, warm = self.train, self.warm_start
        check_split(train.prompts_per_step, train.group_size, 1, train.micro_batches)
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
                objective_unit=units.get(self.optimizer.objective)
                if self.optimizer.objective_unit is None
                else self.optimizer.objective_unit,
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
        """The floor on novelty among the constraints, 0 without one: what the quota baseline has to meet.

        Read from their text: no reward is looked up.
        """
        floors = [
            c.bound
            for text in self.optimizer.constraints
            for c in parse_constraint(text)
            if (c.reward, c.sense, c.kind, c.segment) == ("novelty", ">=", "mean", None)
        ]
        return max(floors, default=0.0)


def load(path: str, overrides: Sequence[str] = (), *, resolve: bool = True) -> RunConfig:
    """Read and validate a configuration.

    Args:
        path: A YAML file, or the name of one that ships with the package (``demo``).
        overrides: ``key=value``; the key is dotted (``train.steps=50``), the value is YAML.
        resolve: See :func:`validate`.

    Raises:
        ConfigError: no such file, no YAML, an unknown key, a value that does not fit, or a problem that
            cannot be.
    """
    try:
        tree = plain_yaml.read(_content(path))
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{shown(path)} is no YAML that a configuration can be: {_yaml_fault(error)}"
        ) from error
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{shown(path)} must hold settings (name: ..., rewards: ..., optimizer: ...), not {shown(tree)}"
        )
    for override in overrides:
        _override(tree, override)
    return validate(tree, path, resolve=resolve)


def validate(tree: Mapping[str, Any], origin: str, *, resolve: bool = True) -> RunConfig:
    """A tree of settings as a :class:`RunConfig`.

    Args:
        origin: What errors call the tree.
        resolve: Find the rewards, which imports their modules, and build the problem; False for commands
            that score nothing.

    Raises:
        ConfigError: the first fault, on one line.
    """
    _refuse_logins(tree, origin)
    try:
        config = RunConfig.model_validate(dict(tree))
    except ValidationError as error:
        raise ConfigError(_line(f"{origin}: {_explain(error)}")) from error
    if resolve:
        try:
            config.problem()
        except ConfigError as error:
            raise ConfigError(_line(f"{origin}: {error}")) from error
    return config


def dump(config: RunConfig) -> str:
    """The resolved configuration as YAML that :func:`load` reads, from any folder."""
    tree = TypeAdapter(RunConfig).dump_python(config, mode="json")
    for entry in tree["rewards"]:
        entry["use"] = anchored(entry["use"])
    return plain_yaml.write(tree)


def _content(path: str) -> bytes:
    """What a file holds, or one that ships with the package."""
    shipped = Path(str(resources.files("recrl.configs")))
    try:
        given = Path(path)
        if given.is_dir():
            raise ConfigError(f"{shown(path)} is a folder; give the YAML file of a run")
        if not given.is_file():
            given = shipped / f"{path}.yaml"
        if given.is_file():
            with given.open("rb") as stream:
                # One byte more, so that what is too long is noticed without reading all of it.
                return stream.read(plain_yaml.MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{shown(path)} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise ConfigError(f"{shown(path)} cannot be read: {error}") from error
    names = sorted(file.stem for file in shipped.glob("*.yaml"))
    raise ConfigError(
        f"no configuration {shown(path)} (from {os.getcwd()}); give a YAML file, or one of {names}"
    )


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
    said = shown(text) if "@" not in value else f"{shown(key)}=..."  # a password may stand before it
    parts = key.split(".")
    if not equals or not all(parts) or len(parts) > _DEEPEST:
        raise ConfigError(f"{said} is no override; write key=value, such as train.steps=50")
    if not value.strip():
        raise ConfigError(f"{said} has no value; write null for none")
    try:
        given = plain_yaml.read(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{said}: the value is no YAML: {_yaml_fault(error)}") from error
    if key in SHORTHANDS and not isinstance(given, dict):
        parts = SHORTHANDS[key].split(".")
    node = tree
    *parents, last = parts
    for parent in parents:
        if parent in SHORTHANDS and isinstance(node.get(parent), str):  # `rollout: vllm-colocate`
            node[parent] = {SHORTHANDS[parent].rpartition(".")[2]: node[parent]}
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise ConfigError(
                f"{said}: {parent!r} is a {'list' if isinstance(node, list) else 'value'} in the "
                f"configuration, not a section; set {parent} as a whole"
            )
    node[last] = given


def _line(message: object) -> str:
    return " ".join(str(message).split())


def _yaml_fault(error: yaml.YAMLError) -> str:
    """What and where, without the lines themselves: there may be a password in them."""
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or _line(error)
    return f"{_line(what)} in line {mark.line + 1}, column {mark.column + 1}" if mark else what


def _explain(error: ValidationError) -> str:
    """The first fault in words: where, what, and the nearest valid name."""
    fault = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        *parents, key = fault["loc"]
        known = _keys_at(RunConfig, parents)
        return f"unknown setting {shown(place)}{_nearest(str(key), known)}"
    if fault["type"] == "missing":
        return f"setting {place!r} is missing"
    message = str(fault["msg"]).removeprefix("Value error, ")
    # What is said of a whole section names its settings.
    whole = isinstance(fault["input"], Mapping) and fault["type"] == "value_error"
    return message if whole or not place else f"{place}={shown(fault['input'])}: {message}"


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

"""A YAML file and overrides -> a :class:`RunConfig`, and back; errors say what and where."""

import copy
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from ...envs.http.addresses import has_login
from ...envs.lookup import anchored
from ...envs.settings import nearest, shown
from ...envs.task import TaskError, TaskSettings, settings_class
from ...rewards import RewardSpec
from . import plain_yaml
from .inherited import check_inherited
from .schema import ConfigError, RunConfig

# `data=logs.parquet`, `policy=smollm2`, `rollout=vllm-server` and `task=prompts` are what people write.
SHORTHANDS = {
    "data": "data.source",
    "policy": "policy.model",
    "rollout": "rollout.engine",
    "task": "task.use",
}
_CONSTRAINTS = "optimizer.constraints"
# Levels of sections in an override's key.
_DEEPEST = 20


def load(path: str, overrides: Sequence[str] = (), *, resolve: bool = True) -> RunConfig:
    """Read and validate a configuration.

    Args:
        path: A YAML file, or the name of one that ships with the package (``demo``).
        overrides: ``key=value``; the key is dotted (``train.steps=50``), the value is YAML.
        resolve: See :func:`validate`.

    Raises:
        ConfigError: no such file, no YAML, an unknown key, a value that does not fit, a problem that cannot
            be, or a pre-trained policy with the tiny one's numbers.
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
    file, given = copy.deepcopy(tree), dict[str, Any]()
    for override in overrides:
        _override(tree, override)
        _override(given, override)
    config = validate(tree, path, resolve=resolve)
    try:
        check_inherited(config, file, given)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def validate(tree: Mapping[str, Any], origin: str, *, resolve: bool = True) -> RunConfig:
    """A tree of settings as a :class:`RunConfig`.

    Args:
        origin: What errors call the tree.
        resolve: Find the rewards, which imports their modules, and build the problem; False for commands that
            score nothing.

    Raises:
        ConfigError: the first fault, on one line.
    """
    _refuse_logins(tree, origin)
    tree = dict(tree)
    if "task" in tree:
        tree["task"] = _task(tree["task"], origin, imported=resolve)
    try:
        config = RunConfig.model_validate(tree)
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
    tree["task"]["use"] = anchored(tree["task"]["use"])
    return plain_yaml.write(tree)


def _task(section: Any, origin: str, *, imported: bool) -> TaskSettings:
    """The section ``task``, whose settings are those of the task that it names."""
    given = {"use": section} if isinstance(section, str) else section
    if not isinstance(given, Mapping):
        raise ConfigError(f"{origin}: task={shown(section)}: is a section; write its settings below it")
    use = given.get("use", "tags")
    try:
        kind = settings_class(use, imported=imported) if isinstance(use, str) else TaskSettings
        return kind.model_validate(dict(given))
    except TaskError as error:
        raise ConfigError(_line(f"{origin}: {error}")) from error
    except ValidationError as error:
        raise ConfigError(_line(f"{origin}: {_explain(error, kind, 'task')}")) from error


def _content(path: str) -> bytes:
    """Content of a file, or of one that ships with the package."""
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
    """Refuse an address with a password: settings are saved, shown in errors and sent to logs."""
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
        hint = ""
        if key.startswith("optimizer") and " in [" in value:
            hint = (
                "; in a list YAML reads the brackets of a range as another list: put quotes around each "
                f'constraint, such as {_CONSTRAINTS}=["length in [6, 11] (mean)"]'
            )
        raise ConfigError(f"{said}: the value is no YAML: {_yaml_fault(error)}{hint}") from error
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
    """A fault and its place, without the lines themselves: there may be a password in them."""
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or _line(error)
    return f"{_line(what)} in line {mark.line + 1}, column {mark.column + 1}" if mark else what


def _explain(error: ValidationError, model: type[BaseModel] = RunConfig, section: str = "") -> str:
    """The first fault in words: where, what, and the nearest valid name.

    Args:
        model: The class that was validated, and ``section`` where it stands.
    """
    fault = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in (*filter(None, [section]), *fault["loc"]))
    if fault["type"] == "extra_forbidden":
        *parents, key = fault["loc"]
        known = _keys_at(model, parents)
        return f"unknown setting {shown(place)}{nearest(str(key), known, cutoff=0.5)}"
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

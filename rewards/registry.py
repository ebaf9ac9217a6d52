"""From a name in a config to a reward.

``reward``      the decorator: declares a function's range and registers it under a name
``resolve``     a registered name, entry point, ``package.module:function`` or ``file.py:function`` -> Reward
``declared_in`` the rewards of a module
``parameters``  the names of what a reward reads

To add a reward to a project, write a file and name it in the config as ``my_rewards.py:politeness``:

    from recrl.rewards import completion_text, reward

    @reward("politeness", range=(0, 1))
    def politeness(completions):
        return [float("please" in completion_text(completion)) for completion in completions]

A package offers its rewards to every project through entry points of the group ``recrl.rewards``.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from .base import Per, Reward, RewardFunction, RewardSpec, RewardSpecError

ENTRY_POINT_GROUP = "recrl.rewards"
# Imported when a name is first looked up: their decorators register our own rewards.
BUILT_IN_MODULES = ("tags",)

_DECLARATION = "__recrl_reward__"  # the attribute in which a decorated function carries its Reward
_registered: dict[str, Reward] = {}
F = TypeVar("F", bound=RewardFunction)


def reward(
    name: str,
    *,
    range: tuple[float, float],
    per: Per = "sample",
    unit: float | None = None,
) -> Callable[[F], F]:
    """Declare a reward function (or a class of callable rewards) and register it as ``name``.

    The function itself is returned unchanged: TRL or a test may call it directly.

    Args:
        name: how configs and constraints refer to it.
        range: (low, high) of its values; a value outside is an error, not clipped.
        per: ``"group"`` if it compares the completions of one prompt, ``"tag"`` if the first tags of an
            answer have a score of their own.
        unit: what counts as one step of it; None leaves that to the optimiser.

    Raises:
        RewardSpecError: the declaration is unusable, or another function is registered under this name.
    """

    def declare(function: F) -> F:
        declared = Reward(name, function, float(range[0]), float(range[1]), per, unit)
        known = _registered.get(name)
        # The same function defined again (a notebook cell, a reloaded module) replaces its older self.
        if known is not None and _origin(known.function) != _origin(function):
            raise RewardSpecError(
                f"reward name {name!r} of {_origin(function)} is taken by {_origin(known.function)}: rename"
            )
        setattr(function, _DECLARATION, declared)
        _registered[name] = declared
        return function

    return declare


def resolve(spec: str | RewardSpec) -> Reward:
    """Find the reward that ``spec`` names, with the config's overrides applied.

    Args:
        spec: a config entry; or its ``use`` string alone, when the function declares its own range.

    Returns:
        The Reward, called ``spec.name`` (for a string: the declared name, else the function's).

    Raises:
        RewardSpecError: nothing has that name (the message offers the nearest), or no range is declared.
    """
    entry = RewardSpec(name=spec.rpartition(":")[2], use=spec) if isinstance(spec, str) else spec
    function = _load(entry.use)
    if not callable(function):
        raise RewardSpecError(f"reward {entry.use!r} is a {type(function).__name__}; it must be callable")
    declared = _registered.get(entry.use) or getattr(function, _DECLARATION, None)
    if declared is None:
        if entry.range is None:
            raise RewardSpecError(
                f"reward {entry.name!r} ({entry.use}) declares no range. Decorate the function with "
                f"@recrl.rewards.reward({entry.name!r}, range=(low, high)), or give its config entry a "
                f"range: {{name: {entry.name}, use: {entry.use!r}, range: [low, high]}}"
            )
        declared = Reward(entry.name, function, *entry.range)
    low, high = entry.range or (declared.low, declared.high)
    return replace(
        declared,
        name=declared.name if isinstance(spec, str) else entry.name,
        function=function,  # a declaration inherited from a class or a wrapped function names another object
        low=float(low),
        high=float(high),
        per=entry.per or declared.per,
        unit=declared.unit if entry.unit is None else entry.unit,
    )


def declared_in(module: str) -> list[str]:
    """The rewards that a module declares with ``@reward``, as ``use`` strings; none if there are none.

    Args:
        module: ``package.module``, or a path that ends with ``.py``.

    Raises:
        RewardSpecError: no such module or file.
    """
    found = vars(_module(module))
    names = {value: name for name, value in found.items() if callable(value) and hasattr(value, _DECLARATION)}
    return [f"{module}:{name}" for name in names.values()]


def parameters(found: Reward) -> tuple[str, ...]:
    """Names of what a reward reads: columns, derived columns and resources."""
    function = found.function
    signature = inspect.signature(function.__call__ if isinstance(function, type) else function)
    return tuple(signature.parameters)


def _load(use: str) -> Any:
    """The object that a ``use`` string names."""
    for built_in in BUILT_IN_MODULES:
        importlib.import_module(f".{built_in}", __package__)
    module_name, colon, attribute = use.rpartition(":")
    if colon:
        module = _module(module_name)
        if not hasattr(module, attribute):
            names = [
                name for name, value in vars(module).items() if callable(value) and not name.startswith("_")
            ]
            raise RewardSpecError(f"{module_name} has no {attribute!r}{_nearest(attribute, names)}")
        return getattr(module, attribute)

    if use in _registered:
        return _registered[use].function
    offered = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    if use in offered.names:
        return offered[use].load()
    raise RewardSpecError(
        f"unknown reward {use!r}{_nearest(use, {*_registered, *offered.names})}. A function of your own is "
        "'package.module:function' or 'path/to/file.py:function'"
    )


def _module(name: str) -> ModuleType:
    return _import_file(name) if name.endswith(".py") else _import_module(name)


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only when the named module is absent; an import that fails inside it is the user's own traceback.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise RewardSpecError(
            f"no module {name!r}: install its package, put its folder on PYTHONPATH, or name the file "
            "('path/to/file.py:function')"
        ) from error


def _import_file(name: str) -> ModuleType:
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise RewardSpecError(f"no reward file {path} (given as {name!r}, read from folder {Path.cwd()})")
    # One module a file, so that two rewards of one file share its state; in sys.modules, so that they pickle.
    module_name = f"recrl_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if module_name not in sys.modules:
        module_spec = importlib.util.spec_from_file_location(module_name, path)
        assert module_spec is not None
        assert module_spec.loader is not None
        module = sys.modules[module_name] = importlib.util.module_from_spec(module_spec)
        try:
            module_spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
    return sys.modules[module_name]


def _origin(function: RewardFunction) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def _nearest(name: str, known: set[str] | list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{hint} known: {', '.join(sorted(known)) or 'none'}"

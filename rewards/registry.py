"""Lookup of rewards: a name in a config -> a reward.

``reward``      the decorator: declares a function's range and registers it under a name
``resolve``     a registered name, entry point, ``package.module:function`` or ``file.py:function`` -> Reward
``as_reward``   what a script writes for a reward -> what these take
``resolve_all`` the rewards of a run, those that add up others included
``declared_in`` the rewards of a module
``parameters``  the names of what a reward reads
``known``       every reward that is registered or offered by a package

To add a reward to a project, write a file and name it in the config as ``my_rewards.py:politeness``:

    from recrl.rewards import completion_text, reward

    @reward("politeness", range=(0, 1))
    def politeness(completions):
        return [float("please" in completion_text(completion)) for completion in completions]

A package offers its rewards to every project through entry points of the group ``recrl.rewards``.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import ValidationError

from ..envs.lookup import Lookup, where
from ..envs.settings import nearest
from .base import Direction, Per, Reward, RewardFunction, RewardSpecError, name_of
from .spec import RewardSpec

# Imported when a name is first looked up: their decorators register our own rewards.
BUILT_IN_MODULES = ("tags", "team", "answers", "explanations", "claims", "offers", "models", "judged", "http")

REWARDS = Lookup("reward", "function", "recrl.rewards", RewardSpecError)

_DECLARATION = "__recrl_reward__"  # the attribute in which a decorated function carries its Reward
_registered: dict[str, Reward] = {}
F = TypeVar("F", bound=RewardFunction)


def reward(
    name: str,
    *,
    range: tuple[float, float],
    per: Per = "sample",
    unit: float | None = None,
    direction: Direction = "higher",
    needs: Sequence[str] = (),
    serving: bool | None = None,
) -> Callable[[F], F]:
    """Declare a reward function (or a class of callable rewards) and register it as ``name``.

    The function itself is returned unchanged: TRL or a test may call it directly.

    Args:
        name: name by which configs and constraints refer to it.
        range: (low, high) of its values; a value outside is an error, not clipped.
        per: ``"group"`` if it compares the completions of one prompt, ``"tag"`` if the first tags of an
            answer have a score of their own.
        unit: size of one step of it; None leaves that to the optimiser.
        direction: whether higher or lower is better; ``"lower"`` can be held down, but not maximised.
        needs: columns and resources that the function reads through ``**kwargs``.
        serving: whether it can be computed when an answer is served, before the outcome is known; None:
            decided by what it reads.

    Raises:
        RewardSpecError: the declaration is unusable, or another function is registered under this name.

    Example:
        >>> from recrl import reward
        >>> @reward("exclamation", range=(0, 1))
        ... def exclamation(completions):
        ...     return [float("!" in text) for text in completions]
        >>> exclamation(["no", "yes!"])
        [0.0, 1.0]
    """

    def declare(function: F) -> F:
        declared = Reward(function, range, name, per, unit, direction, tuple(needs), serving)
        known = _registered.get(name)
        # The same function defined again (a notebook cell, a reloaded module) replaces its older self.
        if known is not None and _origin(known.function) != _origin(function):
            raise RewardSpecError(
                f"reward name {name!r} of {_origin(function)} is taken by {_origin(known.function)}: rename"
            )
        try:
            setattr(function, _DECLARATION, declared)
        except AttributeError as error:
            raise RewardSpecError(
                f"reward {name!r}: a {type(function).__name__} cannot be declared with @reward; wrap it in a "
                "function, or give its config entry a range"
            ) from error
        _registered[declared.name] = declared
        return function

    return declare


def resolve(spec: str | RewardSpec | Reward) -> Reward:
    """Find the reward that ``spec`` names, with the config's overrides applied.

    Args:
        spec: a config entry; its ``use`` string alone, when the function declares its own range; or a reward,
            which is returned as it is.

    Returns:
        The Reward, called ``spec.name`` (for a string: the declared name, else the function's).

    Raises:
        RewardSpecError: nothing has that name (the message offers the nearest), or no range is declared.
    """
    if isinstance(spec, Reward):
        return spec
    entry = as_spec(spec)
    function = _load(entry.use)
    if entry.use.endswith("()"):
        function = _made(entry, function)
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
        declared = Reward(function, entry.range, entry.name)
    return replace(
        declared,
        name=declared.name if isinstance(spec, str) else entry.name,
        function=function,  # a declaration inherited from a class or a wrapped function names another object
        range=entry.range or declared.range,
        per=entry.per or declared.per,
        unit=declared.unit if entry.unit is None else entry.unit,
        direction=entry.direction or declared.direction,
        serving=declared.serving if entry.serving is None else entry.serving,
    )


def resolve_all(specs: Sequence[str | RewardSpec | Reward]) -> tuple[Reward, ...]:
    """The rewards of a run, in the order of its list.

    Raises:
        RewardSpecError: as for `resolve`; two share a name; or one adds up rewards that are not in the list.
    """
    entries = [as_spec(spec) for spec in specs]
    found = {i: resolve(spec) for i, spec in enumerate(specs) if not entries[i].sum}
    parts = {reward.name: reward for reward in found.values()}
    found |= {i: _sum(entry, parts) for i, entry in enumerate(entries) if entry.sum}
    names = [reward.name for reward in found.values()]
    for name in names:
        if names.count(name) > 1:
            raise RewardSpecError(
                f"two rewards are called {name!r}: give one another name, and 'use: {name}' in its config"
            )
    return tuple(found[i] for i in range(len(entries)))


def as_spec(spec: str | RewardSpec | Reward) -> RewardSpec:
    """The config entry of a ``use`` string, or of a reward: how it is called by default."""
    if isinstance(spec, Reward):
        return RewardSpec(name=spec.name)
    return RewardSpec(name=spec.rpartition(":")[2], use=spec) if isinstance(spec, str) else spec


def as_reward(given: Any) -> RewardSpec | Reward | str:
    """What a script may write for a reward, as `resolve_all` takes it.

    Args:
        given: a Reward; a function, object or class that ``@reward`` declares; the ``use`` string or the
            config entry (a dict or RewardSpec) of one.

    Raises:
        RewardSpecError: a function declares no range, or an entry cannot be read.
    """
    if isinstance(given, str | RewardSpec | Reward):
        return given
    if isinstance(given, Mapping):
        try:
            return RewardSpec.model_validate(dict(given))
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise RewardSpecError(f"reward {dict(given)} cannot be read: {'; '.join(faults)}") from None
    if not callable(given):
        raise RewardSpecError(
            f"a reward is a {type(given).__name__}; write a function, a Reward, a name or a config entry"
        )
    declared = getattr(given, _DECLARATION, None)
    if declared is None:
        name = name_of(given)
        shown = f"@reward({name!r}, range=(low, high))" if name else "@reward(name, range=(low, high))"
        raise RewardSpecError(
            f"reward {name or 'lambda'!r} declares no range: write Reward({name or 'function'}, "
            f"range=(low, high){'' if name else ', name=...'}), or decorate it with {shown}"
        )
    return replace(declared, function=given)


def declared_in(module: str) -> list[str]:
    """The rewards that a module declares with ``@reward``, as ``use`` strings; none if there are none.

    Args:
        module: ``package.module``, or a path that ends with ``.py``.

    Raises:
        RewardSpecError: no such module or file.
    """
    found = vars(REWARDS.module(module))
    names = {value: name for name, value in found.items() if callable(value) and hasattr(value, _DECLARATION)}
    return [f"{module}:{name}" for name in names.values()]


def parameters(found: Reward) -> tuple[str, ...]:
    """Names of what a reward reads: columns, derived columns and resources."""
    functions = [found.function]
    if isinstance(found.function, type):
        functions = [found.function.__call__]
        if hasattr(found.function, "update"):
            functions.append(found.function.update)
    named = [name for function in functions for name in inspect.signature(function).parameters]
    return tuple(dict.fromkeys([*named, *found.needs]))


def known() -> dict[str, str]:
    """Name of each reward that a config may use as it is -> where it comes from.

    What two packages offer is there with both, and refused by `resolve`; what is registered goes before both.
    """
    _import_built_in()
    offered: dict[str, list[str]] = {}
    for entry in REWARDS.offered():
        offered.setdefault(entry.name, []).append(f"entry point {where(entry)}")
    found = {}
    for name, declared in sorted(_registered.items()):
        module, places = declared.function.__module__, offered.pop(name, [])
        if any(place.startswith(f"entry point {module}:") for place in places):  # its package was imported
            found[name] = " and ".join(places)
        else:
            found[name] = f"{module}, which hides {' and '.join(places)}" if places else module
    return found | {name: " and ".join(places) for name, places in offered.items()}


def _sum(entry: RewardSpec, parts: dict[str, Reward]) -> Reward:
    """A reward that adds up others; its range follows from theirs."""
    assert entry.sum is not None
    for name in entry.sum:
        if name not in parts:
            raise RewardSpecError(
                f"reward {entry.name!r}: sum names {name!r}, which the list of rewards lacks or which is a "
                f"sum itself{nearest(name, set(parts))}"
            )
    low_is_better = [n for n, weight in entry.sum.items() if parts[n].direction == "lower" and weight > 0]
    if entry.direction is None and 0 < len(low_is_better) < len(entry.sum):
        name = low_is_better[0]
        raise RewardSpecError(
            f"reward {entry.name!r}: sum adds {name!r}, which is better low, to rewards that are not; make "
            f"its weight {-entry.sum[name]:g}, or say what is meant with direction: higher or lower"
        )
    direction: Direction = entry.direction or ("lower" if low_is_better else "higher")
    ends = [[weight * end for end in (parts[n].low, parts[n].high)] for n, weight in entry.sum.items()]
    range = entry.range or (sum(map(min, ends)), sum(map(max, ends)))
    return Reward(_nobody_calls, range, entry.name, unit=entry.unit, direction=direction)


def _nobody_calls(**_: Any) -> None:
    raise NotImplementedError("the engine adds up the scores of other rewards")


def _made(entry: RewardSpec, factory: Any) -> Any:
    """Reward function that a factory makes of the entry's params."""
    try:
        return factory(**entry.params)
    except Exception as error:
        raise RewardSpecError(
            f"reward {entry.name!r}: {entry.use} with params {entry.params} does not fit, "
            f"{type(error).__name__}: {error}"
        ) from error


def _import_built_in() -> None:
    for built_in in BUILT_IN_MODULES:
        importlib.import_module(f".shipped.{built_in}", __package__)


def _load(use: str) -> Any:
    """The object that a ``use`` string names."""
    _import_built_in()
    use = use.removesuffix("()")
    if ":" in use:
        return REWARDS.named(use)
    if use in _registered:
        return _registered[use].function
    offered = REWARDS.offer(use)
    if offered is not None:
        return offered
    usable = {*_registered, *(entry.name for entry in REWARDS.offered())}
    raise RewardSpecError(
        f"unknown reward {use!r}{nearest(use, usable)}. A function of your own is "
        "'package.module:function' or 'path/to/file.py:function'"
    )


def _origin(function: RewardFunction) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"

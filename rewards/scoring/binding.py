"""Sources of the parameters of a reward's function.

``bind``   finds a source for every parameter of a reward, or says what is missing
``Call``   a reward with its parameters bound: what to pass for some samples of a batch
``Batch``  what the rewards of one call to the engine share

A function lists what it needs by its parameter names:

* ``prompts``, ``completions`` and the dataset columns: lists with one entry a sample;
* derived columns: ``answers``, the completions as the ``catalog`` resource parses them, once a batch;
* resources, one object for the whole run: ``catalog``, ``encoder``, ``slots``, and what else the caller adds;
* ``params`` of its config entry, which go before all of these.

A function with ``**kwargs`` gets every dataset column and resource, as from TRL. One that names ``prompt`` or
``completion`` scores one sample a call, as in verifiers: it gets that sample's entry of each column, and
``state``, all of them in one dict.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np

from ..base import Reward, RewardFunction, RewardSpecError
from ..spec import RewardSpec

# Derived column -> the resource it is made with, and how: (resource, texts) -> one entry a sample.
DERIVED: dict[str, tuple[str, Callable[[Any, Sequence[str]], list]]] = {
    "answers": ("catalog", lambda catalog, texts: [catalog.parse(text) for text in texts]),
}
BATCH = ("prompts", "completions")
# Resources of TRL: they change during training and cannot leave the process.
LIVE = ("trainer_state", "log_extra", "log_metric")
# Names of these in a function of one sample.
ONE = {"prompt": "prompts", "completion": "completions"}
STATE = "state"
_SHIPPED = f"{__package__.rpartition('.')[0]}.shipped."
# What nobody can change.
_FIXED = frozenset({int, float, str, bool, bytes, type(None)})


def derived_by(resources: Mapping[str, Any]) -> dict[str, Callable[[Sequence[str]], list]]:
    """The derived columns that some resources make."""
    return {
        name: partial(make, resources[resource])
        for name, (resource, make) in DERIVED.items()
        if resource in resources
    }


class Entries(list):
    """Entries of a column, as told from a resource that happens to be a list."""


@dataclass(frozen=True)
class Batch:
    """Data that the rewards of one call to the engine share."""

    n: int
    group_size: int
    samples: Sequence[int]  # number of each row in the batch that the caller knows, for messages
    columns: Mapping[str, Sequence[Any]]  # dataset columns, prompts, completions: [sample]
    derived: Mapping[str, Sequence[Any]]  # [sample]
    resources: Mapping[str, Any]


@dataclass(frozen=True)
class Sources:
    """Names that a function's parameters are filled from."""

    columns: tuple[str, ...]
    derived: tuple[str, ...]
    resources: tuple[str, ...]
    everything: bool  # the function has **kwargs

    def entries(self, batch: Batch, rows: Sequence[int]) -> dict[str, Entries]:
        """The columns' part of the arguments."""
        columns = {**batch.columns} if self.everything else {c: batch.columns[c] for c in self.columns}
        columns |= {name: batch.derived[name] for name in self.derived}
        if isinstance(rows, range):
            return {name: Entries(values[rows.start : rows.stop]) for name, values in columns.items()}
        return {name: Entries(values[i] for i in rows) for name, values in columns.items()}

    def shared(self, resources: Mapping[str, Any]) -> dict[str, Any]:
        """The resources' part of the arguments."""
        return {name: resources[name] for name in (resources if self.everything else self.resources)}

    def portable(self, resources: Mapping[str, Any]) -> dict[str, Any]:
        """The resources that do not change during a run, so that another process can have them."""
        return {name: value for name, value in self.shared(resources).items() if name not in LIVE}


@dataclass(frozen=True)
class Call:
    """A reward with its parameters bound."""

    reward: Reward
    spec: RewardSpec
    function: RewardFunction
    """Function that takes lists, whatever the user's function takes."""
    target: Any
    """The user's function or object."""
    sources: Sources
    named: tuple[str, ...]
    """Parameters that ``params`` do not set."""
    by_row: bool
    """Whether the user's function scores one sample a call."""
    params: Mapping[str, Any]
    update: tuple[Callable[..., None], Sources] | None
    """Method by which a stateful reward learns each training batch, and its sources."""

    @property
    def is_async(self) -> bool:
        return is_async(self.function)

    @property
    def ours(self) -> bool:
        """Whether the function ships with recrl, and so is known to leave its arguments as they are."""
        module = getattr(self.target, "__module__", None) or type(self.target).__module__
        return str(module).startswith(_SHIPPED)

    @property
    def in_thread(self) -> bool:
        """Whether the function is called in the thread that asks for scores, as TRL calls it."""
        spec = self.spec
        if spec.thread is not None:
            return spec.thread == "main"
        return not (self.is_async or spec.workers or spec.timeout is not None or (spec.concurrency or 1) > 1)

    @property
    def remote(self) -> bool:
        """Whether a call asks something beyond this machine, as far as one can tell."""
        return self.is_async or "judge" in self.sources.resources

    @property
    def stateful(self) -> bool:
        return hasattr(self.target, "state_dict")

    @property
    def in_order(self) -> bool:
        """Whether calls must follow the order of the batch: each may remember, or say something of, the
        samples of the last."""
        return (self.stateful and self.update is None) or "log_extra" in self.sources.resources

    @property
    def digest(self) -> str:
        """Hash of the file that the function stands in; of nothing where there is none."""
        function = self.reward.function
        found = function if inspect.isclass(function) or inspect.isroutine(function) else type(function)
        try:
            content = Path(inspect.getfile(inspect.unwrap(found))).read_bytes()
        except (OSError, TypeError):
            content = b""
        return hashlib.sha256(content).hexdigest()

    def spans(self, rows: Sequence[int], group_size: int) -> list[Sequence[int]]:
        """The rows of each call.

        Args:
            rows: Rows that need a score: whole groups, if the reward compares the samples of a group.
        """
        if self.reward.per == "group":
            return [rows[i : i + group_size] for i in range(0, len(rows), group_size)]
        if self.spec.batch_size is not None:
            size = self.spec.batch_size
        elif self.is_async:
            size = 1 if self.by_row else len(rows)
        else:  # an equal part for each that can make a call
            size = -(-len(rows) // (self.spec.workers or self.spec.concurrency or 1))
        return [rows[i : i + size] for i in range(0, len(rows), max(size, 1))]

    def arguments(self, batch: Batch, rows: Sequence[int]) -> dict[str, Any]:
        """Keyword arguments for some rows of a batch."""
        # What changes is no part of a cache's key.
        shared = self.sources.portable if self.spec.cache else self.sources.shared
        entries = self.sources.entries(batch, rows)
        return {**(entries if self.ours else own(entries)), **shared(batch.resources), **self.params}


def own(entries: Mapping[str, Entries]) -> dict[str, Entries]:
    """Columns whose lists, dicts and arrays a function may change without anybody else seeing it.

    Objects of other types are shared; what stood at several places of a column still does.
    """
    copies: dict[int, Any] = {}

    def copied(value: Any) -> Any:
        kind = type(value)
        if kind in _FIXED:
            return value
        if id(value) not in copies:
            if kind is list:
                copies[id(value)] = [v if type(v) in _FIXED else copied(v) for v in value]
            elif kind is dict:
                copies[id(value)] = {key: copied(v) for key, v in value.items()}
            elif isinstance(value, np.ndarray):
                copies[id(value)] = value.copy()
            else:
                copies[id(value)] = value
        return copies[id(value)]

    return {name: Entries(map(copied, values)) for name, values in entries.items()}


def is_async(function: RewardFunction) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def bind(
    reward: Reward,
    spec: RewardSpec,
    columns: Collection[str],
    resources: Collection[str],
    derived: Collection[str] = (),
) -> Call:
    """Find a source for each parameter of the reward's function.

    Args:
        reward: Reward that ``spec`` names.
        columns: Dataset columns of each batch.
        resources: Names of the engine's resources.
        derived: Names of its derived columns.

    Raises:
        RewardSpecError: a parameter has no source, or ``params`` do not fit.
    """
    params = dict(spec.params) if not spec.use.endswith("()") else {}
    function: Any = reward.function
    if isinstance(function, type):  # an instance of its own, so that two engines do not share a memory
        try:
            function, params = function(**params), {}
        except (TypeError, ValueError) as error:
            shown = params if "@" not in repr(params) else list(params)  # there may be a password before it
            raise RewardSpecError(f"reward {reward.name!r}: params {shown} do not fit: {error}") from error
        except Exception as error:
            raise RewardSpecError(
                f"reward {reward.name!r} cannot be made, {type(error).__name__}: {error}"
            ) from error
        if not callable(function):
            raise RewardSpecError(f"reward {reward.name!r}: class {type(function).__name__} needs a __call__")
    named, open_ended = _parameters(function, reward.name)
    by_row = bool(ONE.keys() & (named.keys() - params.keys())) and "completions" not in named
    unknown = [name for name in params if name not in named]
    if unknown and not open_ended:
        raise RewardSpecError(
            f"reward {reward.name!r} has no parameter {unknown[0]!r} (set in its params); it has: "
            f"{', '.join(named)}"
        )
    wanted = [ONE.get(name, name) if by_row else name for name in named if name not in params]
    if by_row and STATE in wanted:
        wanted.remove(STATE)
        everything = True
    else:
        everything = open_ended
    sources = _sources(
        reward, [*wanted, *reward.needs], _optional(named), columns, resources, derived, everything
    )
    update = None
    if hasattr(function, "update") and hasattr(function, "state_dict"):
        learns, learns_all = _parameters(function.update, reward.name)
        may_lack = _optional(learns)
        update = (
            function.update,
            _sources(reward, list(learns), may_lack, columns, resources, derived, learns_all),
        )
    return Call(
        reward,
        spec,
        _one_by_one(function, named, open_ended) if by_row else function,
        function,
        sources,
        tuple(name for name in named if name not in params),
        by_row,
        params,
        update,
    )


def _parameters(function: Any, reward: str) -> tuple[dict[str, inspect.Parameter], bool]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError as error:  # some functions in C have none
        raise RewardSpecError(
            f"reward {reward!r}: {error}, so that nobody knows what it reads; wrap it in a Python function"
        ) from error
    named = {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    for name, parameter in named.items():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise RewardSpecError(
                f"reward {reward!r}: parameter {name!r} is positional-only, but rewards are called by name; "
                "remove the '/' of its signature"
            )
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _optional(named: Mapping[str, inspect.Parameter]) -> set[str]:
    return {name for name, parameter in named.items() if parameter.default is not parameter.empty}


def _sources(
    reward: Reward,
    wanted: Sequence[str],
    optional: Collection[str],
    columns: Collection[str],
    resources: Collection[str],
    derived: Collection[str],
    everything: bool,
) -> Sources:
    columns = {*BATCH, *columns}
    for name in wanted:
        if name in {*columns, *derived, *resources, *optional}:
            continue
        fix = "Rename the parameter, or set it in the params of its config entry"
        if name in DERIVED:
            fix = f"Pass the resource {DERIVED[name][0]!r}, which makes {name!r}"
        raise RewardSpecError(
            f"reward {reward.name!r} needs {name!r}, which nothing provides. Dataset columns: "
            f"{', '.join(sorted(columns))}; derived: {', '.join(derived) or 'none'}; resources: "
            f"{', '.join(sorted(resources)) or 'none'}. {fix}"
        )
    wanted = list(dict.fromkeys(wanted))
    return Sources(
        columns=tuple(name for name in wanted if name in columns),
        derived=tuple(name for name in wanted if name in derived),
        resources=tuple(name for name in wanted if name in resources),
        everything=everything,
    )


def _one_by_one(
    function: RewardFunction, named: Mapping[str, inspect.Parameter], open_ended: bool
) -> RewardFunction:
    """A function of one sample, as a function of lists."""

    def rows(arguments: dict[str, Any]) -> list[dict[str, Any]]:
        columns = {name: values for name, values in arguments.items() if isinstance(values, Entries)}
        shared = {name: value for name, value in arguments.items() if name not in columns}
        found = []
        for entry in zip(*columns.values(), strict=True):
            one = dict(zip(columns, entry, strict=True))
            one |= {single: one.pop(plural) for single, plural in ONE.items() if plural in one}
            given = {**one, STATE: {**one}, **shared}
            found.append(given if open_ended else {name: given[name] for name in named if name in given})
        return found

    if is_async(function):

        async def awaited(**arguments: Any) -> list[Any]:
            return [await function(**row) for row in rows(arguments)]

        return awaited

    @wraps(function)
    def plain(**arguments: Any) -> list[Any]:
        return [function(**row) for row in rows(arguments)]

    return plain

"""Scores one generation batch: named rewards in, a matrix ``scores[sample, reward]`` out.

A reward function lists what it needs by its parameter names, and the engine provides it:

* ``prompts``, ``completions`` and the dataset columns: lists with one entry a sample;
* derived columns: ``answers``, the completions as the ``catalog`` resource parses them, once a batch;
* resources, one object for the whole run: ``catalog``, ``encoder``, ``slots``, and what else the caller adds;
* ``params`` of its config entry, which go before all of these.

A function with ``**kwargs`` gets every dataset column and resource, as from TRL. A value that cannot be
trusted (wrong length or type, NaN, out of the declared range) is an error, never a silent 0; None means
missing.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from .base import (
    PER_TAG,
    Completion,
    Reward,
    RewardError,
    RewardFunction,
    RewardSpec,
    RewardSpecError,
    checked_scores,
    completion_text,
)
from .registry import resolve

# Derived column -> the resource it is made with, and how: (resource, completions) -> one entry a sample.
DERIVED: dict[str, tuple[str, Callable[[Any, Sequence[Completion]], list]]] = {
    "answers": ("catalog", lambda catalog, batch: [catalog.parse(completion_text(text)) for text in batch]),
}
BATCH = ("prompts", "completions")


class RewardEngine:
    """Calls the rewards on a batch, checks what they return, and measures the time that each takes.

    Checkpoint behaviour: the engine holds no state of its own. A reward object with ``state_dict`` and
    ``load_state_dict`` (a memory of past answers, say) is saved under its name; loading demands the same
    names. Each rank has its own engine, and so its own state.

    Args:
        rewards: config entries, or ``use`` strings of rewards that declare their own range.
        resources: objects that rewards may name as a parameter. Kept as ``.resources``; the caller may
            exchange a value between batches (TRL's ``trainer_state``, for example).
        columns: the dataset columns that each batch will carry, ``completion_ids`` included where it will.

    Raises:
        RewardSpecError: a reward cannot be found, two share a name, or a parameter has no source.
    """

    def __init__(
        self,
        rewards: Sequence[RewardSpec | str],
        *,
        resources: Mapping[str, Any],
        columns: Collection[str],
    ) -> None:
        self.resources = dict(resources)
        derived = [name for name, (resource, _) in DERIVED.items() if resource in resources]
        provided = [*BATCH, *derived, *resources]
        for name in columns:
            if name in provided:
                raise RewardSpecError(
                    f"dataset column {name!r} has the name of something that the engine provides "
                    f"({', '.join(provided)}): rename the column"
                )
        self._calls = [_bind(spec, columns, derived, resources) for spec in rewards]
        self.rewards: tuple[Reward, ...] = tuple(call.reward for call in self._calls)
        self.names: tuple[str, ...] = tuple(reward.name for reward in self.rewards)
        for name in self.names:
            if self.names.count(name) > 1:
                raise RewardSpecError(
                    f"two rewards are called {name!r}: give one another name, and 'use: {name}' in its config"
                )
        self.ranges: dict[str, tuple[float, float]] = {r.name: (r.low, r.high) for r in self.rewards}
        self.seconds: dict[str, float] = dict.fromkeys(self.names, 0.0)
        """Wall-clock seconds spent in each reward since construction; async rewards overlap."""

    def score(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Completion],
        columns: Mapping[str, Sequence[Any]],
        group_size: int,
    ) -> np.ndarray:
        """Score one batch of N completions with each of the K rewards.

        Async rewards run concurrently, with each other and with the sync ones.

        Args:
            prompts: N prompts; the completions of one prompt stand in consecutive rows.
            completions: N strings or conversational message lists.
            columns: dataset columns, N entries each.
            group_size: completions per prompt; must divide N.

        Returns:
            scores[sample, reward], float32 ``[N, K]`` in the order of ``names``; NaN = missing.

        Raises:
            RewardError: a reward raised, or did not return N numbers (or None) within its range.
            ValueError: the batch is not as announced: N % group_size, a column's length, a missing column.
        """
        n = len(completions)
        self._check_batch(n, prompts, columns, group_size)
        batch = _Batch(
            n,
            group_size,
            columns={**columns, "prompts": prompts, "completions": completions},
            derived={
                name: self._derive(name, completions)
                for name in DERIVED
                if any(name in call.derived for call in self._calls)
            },
            resources=self.resources,
        )
        scores = np.full((n, len(self._calls)), np.nan, dtype=np.float32)
        waiting = {
            k: asyncio.run_coroutine_threadsafe(self._run_async(call, batch), _event_loop())
            for k, call in enumerate(self._calls)
            if call.is_async
        }
        try:
            for k, call in enumerate(self._calls):
                if k not in waiting:
                    scores[:, k] = self._run(call, batch)
            for k, future in waiting.items():
                scores[:, k] = future.result()
        finally:  # after an error, do not leave the other rewards' requests running
            for future in waiting.values():
                future.cancel()
        return scores

    def score_prefixes(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Completion],
        columns: Mapping[str, Sequence[Any]],
        lengths: int,
    ) -> np.ndarray:
        """What the rewards of ``PER_TAG`` give to the first 0, 1, 2, ... tags of every answer.

        Args:
            prompts: N prompts.
            completions: N completions.
            columns: dataset columns, N entries each.
            lengths: P, how many lengths to score: 0 .. P - 1 tags, a length past the end being the whole
                answer.

        Returns:
            ``[N, P, K]`` float32; 0 for other rewards and where a reward is missing.
        """
        n, answers = len(completions), self._derive("answers", completions)
        running = np.zeros((n, lengths, len(self._calls)), dtype=np.float32)
        # A length past the end is not scored again: it is the whole answer.
        rows = [
            (i, p) for i, answer in enumerate(answers) for p in range(min(lengths, len(answer.slots) + 1))
        ]
        samples, sizes = (np.array(column) for column in zip(*rows, strict=True))
        repeated = {**columns, "prompts": prompts, "completions": completions}
        batch = _Batch(
            len(rows),
            1,
            columns={name: [values[i] for i in samples] for name, values in repeated.items()},
            derived={"answers": [answers[i].first(p) for i, p in rows]},
            resources=self.resources,
        )
        for k, call in enumerate(self._calls):
            if call.reward.per in PER_TAG:
                running[samples, sizes, k] = np.nan_to_num(self._run(call, batch))
            if call.reward.per == "tag_mean":
                # A mean over p tags is noisier than their share of the whole answer's, which is what counts.
                running[samples, sizes, k] *= np.minimum(1.0, sizes / self.resources["slots"])
        for i, answer in enumerate(answers):
            running[i, len(answer.slots) + 1 :] = running[i, min(len(answer.slots), lengths - 1)]
        return running

    def _derive(self, name: str, completions: Sequence[Completion]) -> list[Any]:
        resource, derive = DERIVED[name]
        return derive(self.resources[resource], completions)

    def state_dict(self) -> dict[str, Any]:
        """State of each stateful reward, by reward name."""
        return {name: reward.state_dict() for name, reward in self._stateful().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            ValueError: the saved names are not those of this engine's stateful rewards.
        """
        stateful = self._stateful()
        if set(state) != set(stateful):
            raise ValueError(
                f"the saved state is of the rewards {sorted(state)}, but this run's stateful rewards are "
                f"{sorted(stateful)}: resume with the rewards that the checkpoint was made with"
            )
        for name, saved in state.items():
            stateful[name].load_state_dict(saved)

    def _stateful(self) -> dict[str, Any]:
        return {c.reward.name: c.function for c in self._calls if hasattr(c.function, "state_dict")}

    def _check_batch(
        self, n: int, prompts: Sequence[Any], columns: Mapping[str, Sequence[Any]], group_size: int
    ) -> None:
        if group_size < 1 or n % group_size:
            raise ValueError(f"group_size={group_size} must divide the {n} completions of the batch")
        for name, values in {"prompts": prompts, **columns}.items():
            if len(values) != n:
                raise ValueError(f"column {name!r} has {len(values)} entries for {n} completions")
        for call in self._calls:
            missing = {*call.columns} - {*BATCH, *columns}
            if missing:
                raise ValueError(
                    f"reward {call.reward.name!r} needs column {min(missing)!r}, which this batch lacks; "
                    f"it has: {', '.join(columns)}"
                )

    def _run(self, call: _Call, batch: _Batch) -> list[float]:
        started = time.perf_counter()
        scores: list[float] = []
        for rows in call.spans(batch):
            with _blame(call.reward, rows):
                returned = call.function(**call.arguments(batch, rows))
            scores += checked_scores(call.reward, returned, batch.columns["completions"], rows)
        self.seconds[call.reward.name] += time.perf_counter() - started
        return scores

    async def _run_async(self, call: _Call, batch: _Batch) -> list[float]:
        async def one(rows: range) -> list[float]:
            with _blame(call.reward, rows):
                returned = await call.function(**call.arguments(batch, rows))
            return checked_scores(call.reward, returned, batch.columns["completions"], rows)

        started = time.perf_counter()
        spans = await asyncio.gather(*(one(rows) for rows in call.spans(batch)))
        self.seconds[call.reward.name] += time.perf_counter() - started
        return [score for span in spans for score in span]


@dataclass(frozen=True)
class _Batch:
    """What the rewards of one call to ``score`` share."""

    n: int
    group_size: int
    columns: Mapping[str, Sequence[Any]]  # dataset columns, prompts, completions: [sample]
    derived: Mapping[str, Sequence[Any]]  # [sample]
    resources: Mapping[str, Any]


@dataclass(frozen=True)
class _Call:
    """A reward with its parameters bound: what to pass, and from where."""

    reward: Reward
    function: RewardFunction
    params: Mapping[str, Any]
    columns: tuple[str, ...]
    derived: tuple[str, ...]
    resources: tuple[str, ...]
    takes_everything: bool  # the function has **kwargs

    @property
    def is_async(self) -> bool:
        return _is_async(self.function)

    def spans(self, batch: _Batch) -> list[range]:
        """The rows of each call: every group by itself, or the batch at once."""
        size = batch.group_size if self.reward.per == "group" else max(batch.n, 1)
        return [range(start, start + size) for start in range(0, batch.n, size)]

    def arguments(self, batch: _Batch, rows: range) -> dict[str, Any]:
        columns = {**batch.columns} if self.takes_everything else {c: batch.columns[c] for c in self.columns}
        columns |= {name: batch.derived[name] for name in self.derived}
        arguments = {name: values[rows.start : rows.stop] for name, values in columns.items()}
        wanted = batch.resources if self.takes_everything else self.resources
        return {**arguments, **{name: batch.resources[name] for name in wanted}, **self.params}


def _is_async(function: RewardFunction) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _bind(
    spec: RewardSpec | str, columns: Collection[str], derived: Collection[str], resources: Collection[str]
) -> _Call:
    """Find a source for each parameter of the reward's function."""
    reward = resolve(spec)
    params = {} if isinstance(spec, str) else spec.params
    function = reward.function
    if isinstance(function, type):  # an instance of its own, so that two engines do not share a memory
        try:
            function, params = function(**params), {}
        except TypeError as error:
            raise RewardSpecError(f"reward {reward.name!r}: params {params} do not fit: {error}") from error
        if not callable(function):
            raise RewardSpecError(f"reward {reward.name!r}: class {type(function).__name__} needs a __call__")

    parameters = inspect.signature(function).parameters
    named = {p.name: p for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [name for name in params if name not in named]
    if unknown and not open_ended:
        raise RewardSpecError(
            f"reward {reward.name!r} has no parameter {unknown[0]!r} (set in its params); it has: "
            f"{', '.join(named)}"
        )
    columns = {*BATCH, *columns}
    for name, parameter in named.items():
        if name not in {*params, *columns, *derived, *resources} and parameter.default is parameter.empty:
            fix = "Rename the parameter, or set it in the params of its config entry"
            if name in DERIVED:
                fix = f"Pass the resource {DERIVED[name][0]!r}, which makes {name!r}"
            raise RewardSpecError(
                f"reward {reward.name!r} needs {name!r}, which nothing provides. Dataset columns: "
                f"{', '.join(sorted(columns))}; derived: {', '.join(derived) or 'none'}; resources: "
                f"{', '.join(sorted(resources)) or 'none'}. {fix}"
            )
    wanted = [name for name in named if name not in params]
    if reward.per == "tag_mean" and "slots" not in resources:
        raise RewardSpecError(f"reward {reward.name!r}: per='tag_mean' needs the resource 'slots'; pass it")
    if reward.per in PER_TAG and (
        "answers" not in wanted or not {"completions", "completion_ids"}.isdisjoint(wanted)
    ):
        raise RewardSpecError(
            f"reward {reward.name!r}: per={reward.per!r} needs a function that reads the parsed 'answers' "
            "and neither completions nor completion_ids, since it is called on the first tags of an answer; "
            f"it reads: {', '.join(wanted)}. Use per='sample'"
        )
    if reward.per in PER_TAG and _is_async(function):
        raise RewardSpecError(
            f"reward {reward.name!r}: per={reward.per!r} would call an async function once for each tag of "
            "an answer; make it a plain function, or use per='sample'"
        )
    return _Call(
        reward,
        function,
        params,
        columns=tuple(name for name in wanted if name in columns),
        derived=tuple(name for name in wanted if name in derived),
        resources=tuple(name for name in wanted if name in resources),
        takes_everything=open_ended,
    )


@contextmanager
def _blame(reward: Reward, rows: range) -> Iterator[None]:
    """Put the reward's name on an exception from its function, which stays as the cause."""
    try:
        yield
    except Exception as error:
        raise RewardError(
            f"reward {reward.name!r} raised {type(error).__name__} on samples {rows.start}..{rows.stop - 1}: "
            f"{error}. Fix the function; for a sample that it cannot score, let it return None"
        ) from error


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """One loop for all async rewards of the process, on its own thread.

    ``asyncio.run`` would not do: it fails inside a notebook's running loop, and a client that a reward keeps
    open between batches belongs to the loop that it was opened on.
    """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="recrl-rewards", daemon=True).start()
    return loop

"""One reward at work: its calls with their retries and cache, and what becomes of those that fail."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .base import RewardError, completion_text
from .binding import Batch, Call
from .cache import ScoreCache
from .calls import Awaited, Caller, OutOfTimeError, Threads, Turns, WorkerDiedError, Workers
from .scores import checked_scores

EXCERPT = 160  # characters of a completion shown in an error
WINDOW = 1000  # samples that max_missing is a share of
RETRY_WAIT = 0.5  # seconds before the first retry; twice as long before each further one


class Scorer:
    """One reward of an engine at work.

    Attributes:
        failed: Samples that could not be scored.
        failures: (samples, of them failed) of the last batches, which cover ``WINDOW`` samples.
    """

    def __init__(self, call: Call, resources: Mapping[str, Any], columns: list[str], turns: Turns) -> None:
        self.call = call
        self.caller = _caller(call, resources, columns, turns)
        self.cache = ScoreCache(call.reward.name) if call.spec.cache else None
        self.failed = 0
        self.failures: deque[Sequence[int]] = deque()

    @property
    def elsewhere(self) -> bool:
        return self.call.is_async or self.call.spec.workers > 0 or (self.call.spec.concurrency or 1) > 1

    async def score(self, batch: Batch, first: int = 0) -> np.ndarray:
        """``[samples]``, NaN = missing.

        Args:
            first: Row of the whole batch that this part of it begins with.
        """
        if self.cache is None:
            return await self._fresh(batch, range(batch.n), first)
        return await self._cached(self.cache, batch, first)

    async def _cached(self, cache: ScoreCache, batch: Batch, first: int) -> np.ndarray:
        size = batch.group_size if self.call.reward.per == "group" else 1
        entries = self.call.sources.entries(batch, range(batch.n))
        units = range(0, batch.n, size)
        keys = [cache.key({c: values[i : i + size] for c, values in entries.items()}) for i in units]
        known = {key: cache.get(key) for key in keys}
        new: dict[bytes, int] = {}
        for key, i in zip(keys, units, strict=True):
            if known[key] is None:
                new.setdefault(key, i)
        rows = [row for i in new.values() for row in range(i, i + size)]
        found = await self._fresh(batch, rows, first)
        fresh = {key: tuple(found[j * size : (j + 1) * size].tolist()) for j, key in enumerate(new)}
        for key, scores in fresh.items():
            if not np.isnan(scores).any():
                cache.put(key, scores)
        return np.array([score for key in keys for score in fresh.get(key) or known[key] or ()])

    async def _fresh(self, batch: Batch, rows: Sequence[int], first: int) -> np.ndarray:
        spans = self.call.spans(rows, batch.group_size)
        tasks = [asyncio.ensure_future(self._span(batch, span, first)) for span in spans]
        try:
            found = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        if self.call.spec.on_error == "missing":
            faults = [fault for _, of_span in found for fault in of_span]
            self._count(len(rows), faults)
        return np.concatenate([values for values, _ in found]) if found else np.empty(0)

    async def _span(
        self, batch: Batch, rows: Sequence[int], first: int
    ) -> tuple[np.ndarray, list[RewardError]]:
        """One call with its retries; the faults of samples without a value."""
        spec, fault = self.call.spec, None
        for attempt in range(1 + spec.retries):
            if attempt:
                await asyncio.sleep(RETRY_WAIT * 2 ** (attempt - 1))
            try:
                values, faults = await self._attempt(batch, rows, first)
            except RewardError as error:
                fault = error
                continue
            if faults and spec.on_error == "raise":
                raise faults[0]
            return values, faults
        assert fault is not None
        if spec.on_error == "raise":
            raise fault
        return np.full(len(rows), np.nan), [fault] * len(rows)

    async def _attempt(
        self, batch: Batch, rows: Sequence[int], first: int
    ) -> tuple[np.ndarray, list[RewardError]]:
        reward, spec = self.call.reward, self.call.spec
        where = f"samples {first + rows[0]}..{first + rows[-1]}"
        if spec.workers:
            arguments: dict[str, Any] = {**self.call.sources.entries(batch, rows)}
        else:
            arguments = self.call.arguments(batch, rows)
        try:
            returned = await self.caller.call(arguments, spec.timeout)
        except (OutOfTimeError, WorkerDiedError) as error:
            raise RewardError(
                f"reward {reward.name!r} on {where}: {error}. Make the function faster, or set its timeout, "
                "retries or on_error: missing"
            ) from None
        except Exception as error:
            raise RewardError(
                f"reward {reward.name!r} raised {type(error).__name__} on {where}: {error}. Fix the "
                "function; for a sample that it cannot score, let it return None"
            ) from error
        values, wrong = checked_scores(reward, returned, len(rows), where)
        faults = []
        for i, what in wrong.items():
            excerpt = completion_text(batch.columns["completions"][rows[i]])[:EXCERPT]
            faults.append(
                RewardError(
                    f"reward {reward.name!r}, sample {first + rows[i]}: {what}. Completion: {excerpt!r}"
                )
            )
        return values, faults

    def _count(self, samples: int, faults: Sequence[RewardError]) -> None:
        """Keep the rate of failures, and end the run where it is too high."""
        self.failed += len(faults)
        self.failures.append((samples, len(faults)))
        while sum(n for n, _ in self.failures) - self.failures[0][0] >= WINDOW:
            self.failures.popleft()
        seen, failed = (sum(column) for column in zip(*self.failures, strict=True))
        whole = max(seen, WINDOW)  # one batch may be larger
        if faults and failed > self.call.spec.max_missing * whole:
            raise RewardError(
                f"reward {self.call.reward.name!r} could not score {failed} of the last {seen} samples, more "
                f"than max_missing={self.call.spec.max_missing:g} of {whole}; the last: {faults[-1]}"
            ) from faults[-1].__cause__


def _caller(call: Call, resources: Mapping[str, Any], columns: list[str], turns: Turns) -> Caller:
    if call.is_async:
        return Awaited(call.function, call.spec.concurrency)
    if call.spec.workers:
        return Workers(call.spec, columns, [*resources], lambda: call.sources.portable(resources))
    own = call.spec.concurrency or 1
    return Threads(call.function, Turns(own) if own > 1 else turns)

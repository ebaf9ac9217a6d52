"""One reward at work: its calls with their retries and cache, and what becomes of those that fail."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..base import RewardError, completion_text
from .binding import Batch, Call
from .cache import ScoreCache
from .calls import Awaited, Caller, OutOfTimeError, Threads, Turns, WorkerDiedError, Workers
from .here import Desk, Here
from .scores import checked_scores

logger = logging.getLogger(__name__)

EXCERPT = 160  # characters of a completion shown in an error
WINDOW = 1000  # samples that max_missing is a share of
RETRY_WAIT = 0.5  # seconds before the first retry; twice as long before each further one
Faults = dict[int, RewardError]  # row of a batch -> why it could not be scored
Scores = tuple[np.ndarray, Faults]  # [rows], NaN = missing


class Scorer:
    """One reward of an engine at work.

    Attributes:
        failed: Samples that could not be scored.
        failures: (samples, of them failed) of the last batches, which cover ``WINDOW`` samples.
    """

    def __init__(
        self, call: Call, resources: Mapping[str, Any], columns: list[str], turns: Turns, desk: Desk
    ) -> None:
        self.call = call
        self.caller = _caller(call, resources, columns, turns, desk)
        self.cache = ScoreCache(call.reward.name) if call.spec.cache else None
        self.failed = 0
        self.failures: deque[Sequence[int]] = deque()
        self._noted = False

    @property
    def elsewhere(self) -> bool:
        spec = self.call.spec
        waits = self.call.is_async or spec.workers > 0 or (spec.concurrency or 1) > 1
        return waits and not self.call.in_order

    async def score(self, batch: Batch) -> Scores:
        """Scores ``[samples]``, NaN = missing; and why some samples could not be scored."""
        if self.cache is None:
            return await self._fresh(batch, range(batch.n))
        return await self._cached(self.cache, batch)

    async def _cached(self, cache: ScoreCache, batch: Batch) -> Scores:
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
        values, faulty = await self._fresh(batch, rows)
        for j, key in enumerate(new):
            scores = tuple(values[j * size : (j + 1) * size].tolist())
            # Another part of the batch may have asked for the same meanwhile: the first score counts.
            known[key] = cache.get(key) or scores
            if not np.isnan(scores).any():
                cache.put(key, known[key] or scores)
        faults = {
            i + j: faulty[new[key] + j]
            for key, i in zip(keys, units, strict=True)
            for j in range(size)
            if key in new and new[key] + j in faulty
        }
        return np.array([score for key in keys for score in known[key] or ()]), faults

    async def _fresh(self, batch: Batch, rows: Sequence[int]) -> Scores:
        spans = self.call.spans(rows, batch.group_size)
        tasks = [asyncio.ensure_future(self._span(batch, span)) for span in spans]
        try:
            found = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        faults = {row: fault for _, of_span in found for row, fault in of_span.items()}
        return np.concatenate([values for values, _ in found]) if found else np.empty(0), faults

    async def _span(self, batch: Batch, rows: Sequence[int]) -> Scores:
        """One call with its retries."""
        spec, fault = self.call.spec, None
        for attempt in range(1 + spec.retries):
            if attempt:
                await asyncio.sleep(RETRY_WAIT * 2 ** (attempt - 1))
            try:
                values, faults = await self._attempt(batch, rows)
            except RewardError as error:
                fault = error
                continue
            if faults and spec.on_error == "raise":
                raise next(iter(faults.values()))
            return values, faults
        assert fault is not None
        if spec.on_error == "raise":
            raise fault
        return np.full(len(rows), np.nan), dict.fromkeys(rows, fault)

    async def _attempt(self, batch: Batch, rows: Sequence[int]) -> Scores:
        reward, spec = self.call.reward, self.call.spec
        where = f"samples {batch.samples[rows[0]]}..{batch.samples[rows[-1]]}"
        if spec.workers:
            arguments: dict[str, Any] = {**self.call.sources.entries(batch, rows)}
        else:
            arguments = self.call.arguments(batch, rows)
        try:
            returned = await self.caller.call(arguments, spec.seconds)
        except (OutOfTimeError, WorkerDiedError) as error:
            raise RewardError(
                f"reward {reward.name!r} on {where}: {error}. Make the function faster, or set its timeout, "
                "retries or on_error: missing"
            ) from None
        except RewardError as error:  # says itself what is wrong
            raise RewardError(f"reward {reward.name!r} on {where}: {error}") from error
        except Exception as error:
            raise RewardError(
                f"reward {reward.name!r} raised {type(error).__name__} on {where}: {error}. Fix the "
                "function; for a sample that it cannot score, let it return None"
            ) from error
        try:
            values, wrong = checked_scores(reward, returned, len(rows), where)
        except RewardError:
            raise
        except Exception as error:  # a sparse tensor, say
            raise RewardError(
                f"reward {reward.name!r} returned a {type(returned).__name__} that cannot be read, "
                f"{type(error).__name__}: {error}. Return a list of numbers"
            ) from error
        faults = {}
        for i, what in wrong.items():
            sample, text = batch.samples[rows[i]], completion_text(batch.columns["completions"][rows[i]])
            faults[rows[i]] = RewardError(
                f"reward {reward.name!r}, sample {sample}: {what}. Completion: {text[:EXCERPT]!r}"
            )
        return values, faults

    def count(self, samples: int, faults: Sequence[RewardError]) -> None:
        """Keep the rate of failures among answers.

        Raises:
            RewardError: the rate is too high.
        """
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

    def note_beginnings(self, rows: int, faults: Sequence[RewardError]) -> None:
        """Say once that beginnings of answers could not be scored: their credit is estimated."""
        if not self._noted:
            self._noted = True
            logger.warning(
                "reward %r could not score %d of %d beginnings of answers, so the credit of their tags is "
                "less exact; the first: %s",
                self.call.reward.name,
                len(faults),
                rows,
                faults[0],
            )


def derived(rewards: Sequence[Scorer]) -> set[str]:
    """Derived columns that some rewards read."""
    return {name for one in rewards for name in one.call.sources.derived}


def _caller(call: Call, resources: Mapping[str, Any], columns: list[str], turns: Turns, desk: Desk) -> Caller:
    if call.is_async:
        return Awaited(call.function, 1 if call.in_order else call.spec.concurrency)
    if call.spec.workers:
        shared = partial(call.sources.portable, resources)
        names = [*resources, *call.sources.derived]
        return Workers(call.spec, columns, names, shared, call.digest)
    if call.in_thread:
        return Here(call.function, desk)
    own = call.spec.concurrency or 1
    return Threads(call.function, Turns(own) if own > 1 else turns)

"""Asking for rewards before a batch is whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from ..base import Completion
from .binding import Batch
from .calls import loop
from .scorer import Scorer, Scores, derived


class Early:
    """Groups of one batch, given to rewards as soon as they are there.

    Args:
        rewards: Rewards that wait for something outside the caller's thread.
        batch: Function that makes a part of the batch from prompts, completions, columns, group size, derived
            columns that are read, and the part's first row.
        group_size: Completions per prompt.
    """

    def __init__(self, rewards: Sequence[Scorer], batch: Callable[..., Batch], group_size: int) -> None:
        self._rewards, self._batch, self.group_size = rewards, batch, group_size
        self._given: dict[int, Sequence[Completion]] = {}
        self._parts: dict[int, list[Future[Scores]]] = {}

    def add(
        self,
        first: int,
        prompts: Sequence[Any],
        completions: Sequence[Completion],
        columns: Mapping[str, Sequence[Any]],
    ) -> None:
        """Give whole groups.

        Args:
            first: Row of the batch that the groups begin with.

        Raises:
            ValueError: the rows are not as announced.
        """
        batch = self._batch(prompts, completions, columns, self.group_size, derived(self._rewards), first)
        self._given[first] = completions
        self._parts[first] = [
            asyncio.run_coroutine_threadsafe(one.score(batch), loop()) for one in self._rewards
        ]

    def answers(self, completions: Sequence[Completion]) -> dict[str, list[Future[Scores]]]:
        """Scores by reward, in parts; none if these are not the completions that were given."""
        starts = sorted(self._given)
        given = [completion for first in starts for completion in self._given[first]]
        if given != list(completions):
            self.cancel()
            return {}
        parts = zip(*(self._parts[first] for first in starts), strict=True)
        return {one.call.reward.name: list(of) for one, of in zip(self._rewards, parts, strict=True)}

    def cancel(self) -> None:
        """Cancel all scores, which nobody will ask for."""
        for part in self._parts.values():
            for future in part:
                future.cancel()

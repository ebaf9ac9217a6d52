"""Scores one generation batch: named rewards in, a matrix ``scores[sample, reward]`` out.

Plain functions are called in turn in the thread that asks for scores, as TRL calls them. Others run beside
it: async functions on an event loop, and plain ones that ask for it in threads or processes of their own
(``timeout``, ``concurrency`` and ``workers`` of ``spec.py``). Each may change the lists that it is given. A
value that cannot be trusted (wrong length or type, NaN, out of the declared range), an exception, and a call
that takes too long are errors or, if the config says so, missing values that are counted; never a silent 0.
None means missing and is no error.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from ..base import PER_TAG, Completion, Reward, RewardError, RewardSpecError, completion_text
from ..registry import as_spec, resolve_all
from ..spec import RewardSpec
from .binding import BATCH, Batch, Call, Entries, bind, derived_by, own
from .calls import OutOfTimeError, Turns, loop
from .early import Early
from .here import Desk
from .preconditions import beyond_serving, check_call, check_serving, unsaved
from .scorer import Scorer, Scores, derived
from .scores import checked_scores

# This rank's list -> the lists of all ranks, joined in the order of the ranks.
GatherObject = Callable[[list[Any]], list[Any]]


class RewardEngine:
    """Calls the rewards on a batch, checks what they return, and measures the time that each takes.

    Checkpoint behaviour: a reward object with ``state_dict`` and ``load_state_dict`` (a memory of past
    answers, say) is saved under its name, and so are the latest failures of rewards with ``on_error:
    missing``; loading demands the same names. A reward object that has ``update`` too only reads its memory
    when it scores, and learns from each training batch by ``learn``, with the samples of all ranks: so every
    rank holds the same memory, whatever their number.

    Args:
        rewards: rewards, config entries, or ``use`` strings of rewards that declare their own range.
        resources: objects that rewards may name as a parameter. Kept as ``.resources``; the caller may
            exchange a value between batches (TRL's ``trainer_state``, for example).
        columns: the dataset columns that each batch will carry, ``completion_ids`` included where it will.
        derive: derived column -> what makes it of the completions' texts, once a batch; by default
            ``answers``, as the resource ``catalog`` parses them, where there is one.

    Raises:
        RewardSpecError: a reward cannot be found, two share a name, or a parameter has no source.
    """

    def __init__(
        self,
        rewards: Sequence[RewardSpec | Reward | str],
        *,
        resources: Mapping[str, Any],
        columns: Collection[str],
        derive: Mapping[str, Callable[[Sequence[str]], list[Any]]] | None = None,
    ) -> None:
        self.resources = dict(resources)
        self._derive = derived_by(resources) if derive is None else dict(derive)
        made = [*self._derive]
        provided = [*BATCH, *made, *resources]
        for name in columns:
            if name in provided:
                raise RewardSpecError(
                    f"dataset column {name!r} has the name of something that the engine provides "
                    f"({', '.join(provided)}): rename the column"
                )
        specs = [as_spec(reward) for reward in rewards]
        self.rewards: tuple[Reward, ...] = resolve_all(rewards)
        self.names: tuple[str, ...] = tuple(reward.name for reward in self.rewards)
        self.ranges: dict[str, tuple[float, float]] = {r.name: (r.low, r.high) for r in self.rewards}
        one_by_one, self._desk = Turns(1), Desk()
        calls = [
            bind(reward, spec, columns, resources, made)
            for reward, spec in zip(self.rewards, specs, strict=True)
            if spec.sum is None
        ]
        for call in calls:
            check_call(call, resources)
        self._scored = [Scorer(call, self.resources, [*columns], one_by_one, self._desk) for call in calls]
        self._sums = {
            reward: ([self.names.index(name) for name in spec.sum], list(spec.sum.values()))
            for reward, spec in zip(self.rewards, specs, strict=True)
            if spec.sum is not None
        }
        self._turns = one_by_one

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that calls of each reward took since construction; those in flight at once add up."""
        return {one.call.reward.name: one.caller.seconds for one in self._scored}

    @property
    def failed(self) -> dict[str, int]:
        """Samples that could not be scored since construction, by reward with ``on_error: missing``."""
        return {
            one.call.reward.name: one.failed for one in self._scored if one.call.spec.on_error == "missing"
        }

    @property
    def elsewhere(self) -> bool:
        """Whether a reward waits for something outside this thread, so that asking early saves time."""
        return any(one.elsewhere for one in self._scored)

    def early(self, group_size: int) -> Early:
        """Groups of a batch that can be scored before the others are there.

        Args:
            group_size: completions per prompt.
        """
        return Early([one for one in self._scored if one.elsewhere], self._batch, group_size)

    def score(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Completion],
        columns: Mapping[str, Sequence[Any]],
        group_size: int,
        early: Early | None = None,
        only: Collection[str] | None = None,
    ) -> np.ndarray:
        """Score one batch of N completions with each of the K rewards.

        Args:
            prompts: N prompts; the completions of one prompt stand in consecutive rows.
            completions: N strings or conversational message lists.
            columns: dataset columns, N entries each.
            group_size: completions per prompt; must divide N.
            early: groups of this batch that were given before.
            only: rewards that are asked, with those that they add up; all by default.

        Returns:
            scores[sample, reward], float32 ``[N, K]`` in the order of ``names``; NaN = missing, or not asked.

        Raises:
            RewardError: a reward failed, and its ``on_error`` is ``raise`` or its ``max_missing`` is reached.
            ValueError: the batch is not as announced: N % group_size, a column's length, a missing column.
        """
        sums = {r: parts for r, parts in self._sums.items() if only is None or r.name in only}
        added = {self.names[k] for parts, _ in sums.values() for k in parts}
        chosen = [one for one in self._scored if only is None or one.call.reward.name in {*only, *added}]
        batch = self._batch(prompts, completions, columns, group_size, derived(chosen))
        asked = early.answers(completions) if early is not None else {}
        try:
            found = self._scores(chosen, batch, asked)
        finally:
            if early is not None:  # a part may have failed while others are on their way
                early.cancel()
        scores = np.full((batch.n, len(self.names)), np.nan)
        for one, (column, faults) in zip(chosen, found, strict=True):
            scores[:, self.names.index(one.call.reward.name)] = column
            if one.call.spec.on_error == "missing":
                one.count(batch.n, faults)
        for reward, (parts, weights) in sums.items():
            total: list[float] = (scores[:, parts] @ np.array(weights)).tolist()
            summed = [None if np.isnan(value) else value for value in total]
            checked = checked_scores(reward, summed, batch.n, "samples")
            if checked.faults:
                row, wrong = next(iter(checked.faults.items()))
                raise RewardError(f"reward {reward.name!r}, sample {row}: {wrong}")
            scores[:, self.names.index(reward.name)] = checked.values
        return scores.astype(np.float32)

    def score_prefixes(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Completion],
        columns: Mapping[str, Sequence[Any]],
        lengths: int,
        only: Collection[str] | None = None,
    ) -> np.ndarray:
        """Scores of the first 0, 1, 2, ... tags of every answer by the rewards of ``PER_TAG``.

        Args:
            prompts: N prompts.
            completions: N completions.
            columns: dataset columns, N entries each.
            lengths: P, number of lengths to score: 0 .. P - 1 tags; past the end it is the whole answer.
            only: rewards that are asked; all by default.

        Returns:
            ``[N, P, K]`` float32; 0 for other rewards. A value that is missing is that of the beginning
            before, or else the mean of all: it stands for an expectation, which a 0 would be far from.
        """
        n, answers = len(completions), self._derived("answers", completions)
        running = np.zeros((n, lengths, len(self.names)), dtype=np.float32)
        # A length past the end is not scored again: it is the whole answer.
        rows = [
            (i, p) for i, answer in enumerate(answers) for p in range(min(lengths, len(answer.slots) + 1))
        ]
        samples, sizes = (np.array(column) for column in zip(*rows, strict=True))
        repeated = {**columns, "prompts": prompts, "completions": completions}
        batch = Batch(
            len(rows),
            1,
            samples.tolist(),
            columns={name: [values[i] for i in samples] for name, values in repeated.items()},
            derived={"answers": [answers[i].first(p) for i, p in rows]},
            resources=self.resources,
        )
        per_tag = [
            one
            for one in self._scored
            if one.call.reward.per in PER_TAG and (only is None or one.call.reward.name in only)
        ]
        for one, (values, faults) in zip(per_tag, self._scores(per_tag, batch, {}), strict=True):
            if faults:
                one.note_beginnings(len(rows), faults)
            k = self.names.index(one.call.reward.name)
            running[samples, sizes, k] = _filled(values, sizes)
            if one.call.reward.per == "tag_mean":
                # A mean over p tags is noisier than their share of the whole answer's, which is what counts.
                running[samples, sizes, k] *= np.minimum(1.0, sizes / self.resources["slots"])
        for i, answer in enumerate(answers):
            running[i, len(answer.slots) + 1 :] = running[i, min(len(answer.slots), lengths - 1)]
        return running

    def score_lines(
        self,
        prompts: Sequence[Any],
        columns: Mapping[str, Sequence[Any]],
        lines: Sequence[str],
        names: Collection[str],
    ) -> np.ndarray:
        """What each line adds to an answer to each prompt, by rewards of ``PER_TAG``.

        Args:
            prompts: N prompts.
            columns: dataset columns, N entries each.
            lines: texts of M answers of one line.
            names: rewards, each of ``PER_TAG``; by the mean over a list a line counts for 1 / ``slots``.

        Returns:
            ``[N, M, K]`` float32; 0 for other rewards, and where a value is missing.
        """
        chosen = [one for one in self._scored if one.call.reward.name in names]
        assert all(one.call.reward.per in PER_TAG for one in chosen), "a judgement of whole answers"
        n, answers = len(prompts), self._derived("answers", lines)
        read = {name for one in chosen for name in one.call.sources.columns}
        if any(one.call.sources.everything for one in chosen):
            read = {*columns, "prompts"}
        given = {"prompts": prompts, **columns}
        batch = Batch(
            n * len(lines),
            1,
            range(n * len(lines)),
            columns={
                **{name: [value for value in given[name] for _ in lines] for name in read if name in given},
                "completions": [*lines] * n,
            },
            derived={"answers": answers * n},
            resources=self.resources,
        )
        found = np.zeros((n, len(lines), len(self.names)), dtype=np.float32)
        for one, (values, _) in zip(chosen, self._scores(chosen, batch, {}), strict=True):
            k = self.names.index(one.call.reward.name)
            found[:, :, k] = np.nan_to_num(values.reshape(n, -1))
            if one.call.reward.per == "tag_mean":
                found[:, :, k] /= self.resources["slots"]
        return found

    def unheld(self, name: str, outcomes: Collection[str]) -> str | None:
        """Why a reward cannot be computed for an answer before its outcome is known; None if it can.

        Args:
            name: name of the reward.
            outcomes: columns that hold outcomes.
        """
        for reward, (parts, _) in self._sums.items():
            if reward.name == name:
                why = (self.unheld(self.names[k], outcomes) for k in parts)
                return next(filter(None, why), None)
        return beyond_serving(self.call(name), outcomes)

    def call(self, name: str) -> Call:
        """How a reward is called that adds up no others."""
        (found,) = [one.call for one in self._scored if one.call.reward.name == name]
        return found

    def check_serving(self, outcomes: Collection[str]) -> None:
        """Check the rewards that are declared ``serving``.

        Args:
            outcomes: columns that hold outcomes.

        Raises:
            RewardSpecError: one reads an outcome, compares several answers, or remembers.
        """
        for one in self._scored:
            check_serving(one.call, outcomes)

    def learn(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Completion],
        columns: Mapping[str, Sequence[Any]],
        gather: GatherObject = lambda entries: entries,
    ) -> None:
        """Show the stateful rewards a training batch, once, after it was scored.

        Args:
            prompts: prompts of this rank; completions and columns likewise.
            gather: brings the lists of all ranks together, in the order of the ranks.

        Raises:
            RewardError: a reward cannot learn it.
        """
        calls = [one.call for one in self._scored]
        updates = [(call.reward.name, *call.update) for call in calls if call.update is not None]
        if not updates:
            return
        read = {name for _, _, sources in updates for name in sources.derived}
        batch = self._batch(prompts, completions, columns, 1, read)
        for name, update, sources in updates:
            mine = sources.entries(batch, range(batch.n))
            everyone = gather([mine])
            together = {c: Entries(entry for rank in everyone for entry in rank[c]) for c in mine}
            try:
                update(**own(together), **sources.shared(self.resources))
            except Exception as error:
                raise RewardError(
                    f"reward {name!r}: its update raised {type(error).__name__}: {error}. Fix the method"
                ) from error

    def forgetful(self) -> list[str]:
        """Stateful rewards without ``update``: each rank's would remember its own samples only."""
        return [one.call.reward.name for one in self._scored if one.call.stateful and one.call.update is None]

    def state_dict(self) -> dict[str, Any]:
        """``rewards``: state of each stateful reward; ``failures``: those of rewards that may be missing.

        Raises:
            RewardError: a state holds what cannot be saved, see :mod:`recrl.envs.storage.states`.
        """
        memories = {name: target.state_dict() for name, target in self._stateful().items()}
        for name, memory in memories.items():
            if why := unsaved(name, memory):
                raise RewardError(why)
        return {
            "rewards": memories,
            "failures": {
                one.call.reward.name: list(one.failures)
                for one in self._scored
                if one.call.spec.on_error == "missing"
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            ValueError: the saved names are not those of this engine's stateful rewards.
        """
        stateful, saved = self._stateful(), state["rewards"]
        if set(saved) != set(stateful):
            raise ValueError(
                f"the saved state is of the rewards {sorted(saved)}, but this run's stateful rewards are "
                f"{sorted(stateful)}: resume with the rewards that the checkpoint was made with"
            )
        for name, memory in saved.items():
            stateful[name].load_state_dict(memory)
        for one in self._scored:
            one.failures = deque(state["failures"].get(one.call.reward.name, ()))

    def close(self) -> None:
        """End the threads and processes of the rewards; those that are garbage end by themselves."""
        for one in self._scored:
            loop().call_soon_threadsafe(one.caller.close)
        loop().call_soon_threadsafe(self._turns.close)

    def _scores(
        self, rewards: Sequence[Scorer], batch: Batch, asked: Mapping[str, list[Future[Scores]]]
    ) -> list[tuple[np.ndarray, list[RewardError]]]:
        found = asyncio.run_coroutine_threadsafe(_together(rewards, batch, asked), loop())
        try:
            longest = max((one.call.spec.seconds for one in self._scored), default=0.0)
            return self._desk.serve(found, longest)
        except OutOfTimeError as error:
            awaited = [one.call.reward.name for one in self._scored if one.call.is_async]
            raise RewardError(
                f"an async reward ({' or '.join(awaited) or 'of another engine'}) {error}. Let it await what "
                "it waits for, or make it a plain function"
            ) from None
        finally:  # after an error or Ctrl-C, do not leave calls running that nobody waits for
            found.cancel()

    def _stateful(self) -> dict[str, Any]:
        return {one.call.reward.name: one.call.target for one in self._scored if one.call.stateful}

    def _derived(self, name: str, completions: Sequence[Completion]) -> list[Any]:
        return self._derive[name]([completion_text(completion) for completion in completions])

    def _batch(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Completion],
        columns: Mapping[str, Sequence[Any]],
        group_size: int,
        read: Collection[str],
        first: int = 0,
    ) -> Batch:
        n = len(completions)
        if group_size < 1 or n % group_size:
            raise ValueError(f"group_size={group_size} must divide the {n} completions of the batch")
        for name, values in {"prompts": prompts, **columns}.items():
            if len(values) != n:
                raise ValueError(f"column {name!r} has {len(values)} entries for {n} completions")
        for one in self._scored:
            missing = {*one.call.sources.columns} - {*BATCH, *columns}
            if missing:
                raise ValueError(
                    f"reward {one.call.reward.name!r} needs column {min(missing)!r}, which this batch lacks; "
                    f"it has: {', '.join(columns)}"
                )
        return Batch(
            n,
            group_size,
            range(first, first + n),
            columns={**columns, "prompts": prompts, "completions": completions},
            derived={name: self._derived(name, completions) for name in read},
            resources=self.resources,
        )


async def _together(
    rewards: Sequence[Scorer],
    batch: Batch,
    asked: Mapping[str, list[Future[Scores]]],
) -> list[tuple[np.ndarray, list[RewardError]]]:
    """Scores and faults of each reward; after a fault of one the others' calls are not left running."""

    async def whole(one: Scorer) -> tuple[np.ndarray, list[RewardError]]:
        early = asked.get(one.call.reward.name)
        parts = (
            [await one.score(batch)]
            if early is None
            else await asyncio.gather(*map(asyncio.wrap_future, early))
        )
        values = np.concatenate([part for part, _ in parts])
        return values, [fault for _, faults in parts for fault in faults.values()]

    tasks = [asyncio.ensure_future(whole(one)) for one in rewards]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _filled(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Scores of beginnings without gaps.

    Args:
        values: ``[rows]``; the beginnings of an answer follow one another, from no tag on. NaN = missing.
        sizes: ``[rows]``, number of tags of each.
    """
    present = np.isfinite(values)
    if present.all():
        return values
    start = np.flatnonzero(sizes == 0)[np.cumsum(sizes == 0) - 1]
    last = np.maximum.accumulate(np.where(present, np.arange(len(values)), -1))
    mean = values[present].mean() if present.any() else 0.0
    return np.where(last >= start, values[last], mean)

"""Settings that give every split episodes, tried on the data before they are named."""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import episodes, shards
from .core import core
from .events import Events
from .settings import DataError, Protocol, Step

# Episodes that each split should have; fewer are advised where no setting gives as many.
_ENOUGH = 100
# Tags that there should be.
_TAGS = 10
# Longest time between purchases, in steps, that is advised.
_LONGEST = 100_000

Found = tuple[dict[str, Any], dict[str, episodes.Losses]]


def advise(load: Callable[[Protocol], Events], protocol: Protocol, folder: Path, size: int) -> str:
    """What to set, in words, such as ``Set data.protocol.active_within=30 for 213 training ... episodes``.

    Args:
        load: Events as a protocol counts time.
        folder: Existing folder for the purchases that are tried.
        size: Approximate number of purchases in memory at once.
    """
    best: Found | None = None
    # Another unit of time only where nothing else gives every split an episode.
    for step in dict.fromkeys([protocol.step, "day"]):
        for split in [protocol.split, *(["last"] if protocol.split in ("time", "ratio") else [])]:
            for found in _tried(load, protocol, step, split, folder, size):
                if best is None or _least(found) > _least(best):
                    best = found
                if _least(best) >= _ENOUGH:
                    return _said(best)
        if best is not None and _least(best):
            break
    if best is None or not _least(best):
        return (
            "No other data.protocol gives every split an episode: users are needed who bought something in "
            "three steps or more, one of them unseen; check the columns and the dates"
        )
    return _said(best)


def _tried(
    load: Callable[[Protocol], Events], protocol: Protocol, step: Step, split: str, folder: Path, size: int
) -> Iterator[Found]:
    """Changes of the protocol, and what becomes of the candidates then."""
    try:
        events = core(load(protocol.model_copy(update={"step": step, "split": split})), protocol.k_core)
    except DataError:
        return
    span = shards.span_of(events, protocol)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        known = shards.Vocabulary.of(events)
        ranges, _ = shards.scatter(events, known, protocol, Path(place), size)
        for changes in _changes(protocol, step, split, *span):
            try:
                changed = protocol.model_copy(update=changes).resolved(*span)
            except DataError:
                continue
            counts = [
                shards.count(part, protocol=changed, tags=len(known.names), span=span) for part in ranges
            ]
            for least in _least_users(np.sum([part.buyers for part in counts], axis=0), protocol):
                if least != protocol.min_tag_users:
                    changes = {**changes, "min_tag_users": least}
                    changed = changed.model_copy(update={"min_tag_users": least})
                chosen, _ = shards.settle(counts, changed)
                survey = partial(shards.survey, protocol=changed, chosen=chosen, span=span)
                yield changes, shards.together([survey(part) for part in ranges])


def _least_users(buyers: npt.NDArray[np.int64], protocol: Protocol) -> list[int]:
    """Least numbers of a tag's users to try: the one that is set, or lower ones if hardly a tag has it."""
    if (buyers >= protocol.min_tag_users).sum() > 1:
        return [protocol.min_tag_users]
    some = np.sort(buyers[buyers > 0])[-_TAGS:]
    return list(dict.fromkeys([int(some[0]), 1])) if len(some) > 1 else []


def _changes(protocol: Protocol, step: Step, split: str, first: int, last: int) -> Iterator[dict[str, Any]]:
    """Changes from few to many, the smallest ones first."""
    steps = last - first + 1
    wide = {"min_active_weeks": 1, "active_within": min(max(protocol.active_within, steps), _LONGEST)}
    window = max(1, min(protocol.window, (steps - 1) // 4))
    test = last - window + 1
    train = range(max(first + 1, test - 2 * window - 12), test - 2 * window + 1)
    unset = {"statistics_end": None}
    origins = {
        "window": window,
        "train_origins": tuple(train),
        "validation_origins": (test - window,),
        "test_origins": (test,),
        **unset,
    }
    changes: list[dict[str, Any]] = [{}, {"min_active_weeks": 1}, wide]
    if split != protocol.split:
        changes = [{"split": split, **unset, **wide}]
    elif split == "time":
        changes += [origins, {**origins, "min_active_weeks": 1}, {**origins, **wide}]
    for change in changes:
        whole = {**change, "step": step}
        yield {name: value for name, value in whole.items() if getattr(protocol, name) != value}


def _least(found: Found) -> int:
    """Episodes of the smallest split; none without a test episode of an unseen user."""
    losses = found[1]
    smallest = min(losses[split]["episodes"] for split in episodes.SPLITS)
    return smallest if losses["test"][episodes.UNSEEN] else 0


def _said(found: Found) -> str:
    changes, losses = found
    settings = " ".join(_setting(name, value) for name, value in changes.items())
    train, validation, test = (losses[split]["episodes"] for split in episodes.SPLITS)
    return (
        f"Set {settings} for {train:,} training, {validation:,} validation and {test:,} test episodes, "
        f"{losses['test'][episodes.UNSEEN]:,} of them of unseen users"
    )


def _setting(name: str, value: Any) -> str:
    if value is None:
        return f"data.protocol.{name}=null"
    if isinstance(value, tuple):  # in quotes, since a shell takes brackets for a pattern
        return f"'data.protocol.{name}=[{','.join(map(str, value))}]'"
    return f"data.protocol.{name}={value}"

"""Scores by the content that they were given for, so that the same input is scored once."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from ..base import RewardError

# Scores kept: about 20 MB.
ENTRIES = 200_000


class ScoreCache:
    """The last scores of one reward by what its function read.

    Checkpoint behaviour: not saved. A function of nothing but its input scores it again as before.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._scores: OrderedDict[bytes, tuple[float, ...]] = OrderedDict()

    def key(self, entries: Mapping[str, Sequence[Any]]) -> bytes:
        """Key of what a call would read: entries of columns, one a sample.

        Raises:
            RewardError: a column holds something whose content cannot be told.
        """
        content = {}
        for name in sorted(entries):
            try:
                content[name] = json.dumps(entries[name], sort_keys=True, default=_plain)
            except TypeError as error:
                raise RewardError(
                    f"reward {self._name!r}: cache: true cannot tell equal inputs, column {name!r}: {error}; "
                    "set cache: false"
                ) from error
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).digest()

    def get(self, key: bytes) -> tuple[float, ...] | None:
        found = self._scores.get(key)
        if found is not None:
            self._scores.move_to_end(key)
        return found

    def put(self, key: bytes, scores: tuple[float, ...]) -> None:
        self._scores[key] = scores
        if len(self._scores) > ENTRIES:
            self._scores.popitem(last=False)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # array or tensor
        return value.tolist()
    if is_dataclass(value):  # a parsed answer
        return {field.name: getattr(value, field.name) for field in fields(value)}
    raise TypeError(f"it holds {type(value).__name__}")

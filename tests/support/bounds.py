"""Every setting of a configuration, found through its classes, with values around what it admits."""

import math
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from recrl.envs.settings import Between, Place, Text
from recrl.launch.config.schema import RunConfig

# Read by a reward's own function, sent to a server, or passed on to TRL, as they are.
FREE = ("rewards.0.params", "judge.options", "train.trl")

ODD = (
    None, True, False, "", " ", "5", "x\0y", "x\ny", "x" * 5000, "\udcff", b"x", [], {}, [[]], {"a": 1},
    -1, 0, -0.0, 0.5, math.nan, math.inf, -math.inf, 2**63, 10**400, -(10**400), 1e-320, 1e308,
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One setting: its dotted place, and its type without ``None``, ``tuple`` and ``Annotated``."""

    place: str
    kind: Any
    metadata: tuple[Any, ...]

    @property
    def numbers(self) -> Between | None:
        return next((bounds for bounds in self.metadata if isinstance(bounds, Between)), None)

    @property
    def bounded(self) -> bool:
        """Whether its type says what it admits."""
        if self.kind in (int, float):
            return self.numbers is not None
        if self.kind in (str, Path):
            return any(isinstance(bounds, Text | Place) for bounds in self.metadata)
        return self.kind is bool or get_origin(self.kind) is Literal or self.place in FREE

    @property
    def ends(self) -> tuple[float, float, float, float]:
        """Of a number: just below its least value, that value, its largest one, and just above it."""
        bounds = self.numbers
        assert bounds is not None
        if self.kind is int:
            low, high = int(bounds.low), int(bounds.high)
            return low - 1, low, high, high + 1
        return (
            math.nextafter(bounds.low, -math.inf),
            bounds.low,
            bounds.high,
            math.nextafter(bounds.high, math.inf),
        )

    def around(self) -> list[Any]:
        """Values at, just inside and just outside of its bounds."""
        if self.numbers is None:
            words = get_args(self.kind) if get_origin(self.kind) is Literal else ()
            return [*words, *(word.upper() for word in words)]
        below, low, high, above = self.ends
        return [below, low, float(low), low + 0.5, str(low), high - 1, high, above, 2 * high]


def fields(model: type[BaseModel] = RunConfig, place: str = "") -> Iterator[Setting]:
    """All settings of a class and of the sections in it."""
    for name, field in model.model_fields.items():
        yield from _leaves(Annotated[field.annotation, *field.metadata, None], f"{place}{name}")


def _leaves(annotation: Any, place: str, metadata: tuple[Any, ...] = ()) -> Iterator[Setting]:
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        yield from _leaves(inner, place, (*metadata, *more))
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            if part is not type(None):
                yield from _leaves(part, place, metadata)
    elif get_origin(annotation) is tuple:
        for i, part in enumerate(part for part in get_args(annotation) if part is not ...):
            yield from _leaves(part, f"{place}.{i}")
    elif get_origin(annotation) is dict and place not in FREE:
        _, value = get_args(annotation)
        yield from _leaves(value, f"{place}.recall")
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from fields(annotation, f"{place}.")
    else:
        yield Setting(place, annotation, metadata)


def put(tree: dict[str, Any], place: str, value: Any) -> None:
    """Write a value into a tree of settings, in sections and lists that are made where they lack."""
    node: Any = tree
    *parents, last = parts = place.split(".")
    for parent, following in zip(parents, parts[1:], strict=True):
        if isinstance(node, list):
            while len(node) <= int(parent):
                node.append({})
            node = node[int(parent)]
        else:
            made: Any = [] if following.isdigit() else {}
            if not isinstance(node.get(parent), type(made)):
                node[parent] = made
            node = node[parent]
    if isinstance(node, list):
        node[int(last) : int(last) + 1] = [value]
    else:
        node[last] = value

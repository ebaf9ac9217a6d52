"""The event table that every data source returns: who bought which tag in which week."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from .settings import Step


@dataclass(frozen=True)
class Events:
    """Weekly purchases of a population.

    Attributes:
        purchases: Columns ``user: str``, ``week: int32``, ``tag: str``, in any order; rows may repeat. Weeks
            start on Monday. Not read yet: a source may be larger than memory. A source that brings splits has
            the column ``part: int8`` too, see :mod:`recrl.envs.data.given`.
        week_zero: The Monday on which week 0 begins; the day or the first of a month where these are counted.
        first_week: First week with complete data.
        last_week: Last week with complete data.
        profiles: user -> one line of profile text; users without one are absent.
        aliases: Other spelling -> tag.
        equivalents: Groups of tags that mean the same.
        report: Counts of what was read and what was dropped.
        reading: How the source was read, in words: its files, and what each column holds.
        step: Unit of ``week``, here and in all tables that are made of it.
    """

    purchases: pl.LazyFrame
    week_zero: dt.date
    first_week: int
    last_week: int
    profiles: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    equivalents: Sequence[Sequence[str]] = ()
    report: Mapping[str, int] = field(default_factory=dict)
    reading: Mapping[str, str] = field(default_factory=dict)
    step: Step = "week"

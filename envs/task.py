"""The tag task of one data source: catalogue, panel and episodes, built once and cached as Arrow."""

import datetime as dt
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import polars as pl
from pydantic import BaseModel

from . import shards
from .catalog import Catalog
from .data import completejourney, logs
from .data.events import Events
from .episodes import Protocol
from .panel import Panel
from .settings import Between, Place, Text

# Raise when the meaning of the cached tables changes.
_FORMAT = 2


class DataConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Where the episodes come from."""

    source: Annotated[str, Text(4000)] = "completejourney"
    """``completejourney``, or the path of a ``.parquet`` / ``.jsonl`` log."""
    track: Literal["category", "type"] = "category"
    """Granularity of the Complete Journey tags; logs bring their own."""
    columns: logs.LogColumns = logs.LogColumns()
    """Column names of a log."""
    bad_rows: Literal["error", "drop"] = "error"
    """What to do with unreadable rows of a log."""
    protocol: Protocol = Protocol()
    """Origins, windows, eligibility and splits."""
    at_once: Annotated[int, Between(10_000, 10**12)] = 2_000_000
    """Purchases that are in memory at once, about, while the tables are built; users are taken in ranges."""
    cache: Annotated[Path, Place()] = Path(".cache/recrl")
    """Folder of the cached tables, one subfolder a content hash."""


@dataclass(frozen=True)
class TagTask:
    """Everything the policy, the rewards and the baselines read.

    Attributes:
        catalog: The tags.
        panel: Weekly purchases in tag ids.
        protocol: With all origins filled in.
        table: One row an episode; see :func:`recrl.envs.episodes.build`.
        report: What was read and dropped, as counts.
        fingerprint: Content hash of source, protocol and format.
    """

    catalog: Catalog
    panel: Panel
    protocol: Protocol
    table: pl.DataFrame
    report: dict[str, int]
    fingerprint: str

    def split(self, name: str) -> pl.DataFrame:
        """Episodes of ``train``, ``validation`` or ``test``."""
        return self.table.filter(pl.col("split") == name)

    @cached_property
    def surges(self) -> dict[int, frozenset[int]]:
        """Test origin -> tags whose buyers per week in the window are at least 1.5 times the lookback's.

        Read only by the evaluation's calendar slice: it looks at the outcome, so no policy may see it.
        """
        found = {}
        for origin in self.protocol.test_origins:
            ahead = self._buyers_per_week(origin, origin + self.protocol.window)
            behind = self._buyers_per_week(origin - self.protocol.lookback, origin)
            found[origin] = frozenset(np.flatnonzero((ahead >= 1.5 * behind) & (ahead > 0)).tolist())
        return found

    def _buyers_per_week(self, first: int, end: int) -> np.ndarray:
        counts = self.panel.counts(first, end)
        return np.asarray(counts.sum(axis=0)).ravel() / (end - first)


def prepare(config: DataConfig, engine: shards.Engine = "polars") -> TagTask:
    """The task of a data source, from the cache when source, protocol and format are unchanged.

    Args:
        engine: What builds the tables otherwise; they are the same.

    Raises:
        DataError: the source cannot be used; the message names the column, the row or the setting.
    """
    is_panel = config.source == "completejourney"
    identity = {
        "format": _FORMAT,
        "source": (
            completejourney.fingerprint(config.track) if is_panel else logs.fingerprint(Path(config.source))
        ),
        "columns": None if is_panel else config.columns.model_dump(),
        "bad_rows": None if is_panel else config.bad_rows,
        "protocol": config.protocol.model_dump(),
        "at_once": config.at_once,
    }
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    folder = config.cache / "tasks" / fingerprint
    if not (folder / "meta.json").exists():
        events = (
            completejourney.load(config.track)
            if is_panel
            else logs.load(Path(config.source), config.columns, config.bad_rows)
        )
        build(events, config.protocol, fingerprint, folder, size=config.at_once, engine=engine)
    return restore(folder)


def build(
    events: Events,
    protocol: Protocol,
    fingerprint: str,
    folder: Path,
    *,
    size: int = 2_000_000,
    engine: shards.Engine = "polars",
) -> None:
    """Write the tables of an event table's task, see :mod:`recrl.envs.shards`.

    Args:
        size: Purchases in memory at once, about.

    Raises:
        DataError: the data do not fit the protocol.
    """
    protocol = protocol.resolved(events.first_week, events.last_week)
    # Written aside and renamed: a killed build leaves no half-written cache, and two builders do not collide.
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        tags, counted = shards.build(events, protocol, partial, size=size, run=shards.ENGINES[engine])
        known = set(tags)
        Catalog(
            tags,
            {alias: tag for alias, tag in events.aliases.items() if tag in known},
            [group for group in events.equivalents if all(tag in known for tag in group)],
        ).save(partial / "catalog.json")
        meta = {
            "protocol": protocol.model_dump(),
            "report": {**events.report, **counted},
            "week_zero": events.week_zero.isoformat(),
            "fingerprint": fingerprint,
        }
        (partial / "meta.json").write_text(json.dumps(meta, indent=1))
        try:
            partial.rename(folder)
        except OSError:
            if not (folder / "meta.json").exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def restore(folder: Path) -> TagTask:
    """The task whose tables are in a folder; pages of them are read when they are needed."""
    meta = json.loads((folder / "meta.json").read_text())
    users = shards.mapped(folder / "users.arrow")
    purchases = _table(folder / "purchases")
    catalog = Catalog.load(folder / "catalog.json")
    panel = Panel(
        users=tuple(users["name"].to_list()),
        unseen=users["unseen"].to_numpy(),
        n_tags=len(catalog),
        week_zero=dt.date.fromisoformat(meta["week_zero"]),
        user=purchases["user"].to_numpy(),
        week=purchases["week"].to_numpy(),
        tag=purchases["tag"].to_numpy(),
    )
    return TagTask(
        catalog=catalog,
        panel=panel,
        protocol=Protocol(**meta["protocol"]),
        table=_table(folder / "episodes"),
        report=meta["report"],
        fingerprint=meta["fingerprint"],
    )


def _table(folder: Path) -> pl.DataFrame:
    return pl.concat([shards.mapped(path) for path in sorted(folder.iterdir())], rechunk=False)

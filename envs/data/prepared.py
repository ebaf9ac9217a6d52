"""The tag task of one data source: catalogue, panel and episodes, built once and cached as Arrow.

Cached tables are a sealed folder (:mod:`recrl.envs.storage.sealed`). Each start looks for damage, and builds
damaged ones again: Arrow trusts its files, and a flipped bit may end the process or change a number.
"""

import datetime as dt
import fcntl
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ..catalog import Catalog
from ..storage import sealed
from ..text import display, normalise
from . import advice, completejourney, files, logs, remarks, shards
from .core import core
from .events import Events
from .panel import Panel
from .settings import DataConfig, DataError, Protocol, SplitError

logger = logging.getLogger(__name__)

# Raise when the meaning of the cached tables changes.
_FORMAT = 2

# Settings that the first tables did not know.
_LATER_COLUMNS = ("tag_separator", "split")
_LATER = (
    "step",
    "split",
    "test_share",
    "validation_share",
    "user_origins",
    "repeats",
    "k_core",
    "session_gap",
)

_PARTIAL = ".partial"

# Bytes of the tables that each start reads to find damage, the smallest files first: some 0.3 seconds.
_READ = 256 << 20


@dataclass(frozen=True)
class Data:
    """Everything the policy, the rewards and the baselines read.

    Attributes:
        catalog: The tags.
        panel: Weekly purchases in tag ids.
        profiles: ``[users]``, one line about each; empty where nothing is known.
        protocol: Protocol with all origins filled in.
        table: One row an episode; see :func:`recrl.envs.data.episodes.build`.
        report: Counts of what was read and dropped.
        fingerprint: Content hash of source, protocol and format.
        reading: How the source was read, in words.
        losses: Split -> what became of the users at its origins: reason -> number; see
            :func:`recrl.envs.data.episodes.screened`. Empty for tables of earlier versions.
        first: First week of the data.
    """

    catalog: Catalog
    panel: Panel
    profiles: pl.Series
    protocol: Protocol
    table: pl.DataFrame
    report: dict[str, int]
    fingerprint: str
    reading: Mapping[str, str] = field(default_factory=dict)
    losses: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    first: int | None = None

    @property
    def remarks(self) -> list[str]:
        """What to know before trusting a figure: few episodes, a look-back that is cut, other seasons."""
        return remarks.of(self.losses, self.protocol, self.panel, self.first)

    def split(self, name: str) -> pl.DataFrame:
        """Episodes of ``train``, ``validation`` or ``test``."""
        return self.table.filter(pl.col("split") == name)

    @cached_property
    def surges(self) -> dict[int, frozenset[int]]:
        """Test origin -> tags whose buyers per week in the window are at least 1.5 times the lookback's.

        Read only by the evaluation's calendar slice: it looks at the outcome, so no policy may see it.
        """
        found = {}
        for origin in self.split("test")["origin"].unique().sort():
            ahead = self._buyers_per_week(origin, origin + self.protocol.window)
            behind = self._buyers_per_week(origin - self.protocol.lookback, origin)
            found[origin] = frozenset(np.flatnonzero((ahead >= 1.5 * behind) & (ahead > 0)).tolist())
        return found

    def _buyers_per_week(self, first: int, end: int) -> np.ndarray:
        counts = self.panel.counts(first, end)
        return np.asarray(counts.sum(axis=0)).ravel() / (end - first)


def prepare(config: DataConfig, engine: shards.Engine = "polars", *, wholly: bool = False) -> Data:
    """The task of a data source, from the cache when source, protocol and format are unchanged.

    Args:
        engine: Engine that builds the tables otherwise; each builds the same ones.
        wholly: Read every byte of cached tables to find damage, however large they are.

    Raises:
        DataError: the source or the cache cannot be used; the message names column, row or setting.
    """
    identity = fingerprint(config)
    folder = config.cache / "tasks" / identity
    read = None if wholly else _READ
    try:
        with _held(folder, fcntl.LOCK_SH):
            if fault(folder, read) is None:
                return restore(folder)
        with _held(folder, fcntl.LOCK_EX):
            why = fault(folder, read)  # another process may have built them
            if why is not None:
                _make(config, identity, folder, engine, why)
            return restore(folder)
    except (OSError, pl.exceptions.PolarsError) as error:
        said = " ".join(str(error).split())
        places = f"data.source={config.source}, data.cache={config.cache}"
        raise DataError(f"{places}: {said}; mend that, or name another place") from error


def fingerprint(config: DataConfig) -> str:
    """Hash of the source's content, of how it is read, and of the protocol.

    Raises:
        DataError: the source cannot be read.
    """
    is_panel = config.source == "completejourney"
    identity = {
        "format": _FORMAT,
        "source": (
            completejourney.fingerprint(config.track)
            if is_panel
            else files.fingerprint(config.source, named=config.protocol.split == "given")
        ),
        "columns": None if is_panel else _columns(config),
        "bad_rows": None if is_panel else config.bad_rows,
        "protocol": _protocol(config.protocol),
        "at_once": config.at_once,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _columns(config: DataConfig) -> dict[str, Any]:
    """Names of the columns as they identify tables: settings that came later count where they are given."""
    named = config.columns.model_dump(mode="json")
    kept = {name: value for name, value in named.items() if name not in _LATER_COLUMNS or value is not None}
    # Earlier versions took floats for text, so that several users were one.
    return {**kept, "ids": "whole"} if logs.float_ids(config.source, config.columns) else kept


def _protocol(protocol: Protocol) -> dict[str, Any]:
    """A protocol as it identifies tables, alike."""
    given, unset = protocol.model_dump(), Protocol()
    return {
        name: value for name, value in given.items() if name not in _LATER or value != getattr(unset, name)
    }


def _make(config: DataConfig, fingerprint: str, folder: Path, engine: shards.Engine, why: str) -> None:
    """Build tables that are not there, or not whole. Nobody else builds them now."""
    if os.path.lexists(folder):
        logger.warning("%s is built again: %s", folder, why)
    for left in folder.parent.glob(f"{folder.name}.*{_PARTIAL}"):  # left by killed builders
        shutil.rmtree(left, ignore_errors=True)
    protocol = config.protocol
    try:
        events = _events(config, protocol)
        build(events, protocol, fingerprint, folder, size=config.at_once, engine=engine)
    except SplitError as error:
        folder.parent.mkdir(parents=True, exist_ok=True)
        told = advice.advise(partial(_events, config), protocol, folder.parent, config.at_once)
        raise DataError(f"{error}. {told}") from error


def _events(config: DataConfig, protocol: Protocol) -> Events:
    """Events of the source as a protocol counts time."""
    if config.source == "completejourney":
        if protocol.step != "week":
            raise DataError(
                f"data.protocol.step={protocol.step}: the Complete Journey panel tells weeks; set it to week"
            )
        if protocol.split == "given":
            raise DataError("data.protocol.split=given: the Complete Journey panel brings no splits")
        return completejourney.load(config.track)
    return logs.load(
        config.source,
        config.columns,
        config.bad_rows,
        max_users=config.max_users,
        max_tags=config.max_tags,
        step=protocol.step,
        whole=protocol.split == "time",
        given=protocol.split == "given",
    )


def build(
    events: Events,
    protocol: Protocol,
    fingerprint: str,
    folder: Path,
    *,
    size: int = 2_000_000,
    engine: shards.Engine = "polars",
) -> None:
    """Write the tables of an event table's task, see :mod:`recrl.envs.data.shards`.

    Args:
        folder: Folder of the tables; replaced.
        size: Approximate number of purchases in memory at once.

    Raises:
        DataError: the data do not fit the protocol.
    """
    events = core(events, protocol.k_core)
    protocol = protocol.resolved(*shards.span_of(events, protocol))
    # Process ids repeat: in a container each builder is number 1.
    partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:12]}{_PARTIAL}")
    partial.mkdir(parents=True)
    try:
        tags, counted, losses = shards.build(events, protocol, partial, size=size, run=shards.ENGINES[engine])
        _catalog(events, tags).save(partial / "catalog.json")
        meta = {
            "protocol": protocol.model_dump(),
            "report": {**events.report, **counted},
            "reading": dict(events.reading),
            "losses": losses,
            "first_week": events.first_week,
            "week_zero": events.week_zero.isoformat(),
            "fingerprint": fingerprint,
        }
        if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
            folder.unlink()
        sealed.publish(partial, folder, meta, sealed.seal(partial, sealed.files(partial)))
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _catalog(events: Events, tags: list[str]) -> Catalog:
    """Tags with the aliases and equivalents of the source, which spells them its own way."""
    named = {normalise(tag): tag for tag in tags}

    def name(spelling: str) -> str | None:
        return named.get(normalise(display(spelling)))

    aliases = {alias: tag for alias, spelling in events.aliases.items() if (tag := name(spelling))}
    groups = [[name(spelling) for spelling in group] for group in events.equivalents]
    return Catalog(tags, aliases, [[tag for tag in group if tag] for group in groups if all(group)])


def fault(folder: Path, read: int | None = None) -> str | None:
    """Why the tables in a folder cannot be used; None if they can.

    Args:
        read: Bytes to read at most, the smallest files first; of others, only names and sizes. None: all.
    """
    found = sealed.fault(folder, deep=read is None)
    if found is None and read is not None:
        left = read
        for name, (size, crc) in sorted(sealed.read(folder)["files"].items(), key=lambda item: item[1]):
            left -= size
            if left < 0:
                break
            if sealed.fingerprint(folder / name) != (size, crc):
                return f"{name} does not hold what was written"
    return found


@contextmanager
def _held(folder: Path, how: int) -> Iterator[None]:
    """Hold the lock of a task's tables, where its file system has locks; the file stays."""
    path = folder.with_name(f"{folder.name}.lock")
    descriptor = None
    # Or no lock: a cache that may only be read needs none, and one that may not be written says so itself.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        if descriptor is not None:
            with suppress(OSError):
                _lock(descriptor, how, folder)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(descriptor: int, how: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.warning("waiting for another process, which builds or reads %s", folder)
        fcntl.flock(descriptor, how)


def restore(folder: Path) -> Data:
    """The task whose tables are in a folder; pages of them are read when they are needed."""
    meta = sealed.read(folder)
    users = shards.mapped(folder / "users.arrow")
    purchases, episodes = (_table(folder, name, meta["files"]) for name in ("purchases", "episodes"))
    catalog = Catalog.load(folder / "catalog.json")
    protocol = Protocol(**meta["protocol"])
    of_users = protocol.split != "time"
    panel = Panel(
        users=tuple(users["name"].to_list()),
        unseen=users["unseen"].to_numpy(),
        n_tags=len(catalog),
        week_zero=dt.date.fromisoformat(meta["week_zero"]),
        user=purchases["user"].to_numpy(),
        week=purchases["week"].to_numpy(),
        tag=purchases["tag"].to_numpy(),
        step=protocol.step,
        recent=protocol.recent,
        until=_table(folder, "until", meta["files"])["until"].to_numpy() if of_users else None,
    )
    return Data(
        catalog=catalog,
        panel=panel,
        profiles=users["profile"],
        protocol=protocol,
        table=episodes,
        report=meta["report"],
        fingerprint=meta["fingerprint"],
        reading=meta.get("reading", {}),
        losses=meta.get("losses", {}),
        first=meta.get("first_week"),
    )


def _table(folder: Path, name: str, files: Iterable[str]) -> pl.DataFrame:
    parts = sorted(file for file in files if file.startswith(f"{name}/"))
    return pl.concat([shards.mapped(folder / part) for part in parts], rechunk=False)

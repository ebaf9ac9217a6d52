"""The tables of a task, built range of users by range of users.

Memory grows with the number of users and with the purchases of one range, not with those of all: a log of any
size can be read.

``scatter``  the purchases of each range into a folder of its own, one stream over the source
``count``    buyers of each tag in a range, in all and before each origin
``settle``   tags of all ranges, and how popular they were
``write``    purchases and episodes of a range, as Arrow files

``count`` and ``write`` know one range each, so any engine may run them in any order: ``in_order`` here,
``on_ray`` on the machines of a Ray cluster. The files are the same.
"""

import datetime as dt
import pickle
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar
from typing import Protocol as Interface

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ..text import display, normalise
from . import episodes
from .episodes import SPLITS, is_unseen
from .events import Events
from .panel import POPULARITY_WEEKS
from .settings import DataError, Protocol

Engine = Literal["polars", "ray"]

# Approximate number of purchases of a range; each takes some 100 bytes while the range is worked on.
RANGE = 2_000_000

_SCATTERED, _MERGED = "scattered", "merged"

Result = TypeVar("Result")


class Run(Interface):
    """Calls a function on every range, in any order and anywhere; results are in the ranges' order."""

    def __call__(self, function: Callable[["Range"], Result], ranges: Sequence["Range"]) -> list[Result]: ...


@dataclass(frozen=True)
class Range:
    """Some users, and the place of their tables.

    Attributes:
        folder: Folder of the whole task.
        number: Number of the range, from 0.
        first, end: Indices of its users, half open.
    """

    folder: Path
    number: int
    first: int
    end: int

    @property
    def users(self) -> pl.DataFrame:
        """``user`` (index), ``name``, ``unseen``, ``profile``."""
        return mapped(self.folder / "users.arrow").slice(self.first, self.end - self.first)

    def path(self, table: str) -> Path:
        """File of one of the tables; the files of all ranges sort like their users."""
        folder = self.folder / table
        folder.mkdir(exist_ok=True)
        return folder / f"{self.number:05d}.arrow"


@dataclass(frozen=True)
class Counts:
    """Counts of a range.

    Attributes:
        purchases: Number of distinct (user, week, tag).
        buyers: ``[tags]``: training users who bought each tag before ``statistics_end``.
        recent: ``[origins, tags]``: training users who bought each tag in the weeks before each origin.
    """

    purchases: int
    buyers: npt.NDArray[np.int64]
    recent: npt.NDArray[np.float32]


def build(
    events: Events, protocol: Protocol, folder: Path, *, size: int = RANGE, run: Run | None = None
) -> tuple[list[str], dict[str, int]]:
    """Write ``users.arrow``, ``purchases/*.arrow`` and ``episodes/*.arrow``.

    Args:
        protocol: Resolved protocol.
        folder: Existing, empty folder.
        size: Approximate number of purchases of a range.
        run: Function that handles the ranges; :func:`in_order` by default.

    Returns:
        The tags, and counts for the task's report.

    Raises:
        DataError: hardly any tag, or a split without episodes.
    """
    run = run or in_order
    known = Vocabulary.of(events)
    ranges, rows = scatter(events, known, protocol, folder, size)
    counts = run(partial(count, protocol=protocol, tags=len(known.names)), ranges)
    chosen, popularity = settle(counts, protocol)
    written = run(
        partial(write, protocol=protocol, chosen=chosen, popularity=popularity, week_zero=events.week_zero),
        ranges,
    )
    for left in (_SCATTERED, _MERGED):
        shutil.rmtree(folder / left)
    of_splits = {split: sum(part[split] for part in written) for split in SPLITS}
    episodes.check_origins(of_splits, protocol)
    users = mapped(folder / "users.arrow")
    unseen_tests = sum(part["unseen"] for part in written)
    if not unseen_tests:
        raise DataError(
            f"the test split has no unseen user: protocol.unseen_share={protocol.unseen_share} of "
            f"{users.height} users is too few; raise it"
        )
    report = {
        "repeated purchases of a tag in a week (merged)": rows - sum(part.purchases for part in counts),
        "users": users.height,
        "unseen users": int(users["unseen"].sum()),
        "tags spelled in more than one way (merged)": known.merged,
        "tags below protocol.min_tag_users (dropped)": len(known.names) - len(chosen),
        "tags": len(chosen),
        **{f"{split} episodes": of_splits[split] for split in SPLITS},
        "test episodes of unseen users": unseen_tests,
    }
    return [known.names[i] for i in chosen], report


@dataclass(frozen=True)
class Vocabulary:
    """All tags of a source, the rare ones included.

    Attributes:
        names: Names as they may stand in a prompt, in alphabetical order.
        places: ``tag`` (as the source spells it), ``place`` (in ``names``).
        merged: Number of names that the source spells in more than one way.
    """

    names: list[str]
    places: pl.DataFrame
    merged: int

    @classmethod
    def of(cls, events: Events) -> "Vocabulary":
        """Spellings that the parser of answers cannot tell apart are one tag, shown as most rows spell it."""
        counted = events.purchases.group_by("tag").len().collect(engine="streaming")
        spellings: dict[str, list[str]] = {}  # what the parser reads -> as the source spells it
        for tag in counted.sort(["len", "tag"], descending=[True, False])["tag"]:
            if key := normalise(display(tag)):
                spellings.setdefault(key, []).append(tag)
        by_name = {display(found[0]): found for found in spellings.values()}
        names = sorted(by_name)
        places = [(tag, place) for place, name in enumerate(names) for tag in by_name[name]]
        return cls(
            names,
            pl.DataFrame(places, schema={"tag": pl.String, "place": pl.Int32}, orient="row"),
            merged=sum(len(found) > 1 for found in by_name.values()),
        )


def scatter(
    events: Events, known: Vocabulary, protocol: Protocol, folder: Path, size: int
) -> tuple[list[Range], int]:
    """Write ``users.arrow`` and the purchases of each range, tags by their place in the vocabulary.

    Returns:
        The ranges, and the number of purchases.
    """
    counted = events.purchases.group_by("user").len().collect(engine="streaming").sort("user")
    names, rows = counted["user"], int(counted["len"].sum())
    pl.DataFrame(
        {
            "user": np.arange(len(names), dtype=np.int32),
            "name": names,
            "unseen": [is_unseen(name, protocol.unseen_share) for name in names],
            "profile": pl.Series([events.profiles.get(name, "") for name in names], dtype=pl.String),
        }
    ).write_ipc(folder / "users.arrow")
    # A range ends with the user whose purchases fill it.
    number = ((counted["len"].cum_sum() - counted["len"]) // size).rle_id().cast(pl.Int32)
    ends = np.append(np.flatnonzero(np.diff(number.to_numpy())) + 1, len(names))
    firsts = np.append(0, ends[:-1])
    ranges = [Range(folder, i, int(a), int(b)) for i, (a, b) in enumerate(zip(firsts, ends, strict=True))]
    users = pl.LazyFrame({"user": names, "index": np.arange(len(names), dtype=np.int32), "range": number})
    (
        events.purchases.join(users, on="user")
        .join(known.places.lazy(), on="tag")
        .select("range", user="index", week=pl.col("week").cast(pl.Int32), tag="place")
        .sink_parquet(
            pl.PartitionBy(folder / _SCATTERED, key="range", include_key=False),
            mkdir=True,
            maintain_order=False,
            engine="streaming",
        )
    )
    return ranges, rows


def count(part: Range, *, protocol: Protocol, tags: int) -> Counts:
    """Merge what was bought twice in a week, and count buyers.

    Args:
        tags: Number of tags, the rare ones included.
    """
    found = (
        pl.scan_parquet(part.folder / _SCATTERED / f"range={part.number}" / "*.parquet")
        .unique()
        .sort("user", "week", "tag")
        .collect()
    )
    found.write_ipc(part.path(_MERGED))
    training = part.users.filter(~pl.col("unseen")).select("user")
    theirs = found.join(training, on="user", how="semi").lazy()
    assert protocol.statistics_end is not None, "resolved"
    recent = [_buyers(theirs, origin - POPULARITY_WEEKS, origin, tags) for origin in _origins(protocol)]
    return Counts(
        purchases=found.height,
        buyers=_buyers(theirs, 0, protocol.statistics_end, tags),
        recent=np.array(recent, dtype=np.float32),
    )


def settle(
    counts: Sequence[Counts], protocol: Protocol
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Vocabulary and popularity, from all ranges.

    Returns:
        Places of the tags in the vocabulary, in alphabetical order, and popularity ``[origins, tags]``.

    Raises:
        DataError: less than two tags were bought by enough training users.
    """
    buyers = np.sum([part.buyers for part in counts], axis=0)
    chosen = np.flatnonzero(buyers >= protocol.min_tag_users).astype(np.int32)
    if len(chosen) < 2:
        raise DataError(
            f"only {len(chosen)} tags were bought by protocol.min_tag_users={protocol.min_tag_users} "
            f"training users before week {protocol.statistics_end}; lower protocol.min_tag_users"
        )
    return chosen, np.sum([part.recent for part in counts], axis=0)[:, chosen]


def write(
    part: Range,
    *,
    protocol: Protocol,
    chosen: npt.NDArray[np.int32],
    popularity: npt.NDArray[np.float32],
    week_zero: dt.date,
) -> dict[str, int]:
    """Write a range's purchases and episodes in tag ids.

    Returns:
        Number of episodes of each split, and ``unseen``: test episodes of unseen users.
    """
    ids = pl.DataFrame({"tag": chosen, "id": np.arange(len(chosen), dtype=np.int32)})
    triples = (
        mapped(part.path(_MERGED)).join(ids, on="tag", maintain_order="left").select("user", "week", tag="id")
    )
    triples.write_ipc(part.path("purchases"))
    of_origins = dict(zip(_origins(protocol), popularity, strict=True))
    users = part.users.select("user", "unseen", "profile")
    table = episodes.build(triples, users, of_origins, protocol, week_zero)
    # Texts are laid out one behind the other, in a way that does not depend on how threads met.
    table.write_ipc(part.path("episodes"), compat_level=pl.CompatLevel.oldest())
    found = {split: int((table["split"] == split).sum()) for split in SPLITS}
    found["unseen"] = table.filter((pl.col("split") == "test") & pl.col("unseen")).height
    return found


def in_order(function: Callable[[Range], Result], ranges: Sequence[Range]) -> list[Result]:
    """Results of one range after the other; within one, Polars uses all cores."""
    return [function(part) for part in ranges]


def on_ray(function: Callable[[Range], Result], ranges: Sequence[Range]) -> list[Result]:
    """Results of ranges side by side on a Ray cluster, or on this machine's cores if none runs.

    The task's folder must be one that all its machines see.

    Raises:
        ModuleNotFoundError: Ray is not installed.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--engine ray needs Ray; install the extra: pip install 'recrl[ray]'"
        ) from error
    data = ray.data.from_items([{"number": i} for i in range(len(ranges))], override_num_blocks=len(ranges))

    def call(row: dict[str, Any]) -> dict[str, Any]:
        return {"number": row["number"], "result": pickle.dumps(function(ranges[row["number"]]))}

    by_number = {row["number"]: pickle.loads(row["result"]) for row in data.map(call).take_all()}
    return [by_number[i] for i in range(len(ranges))]


ENGINES: dict[Engine, Run] = {"polars": in_order, "ray": on_ray}


def mapped(path: Path) -> pl.DataFrame:
    """An Arrow file whose pages are read when they are needed."""
    table = pl.from_arrow(pa.ipc.open_file(pa.memory_map(str(path))).read_all(), rechunk=False)
    assert isinstance(table, pl.DataFrame)
    return table


def _origins(protocol: Protocol) -> list[int]:
    return sorted({origin for split in SPLITS for origin in protocol.origins(split)})


def _buyers(purchases: pl.LazyFrame, first: int, end: int, tags: int) -> npt.NDArray[np.int64]:
    """``[tags]``: users with a purchase in weeks ``[first, end)``."""
    counted = (
        purchases.filter(pl.col("week").is_between(first, end, closed="left"))
        .select("user", "tag")
        .unique()
        .group_by("tag")
        .len()
        .collect()
    )
    found = np.zeros(tags, dtype=np.int64)
    found[counted["tag"].to_numpy()] = counted["len"].to_numpy()
    return found

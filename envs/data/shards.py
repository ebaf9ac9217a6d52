"""The tables of a task, built range of users by range of users.

Memory grows with the number of users and with the purchases of one range, not with those of all: a log of any
size can be read.

``scatter``  the purchases of each range into a folder of its own, one stream over the source
``count``    buyers of each tag in a range, in all and before each origin
``settle``   tags of all ranges, and how popular they were
``write``    purchases and episodes of a range, as Arrow files
``survey``   number of episodes of a range, without them

``count``, ``write`` and ``survey`` know one range each, so any engine may run them in any order: ``in_order``
here, ``on_ray`` on the machines of a Ray cluster. The files are the same.
"""

import datetime as dt
import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
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
from . import buyers, episodes, given, own_origins, sessions
from .episodes import SPLITS, Losses, is_unseen
from .events import Events
from .settings import Protocol, SplitError

Engine = Literal["polars", "ray"]

# Approximate number of purchases of a range; each takes some 100 bytes while the range is worked on.
RANGE = 2_000_000

_SCATTERED, _MERGED = "scattered", "merged"

Ranged = TypeVar("Ranged")
Result = TypeVar("Result")


class Run(Interface):
    """Calls a function on every range, of users or of anything else, in any order and anywhere; results are
    in the ranges' order."""

    def __call__(self, function: Callable[[Ranged], Result], ranges: Sequence[Ranged]) -> list[Result]: ...


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
        leaks: Leakage across splits that the data bring.
    """

    purchases: int
    buyers: npt.NDArray[np.int64]
    recent: npt.NDArray[np.float32]
    leaks: Mapping[str, int]


def build(
    events: Events, protocol: Protocol, folder: Path, *, size: int = RANGE, run: Run | None = None
) -> tuple[list[str], dict[str, int], dict[str, Losses]]:
    """Write ``users.arrow``, ``purchases/*.arrow`` and ``episodes/*.arrow``.

    Args:
        protocol: Resolved protocol.
        folder: Existing, empty folder.
        size: Approximate number of purchases of a range.
        run: Function that handles the ranges; :func:`in_order` by default.

    Returns:
        The tags, counts for the task's report, and what became of the candidates of each split.

    Raises:
        SplitError: hardly any tag, or a split without episodes.
    """
    run = run or in_order
    known = Vocabulary.of(events)
    span = span_of(events, protocol)
    ranges, rows = scatter(events, known, protocol, folder, size)
    counts = run(partial(count, protocol=protocol, tags=len(known.names), span=span), ranges)
    chosen, popularity = settle(counts, protocol)
    written = run(
        partial(
            write,
            protocol=protocol,
            chosen=chosen,
            popularity=popularity,
            week_zero=events.week_zero,
            span=span,
        ),
        ranges,
    )
    for left in (_SCATTERED, _MERGED):
        shutil.rmtree(folder / left)
    losses = together(written)
    episodes.check(losses, protocol)
    users = mapped(folder / "users.arrow")
    report = {
        f"repeated purchases of a tag in a {protocol.step} (merged)": rows
        - sum(part.purchases for part in counts),
        **{name: sum(part.leaks[name] for part in counts) for name in counts[0].leaks},
        "users": users.height,
        "unseen users": int(users["unseen"].sum()),
        "tags spelled in more than one way (merged)": known.merged,
        "tags below data.protocol.min_tag_users (dropped)": len(known.names) - len(chosen),
        "tags": len(chosen),
        **{f"{split} episodes": losses[split]["episodes"] for split in SPLITS},
        "test episodes of unseen users": losses["test"][episodes.UNSEEN],
    }
    return [known.names[i] for i in chosen], report, losses


def span_of(events: Events, protocol: Protocol) -> tuple[int, int]:
    """First and last week; purchases of given splits may be moved behind the end of the data."""
    return events.first_week, events.last_week + (2 if protocol.split == "given" else 0)


def together(parts: Sequence[Mapping[str, Losses]]) -> dict[str, Losses]:
    """What became of the candidates of all ranges."""
    losses: dict[str, Losses] = {split: Losses() for split in SPLITS}
    for part in parts:
        for split, lost in part.items():
            losses[split].update(lost)
    return losses


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
        .select("range", user="index", week=pl.col("week").cast(pl.Int32), tag="place", **_parts_of(events))
        .sink_parquet(
            pl.PartitionBy(folder / _SCATTERED, key="range", include_key=False),
            mkdir=True,
            maintain_order=False,
            engine="streaming",
        )
    )
    return ranges, rows


def _parts_of(events: Events) -> dict[str, str]:
    return {"part": "part"} if "part" in events.purchases.collect_schema() else {}


def count(part: Range, *, protocol: Protocol, tags: int, span: tuple[int, int]) -> Counts:
    """Merge what was bought twice in a week, and count buyers.

    Args:
        tags: Number of tags, the rare ones included.
        span: First and last week of the data.
    """
    scattered = pl.scan_parquet(part.folder / _SCATTERED / f"range={part.number}" / "*.parquet")
    scattered = sessions.merged(scattered, protocol.session_gap)
    leaks: dict[str, int] = {}
    if protocol.split == "given":
        found, leaks = given.behind(scattered.collect())
    else:
        found = scattered.select("user", "week", "tag").unique().sort("user", "week", "tag").collect()
    found.write_ipc(part.path(_MERGED))
    training = part.users.filter(~pl.col("unseen")).select("user")
    theirs = found.join(training, on="user", how="semi").lazy()
    if protocol.split != "time":
        until = own_origins.ends(found, protocol, span[1])
        open_end = pl.col("until").fill_null(span[1] + 1)
        theirs = theirs.join(until.lazy(), on="user", how="left").filter(pl.col("week") < open_end)
    assert protocol.statistics_end is not None, "resolved"
    if protocol.split == "time":
        origins = _origins(protocol, span)
        known = [buyers.between(theirs, origin - protocol.recent, origin, tags) for origin in origins]
        recent = np.array(known, dtype=np.float32)
    else:
        recent = buyers.recent(theirs, span, protocol.recent, tags)
    return Counts(
        purchases=found.height,
        buyers=buyers.between(theirs, 0, protocol.statistics_end, tags),
        recent=recent,
        leaks=leaks,
    )


def settle(
    counts: Sequence[Counts], protocol: Protocol
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Vocabulary and popularity, from all ranges.

    Returns:
        Places of the tags in the vocabulary, in alphabetical order, and popularity ``[origins, tags]``.

    Raises:
        SplitError: less than two tags were bought by enough training users.
    """
    total = np.sum([part.buyers for part in counts], axis=0)
    chosen = np.flatnonzero(total >= protocol.min_tag_users).astype(np.int32)
    if len(chosen) < 2:
        raise SplitError(
            f"only {len(chosen)} tags were bought by data.protocol.min_tag_users={protocol.min_tag_users} "
            f"training users before {protocol.step} {protocol.statistics_end}; lower "
            "data.protocol.min_tag_users"
        )
    return chosen, np.sum([part.recent for part in counts], axis=0)[:, chosen]


def write(
    part: Range,
    *,
    protocol: Protocol,
    chosen: npt.NDArray[np.int32],
    popularity: npt.NDArray[np.float32],
    week_zero: dt.date,
    span: tuple[int, int],
) -> dict[str, Losses]:
    """Write a range's purchases and episodes in tag ids.

    Returns:
        What became of the candidates of each split.
    """
    merged, triples = _in_ids(part, chosen)
    triples.write_ipc(part.path("purchases"))
    if protocol.split != "time":
        until = own_origins.ends(merged, protocol, span[1])
        known = part.users.select("user").join(until, on="user", how="left", maintain_order="left")
        known.with_columns(pl.col("until").fill_null(span[1] + 1)).write_ipc(part.path("until"))
    of_origins = dict(zip(_origins(protocol, span), popularity, strict=True))
    users = part.users.select("user", "unseen", "profile")
    table, losses = episodes.build(triples, merged, users, of_origins, protocol, week_zero, span[1])
    # Texts are laid out one behind the other, in a way that does not depend on how threads met.
    table.write_ipc(part.path("episodes"), compat_level=pl.CompatLevel.oldest())
    return losses


def survey(
    part: Range, *, protocol: Protocol, chosen: npt.NDArray[np.int32], span: tuple[int, int]
) -> dict[str, Losses]:
    """What would become of a range's candidates."""
    merged, triples = _in_ids(part, chosen)
    users, losses = part.users, {split: Losses() for split in SPLITS}
    for split, some, pairs in episodes.candidates(triples, merged, users, protocol, span[1]):
        losses[split].update(episodes.screened(some.lazy(), users, protocol, split, pairs)[1])
    return losses


def _in_ids(part: Range, chosen: npt.NDArray[np.int32]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Purchases of all tags, and those of the vocabulary in tag ids."""
    ids = pl.DataFrame({"tag": chosen, "id": np.arange(len(chosen), dtype=np.int32)})
    merged = mapped(part.path(_MERGED))
    return merged, merged.join(ids, on="tag", maintain_order="left").select("user", "week", tag="id")


def in_order(function: Callable[[Ranged], Result], ranges: Sequence[Ranged]) -> list[Result]:
    """Results of one range after the other; within one, Polars uses all cores."""
    return [function(part) for part in ranges]


def on_ray(function: Callable[[Ranged], Result], ranges: Sequence[Ranged]) -> list[Result]:
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


def _origins(protocol: Protocol, span: tuple[int, int]) -> list[int]:
    """Weeks that may be the origin of an episode."""
    if protocol.split != "time":
        return list(range(span[0], span[1] + 1))
    return sorted({origin for split in SPLITS for origin in protocol.origins(split)})

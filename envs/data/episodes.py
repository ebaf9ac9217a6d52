"""Episodes of next-purchase tag prediction: a user at an origin, the history before, the tags after.

The protocol (origins, windows, eligibility, splits) is configuration; :func:`build` turns the purchases of
some users into a table with one row an episode. Only ``target`` looks at or past the row's origin.

``candidates``  users and the origins that a split would take of them
``screened``    those that become episodes, and which setting lost the others
``build``       the episodes
"""

import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from . import calendar, own_origins
from .calendar import start_of
from .settings import Protocol, SplitError

SPLITS = ("train", "validation", "test")
NOW = "now"
"""Word in place of a split for users whose window lies ahead."""

Losses = Counter[str]
"""Reason -> number of candidates that it lost; besides, the numbers of ``candidates`` and ``episodes``."""

UNSEEN = "episodes of unseen users"
"""Number that is counted besides."""

# Purchases of users whose episodes are worked on at once, if each has origins of its own.
_AT_ONCE = 200_000


def is_unseen(user: str, share: float) -> bool:
    """Whether a user is kept out of training: a hash of the id, so the same for every machine and file."""
    digest = hashlib.sha256(user.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


def check(losses: Mapping[str, Losses], protocol: Protocol) -> None:
    """Check that every split has episodes, and the test split some of unseen users.

    Args:
        losses: Split -> what became of its candidates.

    Raises:
        SplitError: a split has none.
    """
    for split in SPLITS:
        if not losses[split]["episodes"]:
            where = f" (origins {list(protocol.origins(split))})" if protocol.split == "time" else ""
            raise SplitError(f"the {split} split{where} has no episode: {told(losses[split])}")
    if not losses["test"][UNSEEN]:
        raise SplitError(
            f"the test split has no unseen user: data.protocol.unseen_share={protocol.unseen_share:g} of the "
            "users is too few; raise it"
        )


def told(losses: Losses) -> str:
    """What became of the candidates of a split, in words."""
    lost = [
        (number, reason)
        for reason, number in losses.items()
        if reason not in ("candidates", "episodes", UNSEEN)
    ]
    reasons = ", ".join(f"{number:,} {reason}" for number, reason in sorted(lost, reverse=True) if number)
    return f"of {losses['candidates']:,} users at an origin, {reasons or 'none is lost'}"


def screened(
    triples: pl.LazyFrame, users: pl.DataFrame, protocol: Protocol, split: str, pairs: pl.DataFrame
) -> tuple[pl.DataFrame, Losses]:
    """Candidates that become episodes, and what became of the others.

    Args:
        triples: ``user``, ``week``, ``tag`` of these users.
        pairs: ``user``, ``origin``, ``end``: candidates and the ends of their windows.

    Returns:
        ``user``, ``origin``, ``end``, ``segment`` and ``target``; and reasons.
    """
    key = ["user", "origin"]
    one = pairs["origin"].n_unique() == 1 and pairs["end"].n_unique() == 1
    if one:  # of all users: no join is needed
        origin, end = (pl.lit(pairs[name][0], dtype=pl.Int32) for name in ("origin", "end"))
        of = triples.with_columns(origin=origin, end=end)
    else:
        of = triples.join(pairs.lazy(), on="user")
    before = of.filter(pl.col("week") < pl.col("origin"))
    ahead = of.filter((pl.col("week") >= pl.col("origin")) & (pl.col("week") < pl.col("end")))
    new = ahead
    if not protocol.repeats:
        new = ahead.join(before.select(*key, "tag").unique(), on=[*key, "tag"], how="anti")
    active = before.group_by(key).agg(weeks=pl.col("week").n_unique(), last=pl.col("week").max())
    target = new.group_by(key).agg(target=pl.col("tag").unique().sort())
    found = (
        pairs.lazy()
        .join(users.lazy().select("user", "unseen"), on="user")
        .join(active, on=key, how="left")
        .join(target, on=key, how="left")
        .with_columns(bought=pl.col("target").is_not_null())
    )
    if not protocol.repeats:
        bought = ahead.select(key).unique().with_columns(bought=pl.lit(True))
        found = found.drop("bought").join(bought, on=key, how="left")
    status = found.sort(key).collect()
    unit = protocol.step
    reasons = {
        "without a purchase of a known tag before it": pl.col("weeks").is_null(),
        f"by data.protocol.min_active_weeks={protocol.min_active_weeks}": (
            pl.col("weeks") < protocol.min_active_weeks
        ),
        f"by data.protocol.active_within={protocol.active_within}": (
            pl.col("last") < pl.col("origin") - protocol.active_within
        ),
        f"without a purchase in the {unit}s of the window": ~pl.col("bought").fill_null(False),
        "with nothing but repeats (data.protocol.repeats=false)": pl.col("target").is_null(),
        "as unseen users, who train nothing": pl.col("unseen") & pl.lit(split != "test"),
    }
    losses = Losses({"candidates": status.height})
    for reason, lost in reasons.items():
        kept = status.filter(~lost.fill_null(False))
        if status.height > kept.height:
            losses[reason] = status.height - kept.height
        status = kept
    losses["episodes"], losses[UNSEEN] = status.height, int(status["unseen"].sum())
    return status.select(*key, "end", segment=_segment(protocol), target="target"), losses


def candidates(
    triples: pl.DataFrame, steps: pl.DataFrame, users: pl.DataFrame, protocol: Protocol, last: int
) -> Iterator[tuple[str, pl.DataFrame, pl.DataFrame]]:
    """Split, purchases of some users, and their ``user``, ``origin`` and ``end``.

    Args:
        steps: ``user`` and ``week`` of all purchases, of tags outside of the vocabulary too.
        last: Last week of the data.
    """
    if protocol.split == "time":
        for split in SPLITS:
            for origin in protocol.origins(split):
                pairs = users.select(
                    "user",
                    origin=pl.lit(origin, dtype=pl.Int32),
                    end=pl.lit(origin + protocol.window, dtype=pl.Int32),
                )
                yield split, triples, pairs
        return
    origins = own_origins.of(steps, protocol, last)
    for part, of_part in own_origins.slices(triples, origins, _AT_ONCE):
        for split in SPLITS:
            yield split, part, of_part.filter(pl.col("split") == split).drop("split", "place")


def build(
    triples: pl.DataFrame,
    steps: pl.DataFrame,
    users: pl.DataFrame,
    popularity: Mapping[int, npt.NDArray[np.float32]],
    protocol: Protocol,
    week_zero: dt.date,
    last: int,
) -> tuple[pl.DataFrame, dict[str, Losses]]:
    """All episodes of all splits of some users.

    Training and validation episodes are of training users only; test episodes are of all users.

    Args:
        triples: ``user``, ``week``, ``tag`` (int32): who bought what when; sorted, without repetitions.
        steps: ``user`` and ``week`` of all purchases, of tags outside of the vocabulary too.
        users: ``user``, ``unseen``, ``profile`` of these users, in the order of their index.
        popularity: Origin -> ``[tags]`` of all users (:meth:`recrl.envs.data.panel.Panel.popularity`).
        week_zero: The day on which week 0 begins.
        last: Last week of the data.

    Returns:
        One row an episode: ``split``, ``origin`` (week), ``user`` (index), ``unseen``, ``profile``,
        ``segment`` (``cold`` or ``warm``), ``calendar``, ``target`` (tag ids bought in the window),
        ``lookback`` (tag ids of the last ``protocol.lookback`` weeks), ``history`` (all earlier tag ids, most
        weeks first, ties by popularity), ``history_weight`` (number of weeks, same order) and
        ``history_last`` (weeks since the last purchase, same order). And what became of the candidates of
        each split. Weeks are days or months where the protocol says so.
    """
    parts, losses = [], {split: Losses() for split in SPLITS}
    for split, some, pairs in candidates(triples, steps, users, protocol, last):
        found, lost = screened(some.lazy(), users, protocol, split, pairs)
        losses[split].update(lost)
        parts.append(_told(some.lazy(), found, popularity, protocol, split, week_zero))
    table = pl.concat(parts).join(users, on="user", how="left", maintain_order="left")
    return table, losses


def now(
    triples: pl.DataFrame,
    users: pl.DataFrame,
    popularity: npt.NDArray[np.float32],
    protocol: Protocol,
    origin: int,
    week_zero: dt.date,
) -> pl.DataFrame:
    """Episodes of some users at one origin whose window may lie ahead.

    Args:
        popularity: ``[tags]`` at that origin; other arguments as of :func:`build`.

    Returns:
        The columns of :func:`build` without ``target``; one row a user with enough history.
    """
    found = able(triples.lazy(), protocol, origin).select(
        "user",
        origin=pl.lit(origin, dtype=pl.Int32),
        segment=_segment(protocol),
        target=pl.lit(None, dtype=pl.List(pl.Int32)),
    )
    table = _told(triples.lazy(), found.collect(), {origin: popularity}, protocol, NOW, week_zero)
    return table.drop("target").join(users, on="user", how="left", maintain_order="left")


def able(triples: pl.LazyFrame, protocol: Protocol, origin: int) -> pl.LazyFrame:
    """Users with enough history before an origin: ``user``, and ``weeks`` with a purchase."""
    before = triples.filter(pl.col("week") < origin)
    active = before.group_by("user").agg(weeks=pl.col("week").n_unique(), last=pl.col("week").max())
    lately = pl.col("last") >= origin - protocol.active_within
    return active.filter((pl.col("weeks") >= protocol.min_active_weeks) & lately).drop("last")


def _segment(protocol: Protocol) -> pl.Expr:
    cold = pl.col("weeks") < protocol.cold_weeks
    return pl.when(cold).then(pl.lit("cold")).otherwise(pl.lit("warm"))


def _told(
    triples: pl.LazyFrame,
    found: pl.DataFrame,
    popularity: Mapping[int, npt.NDArray[np.float32]],
    protocol: Protocol,
    split: str,
    week_zero: dt.date,
) -> pl.DataFrame:
    """Episodes with what is known at their origins."""
    key = ["user", "origin"]
    origins = found["origin"].unique().sort().to_list()
    before = triples.join(found.lazy().select(key), on="user").filter(pl.col("week") < pl.col("origin"))
    lookback = (
        before.filter(pl.col("week") >= pl.col("origin") - protocol.lookback)
        .group_by(key)
        .agg(lookback=pl.col("tag").unique().sort())
    )
    n_tags = len(next(iter(popularity.values())))
    popular = pl.DataFrame(
        {
            "origin": np.repeat(np.array(origins, dtype=np.int32), n_tags),
            "tag": np.tile(np.arange(n_tags, dtype=np.int32), len(origins)),
            "popularity": np.array([popularity[origin] for origin in origins], dtype=np.float32).ravel(),
        }
    ).lazy()
    history = (
        before.group_by(*key, "tag")
        .agg(
            weight=pl.len().cast(pl.Float32),
            last=(pl.col("origin").first() - pl.col("week").max()).cast(pl.Int32),
        )
        .join(popular, on=["origin", "tag"])
        .sort([*key, "weight", "popularity", "tag"], descending=[False, False, True, True, False])
        .group_by(key, maintain_order=True)
        .agg(history=pl.col("tag"), history_weight=pl.col("weight"), history_last=pl.col("last"))
    )
    ahead = {
        origin: calendar.describe(start_of(week_zero, origin, protocol.step), protocol.window, protocol.step)
        for origin in origins
    }
    words = pl.LazyFrame(
        {"origin": [*ahead], "calendar": [*ahead.values()]},
        schema={"origin": pl.Int32, "calendar": pl.String},
    )
    return (
        found.lazy()
        .join(history, on=key)
        .join(lookback, on=key, how="left")
        .join(words, on="origin")
        .sort(key)
        .select(
            "user",
            "segment",
            "target",
            "history",
            "history_weight",
            "history_last",
            pl.col("lookback").fill_null([]),
            split=pl.lit(split),
            origin=pl.col("origin"),
            calendar=pl.col("calendar"),
        )
        .collect()
    )

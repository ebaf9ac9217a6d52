"""Rare users and tags: purchases of those that have enough of each other."""

from dataclasses import replace

import polars as pl

from .events import Events
from .settings import DataError


def core(events: Events, k: int) -> Events:
    """The k-core: every user has ``k`` different tags or more, every tag as many users.

    Dropping one may leave another with too few, so that both are dropped in turns, until none is. Users and
    tags are held in memory, purchases are not.

    Raises:
        DataError: nothing is left.
    """
    if k == 1:
        return events
    pairs = events.purchases.select("user", "tag").unique()
    users = events.purchases.select("user").unique().collect(engine="streaming")
    tags = events.purchases.select("tag").unique().collect(engine="streaming")
    before = users.height, tags.height
    while True:
        held = pairs.join(users.lazy(), on="user", how="semi").join(tags.lazy(), on="tag", how="semi")
        of_users, of_tags = (
            held.group_by(name).len().filter(pl.col("len") >= k).select(name).collect(engine="streaming")
            for name in ("user", "tag")
        )
        if (of_users.height, of_tags.height) == (users.height, tags.height):
            break
        users, tags = of_users, of_tags
    if not users.height:
        raise DataError(f"data.protocol.k_core={k} leaves nobody; set a smaller one")
    kept = events.purchases.join(users.lazy(), on="user", how="semi")
    return replace(
        events,
        purchases=kept.join(tags.lazy(), on="tag", how="semi"),
        report={
            **events.report,
            "users outside of data.protocol.k_core (dropped)": before[0] - users.height,
            "tags outside of data.protocol.k_core (dropped)": before[1] - tags.height,
        },
    )

"""Tables built range by range are those of all users at once, whatever builds them."""

import datetime as dt
import itertools
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import ray

from recrl.envs.data import shards
from recrl.envs.data.events import Events
from recrl.envs.data.prepared import build, restore
from recrl.envs.data.settings import Protocol

PROTOCOL = Protocol(min_tag_users=4)


def events(users: int = 120, weeks: int = 45, seed: int = 0) -> Events:
    """Uneven users: some buy every week, some hardly ever; rows repeat and stand in no order."""
    draw = np.random.default_rng(seed)
    rows = [
        {"user": f"user {u}", "week": int(week), "tag": f"tag {int(draw.integers(3 + u % 30)):02d}"}
        for u in range(users)
        for week in range(1, weeks + 1)
        for _ in range(draw.poisson(0.2 + (u % 7) / 2))
    ]
    frame = pl.LazyFrame(rows, schema={"user": pl.String, "week": pl.Int32, "tag": pl.String})
    return Events(
        frame.collect().sample(fraction=1.0, shuffle=True, seed=seed).lazy(),
        week_zero=dt.date(2024, 1, 1),
        first_week=1,
        last_week=weeks,
        profiles={f"user {u}": f"profile of {u}" for u in range(0, users, 3)},
    )


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.arrow")}


def test_ranges_hold_the_same_episodes_as_all_users_at_once(tmp_path):
    found = events()
    build(found, PROTOCOL, "x", tmp_path / "whole")
    build(found, PROTOCOL, "x", tmp_path / "parts", size=500)
    whole, parts = restore(tmp_path / "whole"), restore(tmp_path / "parts")
    assert len(list((tmp_path / "whole" / "episodes").iterdir())) == 1
    assert len(list((tmp_path / "parts" / "episodes").iterdir())) > 10
    assert parts.catalog.tags == whole.catalog.tags
    assert parts.report == whole.report
    for field in ("user", "week", "tag", "unseen"):
        assert np.array_equal(getattr(parts.panel, field), getattr(whole.panel, field)), field
    key = ["split", "origin", "user"]
    assert parts.table.sort(key).equals(whole.table.sort(key))
    assert whole.table.height > 500


def test_popularity_of_the_ranges_is_the_panels(tmp_path):
    """Ties in a history are broken by it, and by nothing of the range alone."""
    found, protocol = events(), PROTOCOL.resolved(1, 45)
    build(found, PROTOCOL, "x", tmp_path / "task", size=700)
    panel = restore(tmp_path / "task").panel
    folder = tmp_path / "ranges"
    folder.mkdir()
    known = shards.Vocabulary.of(found)
    ranges, _ = shards.scatter(found, known, protocol, folder, 700)
    counts = [shards.count(part, protocol=protocol, tags=len(known.names), span=(1, 45)) for part in ranges]
    chosen, popularity = shards.settle(counts, protocol)
    assert len(chosen) == panel.n_tags
    origins = sorted({*protocol.train_origins, *protocol.validation_origins, *protocol.test_origins})
    for origin, row in zip(origins, popularity, strict=True):
        assert np.array_equal(row, panel.popularity(origin))


def test_a_range_ends_with_a_user(tmp_path):
    found = events()
    ranges, rows = shards.scatter(found, shards.Vocabulary.of(found), PROTOCOL, tmp_path, 300)
    assert ranges[0].first == 0
    assert ranges[-1].end == 120
    assert all(one.end == other.first for one, other in itertools.pairwise(ranges))
    sizes = [
        pl.read_parquet(tmp_path / "scattered" / f"range={part.number}" / "*.parquet").height
        for part in ranges
    ]
    assert sum(sizes) == rows
    most = found.purchases.group_by("user").len().collect()["len"].max()
    assert max(sizes) < 300 + most


@pytest.mark.slow
def test_ray_writes_the_same_files(tmp_path):
    found = events()
    build(found, PROTOCOL, "x", tmp_path / "polars", size=800)
    try:
        build(found, PROTOCOL, "x", tmp_path / "ray", size=800, engine="ray")
    finally:
        ray.shutdown()
    mine, theirs = files(tmp_path / "polars"), files(tmp_path / "ray")
    assert len(mine) > 10
    assert mine == theirs

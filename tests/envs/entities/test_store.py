import pickle
from pathlib import Path

import entities
import numpy as np
import polars as pl
import pytest
import ray
from entities import DIM, TITLES, Hashed, store_in

from recrl.envs.data.shards import ENGINES
from recrl.envs.entities.build import build
from recrl.envs.entities.store import Constant, EntityStore, Permuted, StoreError
from recrl.envs.storage import sealed
from recrl.rewards.shipped.encoder import SentenceEncoder


class Failing(Hashed):
    """Dies at the third range, as a process that is killed; counts what it encodes."""

    def __init__(self, ranges: int) -> None:
        self.left, self.encoded = ranges, 0

    def __call__(self, titles):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.encoded += len(titles)
        return super().__call__(titles)


@pytest.mark.parametrize(("precision", "error"), [("float16", 5e-4), ("int8", 5e-3)])
def test_a_store_gives_back_the_vectors_of_its_titles(tmp_path, precision, error):
    store = build([*TITLES, *TITLES], tmp_path / "store", Hashed(), precision=precision, size=7)
    assert len(store) == len(TITLES)
    rows = store.rows([*reversed(TITLES), "nobody sells this"])
    assert rows[-1] == -1
    assert sorted(rows[:-1].tolist()) == [*range(len(TITLES))]
    assert np.abs(store.vectors(rows[:-1]) - Hashed()([*reversed(TITLES)])).max() < error
    assert store.vectors(np.empty(0, dtype=np.int64)).shape == (0, DIM)


def test_a_job_that_was_killed_goes_on_and_ends_with_the_same_bytes(tmp_path):
    whole = store_in(tmp_path)
    killed, seen = Failing(2), []
    with pytest.raises(KeyboardInterrupt):
        build(TITLES, tmp_path / "again", killed, size=10)
    with pytest.raises(StoreError, match="no whole store"):
        EntityStore(tmp_path / "again")
    rest = Failing(9)
    again = build(TITLES, tmp_path / "again", rest, size=10, on_part=lambda *at: seen.append(at))
    assert (killed.encoded, rest.encoded) == (20, 20)
    assert seen == [(2, 4), (3, 4), (4, 4)]
    for name in ("vectors.bin", "keys.bin", "places.bin"):
        assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert build(TITLES, tmp_path / "again", Failing(0), size=10).rows(TITLES[:1]) >= 0, "it is there"


def test_a_job_of_others_is_not_gone_on_with(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        build(TITLES, tmp_path / "store", Failing(2), size=10)
    other = Failing(9)
    other.fingerprint = "another"
    store = build(TITLES, tmp_path / "store", other, size=10)
    assert other.encoded == len(TITLES)
    assert store.encoder == "another"
    longer = build(pl.LazyFrame({"title": [*TITLES, "new"]}), tmp_path / "store", Failing(9), size=10)
    assert longer.rows(["new"]) >= 0, "a store of other titles is replaced"


def test_what_is_no_store_is_one_line(tmp_path):
    store = store_in(tmp_path)
    (store.folder / "vectors.bin").write_bytes(b"short")
    with pytest.raises(StoreError, match=r"vectors\.bin has 5 bytes.*recrl hybrid store"):
        EntityStore(store.folder)
    with pytest.raises(StoreError, match="no titles"):
        build([], tmp_path / "empty", Hashed())


def test_controls(tmp_path):
    store = store_in(tmp_path)
    rows = store.rows(TITLES)
    constant = Constant(store, rows).vectors(rows[:3])
    assert (constant == constant[0]).all()
    permuted = Permuted(store, len(store), seed=0).vectors(np.arange(len(store)))
    assert not (permuted == store.vectors(np.arange(len(store)))).all(axis=1).all()
    assert sorted(permuted[:, 0]) == sorted(store.vectors(np.arange(len(store)))[:, 0])


def test_ranges_may_be_filled_in_any_order_by_a_function_that_travels(tmp_path, monkeypatch):
    """As on a cluster: the work is pickled, and ranges come as they please."""

    def elsewhere(function, parts):
        sent = pickle.dumps(function)
        return [pickle.loads(sent)(part) for part in reversed(parts)]

    monkeypatch.setitem(ENGINES, "ray", elsewhere)
    there = build(TITLES, tmp_path / "there" / "store", Hashed(), size=7, engine="ray")
    here = store_in(tmp_path / "here")
    for name in ("vectors.bin", "keys.bin", "places.bin"):
        assert (there.folder / name).read_bytes() == (here.folder / name).read_bytes()
    assert pickle.loads(pickle.dumps(SentenceEncoder("somewhere")))._model == "somewhere"


@pytest.mark.slow
def test_ray_goes_on_with_a_killed_job_and_builds_the_same_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = store_in(tmp_path / "here")
    with pytest.raises(KeyboardInterrupt):
        build(TITLES, Path("there/store"), Failing(2), size=7)
    seen = []
    ray.cloudpickle.register_pickle_by_value(entities)  # workers know what is installed alone
    try:
        there = build(
            TITLES, Path("there/store"), Hashed(), size=7, engine="ray", on_part=lambda *at: seen.append(at)
        )
    finally:
        ray.shutdown()
    assert seen == [(2, 6), (6, 6)], "ranges that were filled are not filled again"
    for name in ("vectors.bin", "keys.bin", "places.bin"):
        assert (there.folder / name).read_bytes() == (here.folder / name).read_bytes()


@pytest.mark.parametrize("last", ["publish", "remove"])
def test_a_kill_at_the_end_of_a_job_costs_no_title_and_wedges_nothing(tmp_path, monkeypatch, last):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sealed, last, killed if last == "publish" else lambda path: path.exists() and killed())
        with pytest.raises(KeyboardInterrupt):
            build(TITLES, tmp_path / "store", Failing(99), size=10)
    rest = Failing(0)
    store = build(TITLES, tmp_path / "store", rest, size=10)
    assert rest.encoded == 0
    assert np.abs(store.vectors(store.rows(TITLES)) - Hashed()(TITLES)).max() < 5e-4

"""Damage of cached tables: found at the next start and mended; nothing wrong is ever read."""

import datetime as dt
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from recrl.envs.data.prepared import Data, fault, prepare, restore
from recrl.envs.data.settings import DataConfig, DataError, Protocol
from recrl.envs.storage import sealed

LOG = "".join(
    json.dumps(
        {
            "user": f"u{user}",
            "time": str(dt.date(2024, 1, 3) + dt.timedelta(weeks=week)),
            "tag": f"tag {(user + week) % 5}",
        }
    )
    + "\n"
    for user in range(40)
    for week in range(45)
)
SETTINGS = {"protocol": Protocol(min_tag_users=2), "at_once": 1000}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> DataConfig:
    """A log whose tables stay whole."""
    folder = tmp_path_factory.mktemp("whole")
    path = folder / "log.jsonl"
    path.write_text(LOG)
    config = DataConfig(source=str(path), cache=folder / "cache", **SETTINGS)
    prepare(config)
    return config


@pytest.fixture(scope="module")
def task(built) -> Data:
    return prepare(built)


@pytest.fixture
def config(built, tmp_path) -> DataConfig:
    """The same log, with tables to be damaged."""
    shutil.copytree(built.cache, tmp_path / "cache")
    return built.model_copy(update={"cache": tmp_path / "cache"})


@pytest.fixture
def fresh(built, tmp_path) -> DataConfig:
    """The same log, without tables."""
    return built.model_copy(update={"cache": tmp_path / "cache"})


def folder(config: DataConfig) -> Path:
    (found,) = (path for path in (config.cache / "tasks").iterdir() if path.is_dir())
    return found


def content(config: DataConfig) -> dict[str, bytes]:
    found = folder(config)
    return {name: (found / name).read_bytes() for name in [*sealed.files(found), sealed.MANIFEST]}


def same(one: Data, other: Data) -> bool:
    return (
        one.table.equals(other.table)
        and one.catalog.fingerprint == other.catalog.fingerprint
        and one.report == other.report
        and one.panel.users == other.panel.users
        and all(
            np.array_equal(getattr(one.panel, name), getattr(other.panel, name))
            for name in ("user", "week", "tag", "unseen")
        )
    )


def test_every_flipped_bit_is_found(config):
    """200 of them, in all files: none is read, and none is mended by chance."""
    found, draw, missed = folder(config), random.Random(0), []
    whole = content(config)
    names = sorted(whole)
    assert len(names) > 5
    for _ in range(200):
        name = draw.choice(names)
        at, bit = draw.randrange(len(whole[name])), 1 << draw.randrange(8)
        spoiled = bytearray(whole[name])
        spoiled[at] ^= bit
        (found / name).write_bytes(spoiled)
        if fault(found, 1 << 28) is None and name != sealed.MANIFEST:
            missed.append((name, at, bit))
        (found / name).write_bytes(whole[name])
    assert not missed
    assert fault(found) is None


def test_a_flipped_bit_of_the_manifest_is_found_or_changes_nothing(config, task):
    path, draw = folder(config) / sealed.MANIFEST, random.Random(0)
    whole, found = path.read_bytes(), 0
    for _ in range(200):
        spoiled = bytearray(whole)
        spoiled[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(spoiled)
        if fault(folder(config)) is None:
            assert same(restore(folder(config)), task), bytes(spoiled)
        else:
            found += 1
    assert found > 120


def spoil_flip(found: Path) -> None:
    path = next((found / "episodes").iterdir())
    spoiled = bytearray(path.read_bytes())
    spoiled[len(spoiled) // 2] ^= 16
    path.write_bytes(spoiled)


def truncate(name: str):
    def spoil(found: Path) -> None:
        path = sorted(found.glob(name))[0]
        os.truncate(path, path.stat().st_size // 2)

    return spoil


def replace_folder(found: Path) -> None:
    found.rename(found.with_name("elsewhere"))
    found.write_text("a file")


DAMAGE = {
    "flipped": spoil_flip,
    "cut episodes": truncate("episodes/*"),
    "cut purchases": truncate("purchases/*"),
    "cut users": truncate("users.arrow"),
    "cut catalogue": truncate("catalog.json"),
    "cut manifest": truncate("manifest.json"),
    "empty manifest": lambda found: (found / "manifest.json").write_bytes(b""),
    "manifest is noise": lambda found: (found / "manifest.json").write_bytes(bytes(range(256))),
    "manifest is a list": lambda found: (found / "manifest.json").write_text("[]"),
    "no manifest": lambda found: (found / "manifest.json").unlink(),
    "as earlier versions wrote it": lambda found: (found / "manifest.json").rename(found / "meta.json"),
    "no catalogue": lambda found: (found / "catalog.json").unlink(),
    "no users": lambda found: (found / "users.arrow").unlink(),
    "a range less": lambda found: sorted((found / "episodes").iterdir())[1].unlink(),
    "a folder for a file": lambda found: ((found / "users.arrow").unlink(), (found / "users.arrow").mkdir()),
    "a file for the folder": replace_folder,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_tables_are_built_again_with_a_warning(config, task, damage, caplog):
    whole = content(config)
    DAMAGE[damage](folder(config))
    again = prepare(config)
    assert [record.message for record in caplog.records if "is built again: " in record.message]
    assert same(again, task)
    for left in (config.cache / "tasks").glob("elsewhere"):
        left.rename(config.cache / "elsewhere")
    assert content(config) == whole
    caplog.clear()
    prepare(config)
    assert not caplog.records


def test_files_of_others_are_left_alone(config, task, caplog):
    for name in ("episodes/.DS_Store", "episodes/00000.arrow.bak", "notes.txt"):
        (folder(config) / name).write_text("mine")
    assert same(prepare(config), task)
    assert not caplog.records


def test_large_tables_are_read_wholly_on_demand_alone(config, task, caplog, monkeypatch):
    # As if they were large: the catalogue is still read.
    monkeypatch.setattr("recrl.envs.data.prepared._READ", 8000)
    spoil_flip(folder(config))
    prepare(config)
    assert not caplog.records
    assert same(prepare(config, wholly=True), task)
    assert "does not hold what was written" in caplog.records[0].message
    truncate("catalog.json")(folder(config))
    caplog.clear()
    prepare(config)
    assert "is built again: catalog.json has " in caplog.records[0].message


BUILDER = """
import sys
from pathlib import Path
from recrl.envs.data.settings import DataConfig
from recrl.envs.data.prepared import prepare
from recrl.envs.data.settings import Protocol
source, cache, word = sys.argv[1:]
print("ready", flush=True)
assert sys.stdin.readline() == "go\\n"
task = prepare(DataConfig(source=source, cache=cache, protocol=Protocol(min_tag_users=2), at_once=1000))
print(task.table.height, task.panel.tag.sum(), task.catalog.fingerprint, flush=True)
"""


def builder(config: DataConfig, *prefix: str) -> subprocess.Popen[str]:
    command = [*prefix, sys.executable, "-c", BUILDER, config.source, str(config.cache), "x"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_builders_at_once_end_with_the_same_whole_tables(fresh, task):
    found = [builder(fresh) for _ in range(2)]
    for process in found:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in found:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate() for process in found]
    assert [process.returncode for process in found] == [0, 0], answers
    assert len({output for output, _ in answers}) == 1
    assert not list((fresh.cache / "tasks").glob("*.partial"))
    assert same(prepare(fresh), task)
    assert answers[0][0].split()[:2] == [str(task.table.height), str(task.panel.tag.sum())]


def test_a_builder_that_was_killed_is_in_nobodys_way(fresh):
    """As the first process of a container, which has the same number at each start."""
    process = builder(fresh)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    tasks = fresh.cache / "tasks"
    process.stdin.write("go\n")
    process.stdin.flush()
    deadline = time.monotonic() + 30
    while not list(tasks.glob("*.partial")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    (left,) = tasks.glob("*.partial")
    assert left.is_dir()
    earlier = left.with_name(f"{left.name.split('.')[0]}.1.partial")  # of an earlier version, process 1
    earlier.mkdir()
    assert prepare(fresh).table.height
    assert not list(tasks.glob("*.partial"))


def test_a_cache_that_cannot_be_written_says_so(built, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DataError, match=r"data\.cache=.*taken: .*Not a directory"):
        prepare(built.model_copy(update={"cache": tmp_path / "taken"}))


def test_a_failed_build_leaves_nothing(fresh):
    strict = fresh.model_copy(update={"protocol": Protocol(min_tag_users=10_000)})
    with pytest.raises(
        DataError, match=r"lower data\.protocol\.min_tag_users\. Set data\.protocol\.min_tag_users=36 for "
    ):
        prepare(strict)
    assert not [path for path in (fresh.cache / "tasks").iterdir() if path.is_dir()]

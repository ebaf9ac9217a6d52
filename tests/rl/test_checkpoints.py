"""A checkpoint is whole or it is passed over."""

import json

import pytest

from recrl.rl import checkpoints
from recrl.rl.checkpoints import CheckpointError, Manifest


def write(run, step, **settings):
    aside = run / ".writing" / f"checkpoint-{step}"
    (aside / "shards").mkdir(parents=True)
    (aside / "weights.bin").write_bytes(bytes(range(256)) * 40)
    (aside / "shards" / "0.pt").write_bytes(b"optimiser")
    found = checkpoints.seal(aside, checkpoints.files(aside))
    manifest = Manifest(
        **{"step": step, "processes": 2, "strategy": "replicated", "seconds": 0.5, "files": found, **settings}
    )
    checkpoints.publish(aside, run / f"checkpoint-{step}", manifest)
    return run / f"checkpoint-{step}"


def truncate(checkpoint):
    with (checkpoint / "weights.bin").open("rb+") as stream:
        stream.truncate(100)


def flip_a_bit(checkpoint):
    with (checkpoint / "weights.bin").open("rb+") as stream:
        stream.seek(5000)
        stream.write(b"\xff")


def lose_a_file(checkpoint):
    (checkpoint / "shards" / "0.pt").unlink()


def never_finish(checkpoint):
    (checkpoint / "manifest.json").unlink()


def tear_the_manifest(checkpoint):
    path = checkpoint / "manifest.json"
    path.write_text(path.read_text()[:40])


def test_what_was_written_is_whole(tmp_path):
    checkpoint = write(tmp_path, 10)
    assert checkpoints.fault(checkpoint) is None
    manifest = checkpoints.read(checkpoint)
    assert (manifest.step, manifest.processes, manifest.strategy) == (10, 2, "replicated")
    assert set(manifest.files) == {"weights.bin", "shards/0.pt"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "weights.bin has 100 bytes, 10240 were written"),
        (flip_a_bit, "weights.bin does not hold what was written"),
        (lose_a_file, "0.pt is missing"),
        (never_finish, "did not come to an end"),
        (tear_the_manifest, "cannot be read"),
    ],
)
def test_a_torn_one_is_passed_over_with_a_warning(tmp_path, caplog, damage, message):
    whole, torn = write(tmp_path, 9), write(tmp_path, 10)
    assert checkpoints.newest(tmp_path) == torn
    damage(torn)
    assert checkpoints.newest(tmp_path) == whole
    assert message in caplog.text
    assert "checkpoint-10 is skipped" in caplog.text
    with pytest.raises(CheckpointError, match="--resume auto takes the newest whole one"):
        checkpoints.check(torn, 2, "replicated")


def test_without_a_whole_one_there_is_none(tmp_path):
    assert checkpoints.newest(tmp_path) is None
    assert checkpoints.newest(tmp_path / "never made") is None
    never_finish(write(tmp_path, 3))
    (tmp_path / "checkpoint-best").mkdir()
    assert checkpoints.newest(tmp_path) is None


def test_a_torn_one_is_replaced_when_its_step_is_reached_again(tmp_path):
    truncate(write(tmp_path, 4))
    assert checkpoints.fault(write(tmp_path, 4)) is None


@pytest.mark.parametrize(
    ("strategy", "processes", "goes"),
    [
        ("replicated", 2, True),
        ("replicated", 1, True),
        ("replicated", 16, True),
        ("zero2", 2, False),
        ("fsdp", 2, False),
    ],
)
def test_other_processes_go_on_from_what_each_of_them_can_read(tmp_path, strategy, processes, goes):
    checkpoint = write(tmp_path, 1)
    if goes:
        checkpoints.check(checkpoint, processes, strategy)
    else:
        with pytest.raises(CheckpointError, match=f"by 2 processes with replicated, and 2 with {strategy}"):
            checkpoints.check(checkpoint, processes, strategy)


def test_shards_need_the_processes_that_wrote_them(tmp_path):
    checkpoint = write(tmp_path, 1, strategy="zero3")
    checkpoints.check(checkpoint, 2, "zero3")
    for processes, strategy in ((4, "zero3"), (2, "zero2"), (1, "replicated")):
        with pytest.raises(CheckpointError, match="go on with 2 processes and zero3"):
            checkpoints.check(checkpoint, processes, strategy)


def test_the_manifest_is_text_that_people_read(tmp_path):
    found = json.loads((write(tmp_path, 1) / "manifest.json").read_text())
    assert found["files"]["shards/0.pt"][0] == len(b"optimiser")

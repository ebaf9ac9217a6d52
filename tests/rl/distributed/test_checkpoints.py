"""A checkpoint is whole or it is passed over, and runs no code."""

import json
import os
import pickle
import shutil

import poisoned
import pytest
import torch

from recrl.envs.storage import sealed
from recrl.rl.distributed import checkpoints
from recrl.rl.distributed.checkpoints import CheckpointError, Manifest, reading


def write(run, step, *, state_step=None, name=None, **settings):
    """A checkpoint of two files, and what transformers says of its step."""
    aside = run / ".writing" / f"checkpoint-{step}"
    (aside / "shards").mkdir(parents=True)
    (aside / "weights.bin").write_bytes(bytes(range(256)) * 40)
    (aside / "shards" / "0.pt").write_bytes(b"optimiser")
    state = {"global_step": step if state_step is None else state_step}
    (aside / "trainer_state.json").write_text(json.dumps(state))
    found = sealed.seal(aside, sealed.files(aside))
    manifest = Manifest(
        **{"step": step, "processes": 2, "strategy": "replicated", "seconds": 0.5, "files": found, **settings}
    )
    checkpoint = run / (name or f"checkpoint-{step}")
    checkpoints.publish(aside, checkpoint, manifest)
    return checkpoint


def rewrite(checkpoint, change, *, crc=True):
    """Change what the manifest says, with its checksum or without."""
    path = checkpoint / "manifest.json"
    found = json.loads(path.read_text())
    del found["crc"]
    change(found)
    if crc:
        found["crc"] = sealed.checksum(found)
    path.write_text(json.dumps(found))


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


def change_the_step(checkpoint):
    rewrite(checkpoint, lambda found: found.update(step=12), crc=False)


def change_a_field_of_the_manifest(checkpoint):
    path = checkpoint / "manifest.json"
    path.write_text(path.read_text().replace('"processes": 2', '"processes": 3'))


def lose_the_checksum(checkpoint):
    path = checkpoint / "manifest.json"
    path.write_text(path.read_text().replace('"crc"', '"brc"'))


def rename_a_field(checkpoint):
    rewrite(checkpoint, lambda found: found.update(stop=found.pop("step")))


def be_of_another_step(checkpoint):
    rewrite(checkpoint, lambda found: found.update(step=12))


def have_no_strategy_that_exists(checkpoint):
    rewrite(checkpoint, lambda found: found.update(strategy="zero9"))


def have_no_processes(checkpoint):
    rewrite(checkpoint, lambda found: found.update(processes=0))


def link_a_file(checkpoint):
    path = checkpoint / "weights.bin"
    path.rename(checkpoint.parent / "elsewhere")
    path.symlink_to(checkpoint.parent / "elsewhere")


def link_a_folder(checkpoint):
    (checkpoint / "shards").rename(checkpoint.parent / "elsewhere")
    (checkpoint / "shards").symlink_to(checkpoint.parent / "elsewhere")


def name_a_file_outside(checkpoint):
    (checkpoint.parent / "outside").write_bytes(b"optimiser")
    found = sealed.fingerprint(checkpoint.parent / "outside")
    rewrite(checkpoint, lambda content: content["files"].update({"../outside": found}))


def name_a_file_from_the_root(checkpoint):
    rewrite(checkpoint, lambda content: content["files"].update({"/etc/hostname": (1, 1)}))


def have_a_name_that_is_none(checkpoint):
    rewrite(checkpoint, lambda content: content["files"].update({"a\0b": (1, 1), "\ud800": (1, 1)}))


def be_a_pipe(checkpoint):
    never_finish(checkpoint)
    os.mkfifo(checkpoint / "manifest.json")


def be_huge(checkpoint):
    with (checkpoint / "manifest.json").open("rb+") as stream:
        stream.truncate(1 << 36)  # sparse


def be_deep(checkpoint):
    (checkpoint / "manifest.json").write_text('{"files":' + "[" * 200_000)


def be_infinite(checkpoint):
    (checkpoint / "manifest.json").write_text('{"files": {"a": [1e999, 1]}}')


def be_another_type(checkpoint):
    (checkpoint / "manifest.json").write_text("[1, 2]")


def be_bytes(checkpoint):
    (checkpoint / "manifest.json").write_bytes(bytes(range(256)))


def be_a_file(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.write_text("not a folder")


def be_a_torn_link(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.symlink_to("nowhere")


def be_a_link_to_itself(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.symlink_to(checkpoint)


DAMAGES = [
    (truncate, "weights.bin has 100 bytes, 10240 were written"),
    (flip_a_bit, "weights.bin does not hold what was written"),
    (lose_a_file, "0.pt is missing"),
    (never_finish, "did not come to an end"),
    (tear_the_manifest, "cannot be read"),
    (change_the_step, "manifest.json is of step 12"),
    (change_a_field_of_the_manifest, "manifest.json does not hold what was written"),
    (lose_the_checksum, "manifest.json does not hold what was written"),
    (rename_a_field, "cannot be read"),
    (be_of_another_step, "manifest.json is of step 12"),
    (have_no_strategy_that_exists, "strategy='zero9'"),
    (have_no_processes, "processes=0"),
    (link_a_file, "weights.bin is a link"),
    (link_a_folder, "shards/0.pt is a link"),
    (name_a_file_outside, "names '../outside', which is not in its folder"),
    (name_a_file_from_the_root, "names '/etc/hostname', which is not in its folder"),
    (have_a_name_that_is_none, ""),
    (be_a_pipe, "manifest.json is no file"),
    (be_huge, "too many for a manifest"),
    (be_deep, "cannot be read"),
    (be_infinite, "cannot be read"),
    (be_another_type, "cannot be read"),
    (be_bytes, "cannot be read"),
    (be_a_file, "cannot be read"),
    (be_a_torn_link, "did not come to an end"),
    (be_a_link_to_itself, "cannot be read"),
]


def test_what_was_written_is_whole(tmp_path):
    checkpoint = write(tmp_path, 10)
    assert checkpoints.fault(checkpoint) is None
    manifest = checkpoints.read(checkpoint)
    assert (manifest.step, manifest.processes, manifest.strategy) == (10, 2, "replicated")
    assert set(manifest.files) == {"weights.bin", "shards/0.pt", "trainer_state.json"}


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_a_torn_one_is_passed_over_with_a_warning(tmp_path, caplog, damage, message):
    whole, torn = write(tmp_path, 9), write(tmp_path, 10)
    assert checkpoints.newest(tmp_path) == torn
    damage(torn)
    assert checkpoints.newest(tmp_path) == whole
    assert message in caplog.text
    assert "checkpoint-10 is skipped" in caplog.text
    with pytest.raises(CheckpointError, match="--resume auto takes the newest whole one") as error:
        checkpoints.check(torn, 2, "replicated")
    assert "\n" not in str(error.value)
    assert checkpoints.fault(write(tmp_path, 10)) is None, "it is replaced when its step is reached again"


def test_the_step_agrees_with_what_transformers_wrote(tmp_path, caplog):
    write(tmp_path, 9)
    write(tmp_path, 10, state_step=11)
    assert checkpoints.newest(tmp_path).name == "checkpoint-9"
    assert "trainer_state.json is of step 11, not 10" in caplog.text


@pytest.mark.parametrize("text", ["", "[]", "{", '{"global_step": "10"}', '{"unknown": 1}', "[" * 100_000])
def test_a_state_that_is_no_state_is_a_torn_checkpoint(tmp_path, text):
    checkpoint = write(tmp_path, 10)
    (checkpoint / "trainer_state.json").write_text(text)
    poisoned.seal_again(checkpoint)
    assert "checkpoint-10/trainer_state.json " in checkpoints.fault(checkpoint)
    assert checkpoints.newest(tmp_path) is None


def test_one_under_another_name_is_gone_on_from_by_its_name(tmp_path):
    checkpoint = write(tmp_path, 10, name="best")
    assert checkpoints.check(checkpoint, 2, "replicated").step == 10
    assert checkpoints.newest(tmp_path) is None


def test_without_a_whole_one_there_is_none(tmp_path):
    assert checkpoints.newest(tmp_path) is None
    assert checkpoints.newest(tmp_path / "never made") is None
    never_finish(write(tmp_path, 3))
    for name in ("best", "٣", "07", "-1", "1e3", "9" * 200, ""):
        (tmp_path / f"checkpoint-{name}").mkdir()
    assert checkpoints.newest(tmp_path) is None
    (tmp_path / "file").touch()
    assert checkpoints.newest(tmp_path / "file") is None


def test_a_manifest_of_an_earlier_version_is_read(tmp_path, caplog):
    """It has no checksum of its own; step, name and state still have to agree."""
    checkpoint = write(tmp_path, 10)
    rewrite(checkpoint, lambda found: None, crc=False)
    assert checkpoints.newest(tmp_path) == checkpoint
    found = json.loads((checkpoint / "manifest.json").read_text())
    (checkpoint / "manifest.json").write_text(json.dumps({**found, "step": 14}))
    assert checkpoints.newest(tmp_path) is None


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


# --- code in files ---


@pytest.mark.parametrize("callsite", [{}, {"weights_only": True}, {"weights_only": False}])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("switch", ["1", "0", None])
def test_torch_reads_no_code_whatever_the_call_and_the_environment_say(
    tmp_path, monkeypatch, callsite, zipped, switch
):
    marker, file = tmp_path / "marker", tmp_path / "a.pt"
    torch.save({"a": poisoned.Poison(marker)}, file, _use_new_zipfile_serialization=zipped)
    if switch is not None:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", switch)
    with (
        pytest.raises(
            CheckpointError, match=r"shards: it would call (io|_io)\.open, which no check"
        ) as error,
        reading(tmp_path, "shards"),
    ):
        torch.load(file, **callsite)
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)
    assert not marker.exists()
    assert os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD") == switch
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.mark.parametrize(
    "content", [b"", b"x" * 100, b"PK\x03\x04" + bytes(50), pickle.dumps({}), b"\x80\x02"]
)
def test_what_is_no_file_of_torch_is_one_line(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    message = f"{tmp_path} cannot be gone on from: a part: "
    with pytest.raises(CheckpointError, match=message) as error, reading(tmp_path, "a part"):
        torch.load(tmp_path / "a.pt", weights_only=False)
    assert "\n" not in str(error.value)


def test_shards_of_fsdp_are_read_and_their_code_is_not(tmp_path):
    from torch.distributed import checkpoint as dcp

    checkpoint = write(tmp_path, 1, strategy="fsdp")
    folder = checkpoint / "pytorch_model_fsdp_0"
    held = {
        "w": torch.zeros(4, 3),
        "b": torch.zeros(2, dtype=torch.bfloat16),
        "n": 3,
        "deep": {"x": [1, "y"]},
    }
    dcp.save(held, checkpoint_id=folder, no_dist=True)
    poisoned.seal_again(checkpoint)
    checkpoints.check(checkpoint, 2, "fsdp")
    with reading(checkpoint, "weights"):
        dcp.load(held, checkpoint_id=folder, no_dist=True)
    marker = tmp_path / "marker"
    poisoned.plant(folder / ".metadata", marker)
    poisoned.seal_again(checkpoint)
    with pytest.raises(CheckpointError, match=r"fsdp_0/\.metadata: it would call (io|_io)\.open"):
        checkpoints.check(checkpoint, 2, "fsdp")
    assert not marker.exists()

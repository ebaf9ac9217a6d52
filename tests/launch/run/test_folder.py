"""The run folder: what is refused, what is moved, what is never touched."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recrl.envs.storage.sealed import ASIDE, write
from recrl.launch.cluster import launcher, serve
from recrl.launch.config.reading import load
from recrl.launch.config.schema import ConfigError
from recrl.launch.run import pipeline
from recrl.launch.run.folder import ENTRIES, LOCK, MARKER, PREVIOUS, RunFolder, keep_earlier
from recrl.launch.run.progress import Display
from recrl.rl.rollouts.access import KEY, KEY_FILE

CONFIG = load("demo")
ABOUT = {"recrl": "0", "started": "now", "data": None}


class _KilledError(Exception):
    pass


def tree(folder):
    """Every file below a folder with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LOCK
    }


def run_in(folder, word="old"):
    """A folder as a run leaves it."""
    run = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    run.open(CONFIG, ABOUT)
    for name in ("warm", "policy", "checkpoints/checkpoint-3", "plots"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.bin").write_text(word)
    for name in ("metrics.jsonl", "report.md", "evaluation.json"):
        (folder / name).write_text(word)
    return run


def test_a_run_is_set_aside_and_given_back_whole(tmp_path):
    run = run_in(tmp_path / "run")
    (run.path / "my notes.md").write_text("mine")
    (run.path / KEY_FILE).write_text("key")
    before = tree(run.path)
    run.set_aside()
    assert not run.has_run()
    assert {path.name for path in run.path.iterdir()} == {PREVIOUS, "my notes.md", KEY_FILE}
    run.open(CONFIG, ABOUT)
    (run.path / "warm").mkdir()
    (run.path / "warm" / "model.bin").write_text("new")
    assert run.put_back()
    assert tree(run.path) == before
    assert not run.put_back()


def test_a_run_that_was_set_aside_goes_once_the_new_one_has_begun(tmp_path):
    run = run_in(tmp_path / "run")
    (run.path / "my notes.md").write_text("mine")
    run.set_aside()
    run.open(CONFIG, ABOUT)
    run.settle()
    assert set(tree(run.path)) == {MARKER, "config.yaml", "my notes.md"}


def test_half_of_a_run_that_was_being_deleted_is_no_earlier_run(tmp_path, monkeypatch):
    """Killed while it deletes the earlier run: what is there by then is the run, and is kept as one."""
    run = run_in(tmp_path / "run")
    run.set_aside()
    run_in(run.path, "new")
    before = tree(run.path / "policy")

    def killed(path, **options):
        (path / "policy" / "model.bin").unlink()
        raise _KilledError

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(_KilledError):
        run.settle()
    monkeypatch.undo()
    assert not (run.path / PREVIOUS).exists()
    run.set_aside()
    run.open(CONFIG, ABOUT)
    assert run.put_back()
    assert tree(run.path / "policy") == before
    run.sweep()
    assert tree(run.path) == tree(run_in(tmp_path / "other", "new").path)


def test_what_never_proved_itself_does_not_push_the_earlier_run_out(tmp_path):
    run = run_in(tmp_path / "run")
    before = tree(run.path)
    for _ in range(3):  # three replacements that were killed
        run.set_aside()
        run.open(CONFIG, ABOUT)
        (run.path / "warm").mkdir()
    assert run.put_back()
    assert tree(run.path) == before


@pytest.mark.parametrize("moved", [0, 1, 4, 8])
@pytest.mark.parametrize("way", ["aside", "back"])
def test_a_replacement_that_is_killed_while_it_moves_a_run_loses_nothing(tmp_path, monkeypatch, way, moved):
    run = run_in(tmp_path / "run")
    before = tree(run.path)
    if way == "back":
        run.set_aside()
        run.open(CONFIG, ABOUT)
    renames, rename = [], Path.rename

    def killed(path, target):
        renames.append(path)
        if len(renames) > moved:
            raise _KilledError
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(_KilledError):
        run.set_aside() if way == "aside" else run.put_back()
    monkeypatch.undo()
    with run.locked():
        if (run.path / PREVIOUS).exists():  # it was only about to begin
            assert run.put_back()
    assert tree(run.path) == before


@pytest.mark.parametrize("inside", ["", "src", "src/deep"])
def test_the_working_directory_and_its_parents_are_never_replaced(tmp_path, monkeypatch, inside):
    run = run_in(tmp_path)
    (tmp_path / "src" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / inside)
    before = tree(tmp_path)
    for output in (tmp_path, tmp_path / "src" / "..", tmp_path.parent):
        with pytest.raises(ConfigError, match="is never replaced"):
            RunFolder(output).refuse(None, fresh=True)
    run.refuse("auto", fresh=False)  # going on there is no danger
    assert tree(tmp_path) == before


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize(
    "files",
    [
        ["main.py", "README.md"],
        ["config.yaml"],
        ["config.yaml", "main.py"],
        ["config.yaml", "metrics.jsonl", "main.py"],
        [".git/HEAD", "config.yaml"],
        ["policy/model.bin"],
        ["data.parquet"],
        [MARKER],
        [MARKER, "config.yaml"],
        [MARKER, "policy/model.bin", "plots/a.png", "main.py"],
    ],
)
def test_a_folder_of_somebody_else_is_no_run(tmp_path, files, fresh):
    folder = tmp_path / "theirs"
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("theirs")
    before = tree(folder)
    for resume in (None,) if fresh else (None, "auto"):
        with pytest.raises(ConfigError, match="is no run folder; choose another output"):
            RunFolder(folder).refuse(resume, fresh)
    assert tree(folder) == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "recrl"}', "[" * 100_000, '"recrl"'])
def test_a_damaged_marker_is_in_no_runs_way_and_that_of_others_is_none(tmp_path, content):
    run = run_in(tmp_path / "run")
    (run.path / MARKER).write_text(content)
    run.refuse("auto", fresh=False)
    assert run.saved().get("data") is None
    (run.path / "main.py").write_text("theirs")
    with pytest.raises(ConfigError, match=r"holds main\.py and is no run folder"):
        run.refuse(None, fresh=True)


def test_nothing_is_written_into_a_folder_of_somebody_else(tmp_path, monkeypatch):
    """Not even a lock or a key, by any command that works in a run folder."""
    monkeypatch.delenv(KEY, raising=False)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "main.py").write_text("theirs")
    config = load("demo", [f"output={theirs}", "rollout=vllm-server"])
    plan = launcher.Plan(("true",), {"http://127.0.0.1:9": ("true",)}, {}, 1)
    for start in (
        lambda: pipeline.train(config),
        lambda: pipeline.train(config, fresh=True),
        lambda: launcher.start(plan, theirs, Display(), fresh=True),
        lambda: serve.serve(config, host="127.0.0.1", port=8000, exposed=False),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(serve, "_check_vllm", lambda: None)
            with pytest.raises(ConfigError, match=r"holds main\.py and is no run folder"):
                start()
        assert os.listdir(theirs) == ["main.py"]


def test_a_run_of_an_earlier_version_is_known_by_what_it_left(tmp_path):
    run = run_in(tmp_path / "run")
    (run.path / MARKER).unlink()
    (run.path / "stopped").write_text("SIGTERM")
    run.refuse("auto", fresh=False)
    run.refuse(None, fresh=True)
    with pytest.raises(ConfigError, match="holds a run already"):
        run.refuse(None, fresh=False)


def test_a_refused_start_or_a_waiting_server_leaves_the_folder_free(tmp_path):
    run = RunFolder(tmp_path / "run")
    with run.locked():
        run.open(CONFIG, ABOUT)
    (run.path / KEY_FILE).write_text("key")
    run.refuse(None, fresh=False)
    run.refuse("auto", fresh=False)
    assert not run.has_run()


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ConfigError, match="is a file; choose a folder's name"):
        RunFolder(tmp_path / "run").refuse(None, fresh=True)
    assert (tmp_path / "run").read_text() == "mine"


HOLD = """
import sys, time
from pathlib import Path
from recrl.launch.run.folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time_and_a_dead_one_holds_nothing(tmp_path):
    run = RunFolder(tmp_path / "run")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        assert holder.stdout.readline() == "locked\n"
        about = json.loads((run.path / LOCK).read_text())
        with (
            pytest.raises(ConfigError, match=f"in use by process {holder.pid} on {about['host']} since "),
            run.locked(),
        ):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with run.locked():
        assert json.loads((run.path / LOCK).read_text())["pid"] == os.getpid()
    assert (run.path / LOCK).read_text() == ""


def test_signs_of_killed_processes_are_swept_away(tmp_path):
    run = run_in(tmp_path / "run")
    before = tree(run.path)
    for name in (".seen-0123", f".report.md.77{ASIDE}", ".heartbeats/0.json"):
        (run.path / name).parent.mkdir(exist_ok=True)
        (run.path / name).write_text("left")
    run.sweep()
    assert tree(run.path) == before


def test_a_file_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "report.md"
    write(path, "old")
    assert oct(path.stat().st_mode & 0o777) == oct(0o666 & ~os.umask(os.umask(0o022)))
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_every_file_of_a_run_is_known(tmp_path):
    """``ENTRIES`` names all that ``test_run.py`` finds, and nothing that leads out of the folder."""
    assert all("/" not in name and name not in (".", "..") for name in ENTRIES)


def test_an_earlier_report_is_kept_with_its_plots_and_numbers(tmp_path):
    def report(text, when):
        (tmp_path / "plots").mkdir(exist_ok=True)
        for name in ("report.md", "evaluation.json", "plots/training.png"):
            (tmp_path / name).write_text(text)
        os.utime(tmp_path / "report.md", (when, when))

    keep_earlier(tmp_path)
    assert not (tmp_path / "earlier").exists(), "there is none yet"
    for text, when in (("first", 1_700_000_000), ("second", 1_700_000_100)):
        report(text, when)
        keep_earlier(tmp_path)
        keep_earlier(tmp_path)  # of an evaluation that was stopped and begun again
    first, second = sorted((tmp_path / "earlier").iterdir())
    for folder, text in ((first, "first"), (second, "second")):
        assert (folder / "report.md").read_text() == text
        assert (folder / "evaluation.json").read_text() == text
        assert (folder / "plots" / "training.png").read_text() == text
    assert "earlier" in ENTRIES

"""The key of a run's servers, and the folder that weights travel through, against other users."""

import os
import shutil
import stat
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recrl.rl.rollouts.access import KEY, KEY_FILE, server_key
from recrl.rl.rollouts.base import RolloutError
from recrl.rl.rollouts.exchange import EXCHANGE, check_folder, exchanged_file, make_folder, weights_file

NOBODY = 65534
TWO_USERS = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can be somebody else"
)


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv(KEY, raising=False)


@pytest.fixture
def shown():
    """A folder that every user can look into, as /tmp and /dev/shm are."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def as_nobody(*command):
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *map(str, command)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def one_line(error):
    return "\n" not in str(error.value)


def test_a_key_is_made_once_for_its_owner_alone(tmp_path):
    before = os.umask(0)
    try:
        key = server_key(tmp_path / "runs" / "x")
    finally:
        os.umask(before)
    path = tmp_path / "runs" / "x" / KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == key
    assert len(key) >= 40
    assert server_key(path.parent) == key
    assert os.listdir(path.parent) == [KEY_FILE], "something else was left behind"
    assert server_key(tmp_path / "other") != key


def test_whoever_comes_at_the_same_time_gets_the_same_key(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        for i in range(20):
            assert len(set(pool.map(server_key, [tmp_path / str(i)] * 8))) == 1
            assert os.listdir(tmp_path / str(i)) == [KEY_FILE]


@TWO_USERS
def test_another_user_can_neither_read_nor_give_the_key(shown):
    run = shown / "run"
    run.mkdir(mode=0o777)
    run.chmod(0o777)
    server_key(run)
    read = as_nobody("cat", run / KEY_FILE)
    assert (read.returncode, read.stdout) == (1, "")
    (run / KEY_FILE).unlink()
    assert as_nobody("sh", "-c", f"umask 077; echo {'x' * 32} > {run / KEY_FILE}").returncode == 0
    with pytest.raises(RolloutError, match=f"it is a file, user {NOBODY}'s, mode 0600") as error:
        server_key(run)
    assert one_line(error)


def link(path):
    (path.parent / "aside").write_text("x" * 32)
    (path.parent / "aside").chmod(0o600)
    path.symlink_to("aside")


def dangling(path):
    path.symlink_to("nowhere")


def text(content, mode=0o600):
    def write(path):
        path.write_bytes(content)
        path.chmod(mode)

    return write


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (link, "cannot be opened as a key"),
        (dangling, "cannot be opened as a key"),
        (Path.mkdir, "it is a folder"),
        (os.mkfifo, "it is something else"),
        (text(b"x" * 32, 0o640), "mode 0640"),
        (text(b"x" * 32, 0o604), "mode 0604"),
        (text(b"x" * 32, 0o700), "mode 0700"),
        (text(b""), "is empty"),
        (text(b"short"), "has 5 characters"),
        (text(b"x" * 32 + b"\n"), "a line break"),
        (text(b"\xff" * 32), "a header cannot carry"),
        (text(b"x" * 10_000), "too many"),
    ],
)
def test_a_key_file_that_others_may_know_or_that_is_none_is_refused(tmp_path, made, why):
    made(tmp_path / KEY_FILE)
    with pytest.raises(RolloutError, match=why) as error:
        server_key(tmp_path)
    assert one_line(error)
    assert "xxxx" not in str(error.value)


@pytest.mark.parametrize(
    "key", ["", "short", "fifteen-letters", "a blank in the middle", "x" * 20 + "\n", "é" * 20]
)
def test_a_variable_that_holds_no_key_is_refused_and_not_shown(tmp_path, monkeypatch, key):
    monkeypatch.setenv(KEY, key)
    with pytest.raises(RolloutError, match=f"^{KEY} .*openssl rand") as error:
        server_key(tmp_path)
    assert one_line(error)
    assert not key or key not in str(error.value)


def test_the_variable_goes_before_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv(KEY, "a-key-of-twenty-four-chars")
    assert server_key(tmp_path / "run") == "a-key-of-twenty-four-chars"
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RolloutError, match=r"cannot be written \(File exists\)") as error:
        server_key(tmp_path / "file")
    assert one_line(error)


# Folders for weights


def test_a_folder_for_weights_is_its_owners_alone(tmp_path):
    before = os.umask(0)
    try:
        make_folder(tmp_path / "a" / "exchange")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a" / "exchange").stat().st_mode) == 0o700
    make_folder(tmp_path / "a" / "exchange")
    check_folder(tmp_path / "missing")


def readable(path):
    path.mkdir()
    path.chmod(0o755)


def test_one_of_an_earlier_version_that_others_can_only_look_into_goes_on_working(tmp_path):
    readable(tmp_path / "exchange")
    make_folder(tmp_path / "exchange")


def writable(mode):
    def make(path):
        path.mkdir()
        path.chmod(mode)

    return make


def linked(path):
    path.with_name("real").mkdir(mode=0o700)
    path.symlink_to("real")


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (linked, "it is a link"),
        (dangling, "it is a link"),
        (text(b""), "it is a file"),
        (writable(0o770), "mode 0770"),
        (writable(0o702), "mode 0702"),
        (writable(0o1777), "mode 1777"),
    ],
)
def test_a_folder_that_others_can_write_to_is_refused(tmp_path, monkeypatch, made, why):
    path = tmp_path / "exchange"
    made(path)
    monkeypatch.setenv(EXCHANGE, str(path))
    for refused in (make_folder, check_folder, lambda _: exchanged_file("v")):
        with pytest.raises(RolloutError, match=f"^rollout.exchange={path} .*{why}") as error:
            refused(path)
        assert one_line(error)


@TWO_USERS
def test_a_folder_that_another_user_made_first_is_refused(shown):
    assert as_nobody("mkdir", "-m", "700", shown / "exchange").returncode == 0
    with pytest.raises(RolloutError, match=f"it is a folder, user {NOBODY}'s"):
        make_folder(shown / "exchange")


@pytest.mark.parametrize(
    "version",
    ["", ".", "..", "/etc/passwd", "a/b", "../a", "a\0", "a\n", "-a", "é", "a" * 129, 7, None, ["a"]],
)
def test_what_is_no_version_names_no_file(tmp_path, monkeypatch, version):
    monkeypatch.setenv(EXCHANGE, str(tmp_path))
    with pytest.raises(ValueError, match=r"^no version of weights: it must be letters, digits, and"):
        exchanged_file(version)


def test_a_version_is_a_file_of_the_folder_that_is_there(tmp_path, monkeypatch):
    folder = tmp_path / "exchange"
    monkeypatch.setenv(EXCHANGE, str(folder))
    make_folder(folder)
    with pytest.raises(ValueError, match=r"start the server with the rollout\.servers"):
        exchanged_file("0a1b2c3d-40")
    weights_file(folder, "link").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="is not there"):
        exchanged_file("link")
    weights_file(folder, "0a1b2c3d-40").write_text("")
    assert exchanged_file("0a1b2c3d-40") == folder / "weights-0a1b2c3d-40.safetensors"
    monkeypatch.delenv(EXCHANGE)
    with pytest.raises(ValueError, match="was not started with a folder"):
        exchanged_file("0a1b2c3d-40")

"""The key of a run's servers on the command line: who makes it, what keeps it, what is refused at once."""

import pytest

from recrl.launch.cli import main
from recrl.launch.cluster import launcher
from recrl.launch.config.reading import load
from recrl.launch.run import pipeline as run
from recrl.launch.run.folder import MARKER, PREVIOUS, RunFolder
from recrl.launch.run.progress import Display
from recrl.rl.rollouts.access import KEY, KEY_FILE, server_key
from recrl.rl.rollouts.base import RolloutError


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv(KEY, raising=False)


def settings(tmp_path):
    return [f"output={tmp_path / 'run'}", "rollout=vllm-server", f"rollout.exchange={tmp_path / 'exchange'}"]


def refused(capsys, *arguments):
    """The one line that the command ends with."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    return line


def bad_key(tmp_path, monkeypatch):
    monkeypatch.setenv(KEY, "short")
    return f"error: {KEY} has 5 characters, a key needs 16 at least"


def known_key(tmp_path, monkeypatch):
    server_key(tmp_path / "run")
    (tmp_path / "run" / KEY_FILE).chmod(0o644)
    return "must be a file of your own with mode 0600"


def open_folder(tmp_path, monkeypatch):
    (tmp_path / "exchange").mkdir()
    (tmp_path / "exchange").chmod(0o777)
    return f"rollout.exchange={tmp_path / 'exchange'} must be a folder of your own"


@pytest.mark.parametrize("fault", [bad_key, known_key, open_folder])
@pytest.mark.parametrize("command", ["serve", "train"])
def test_a_key_or_folder_that_cannot_be_is_one_line_before_anything_starts(
    tmp_path, monkeypatch, capsys, command, fault
):
    if command == "serve":
        pytest.importorskip("vllm", reason="rollouts on vLLM are optional")
    said = fault(tmp_path, monkeypatch)
    assert said in refused(capsys, command, "demo", *settings(tmp_path))


def test_a_key_alone_is_no_run_and_stays_with_a_fresh_one(tmp_path):
    config = load("demo", settings(tmp_path))
    folder = config.folder
    key = server_key(folder)
    run._open(RunFolder(folder), config, None, False, Display())
    (folder / "warm").mkdir()
    (folder / "metrics.jsonl").write_text("")
    run._open(RunFolder(folder), config, None, True, Display())
    assert {path.name for path in folder.iterdir()} == {MARKER, "config.yaml", PREVIOUS, KEY_FILE}
    assert server_key(folder) == key


def test_the_launcher_has_a_key_before_it_starts_servers_and_keeps_an_earlier_one(tmp_path):
    command = ("cp", str(tmp_path / "run" / KEY_FILE), str(tmp_path / "seen"))
    plan = launcher.Plan(
        command, {"http://127.0.0.1:9": ("true",)}, {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "1"}, 1
    )
    for _ in range(2):
        assert launcher.start(plan, tmp_path / "run", Display(), fresh=True) == 0
        key = server_key(tmp_path / "run")
        assert (tmp_path / "seen").read_text() == key
        (tmp_path / "run" / "config.yaml").write_text("")
        (tmp_path / "run" / "warm").mkdir()
    assert key not in str(plan)


def test_a_fresh_run_that_is_refused_leaves_the_earlier_one(tmp_path, monkeypatch):
    config = load("demo", settings(tmp_path))
    earlier = config.folder / "metrics.jsonl"
    run._open(RunFolder(config.folder), config, None, False, Display())
    earlier.write_text("")
    monkeypatch.setenv(KEY, "short")
    with pytest.raises(RolloutError):
        run._open(RunFolder(config.folder), config, None, True, Display())
    plan = launcher.Plan(("true",), {"http://127.0.0.1:9": ("true",)}, {}, 1)
    with pytest.raises(RolloutError):
        launcher.start(plan, config.folder, Display(), fresh=True)
    assert earlier.exists()


def test_the_launcher_refuses_a_key_before_it_starts_anything(tmp_path, monkeypatch):
    monkeypatch.setenv(KEY, "short")
    plan = launcher.Plan(("touch", str(tmp_path / "started")), {"http://127.0.0.1:9": ("true",)}, {}, 1)
    with pytest.raises(RolloutError, match=KEY):
        launcher.start(plan, tmp_path / "run", Display(), fresh=False)
    assert not (tmp_path / "started").exists()

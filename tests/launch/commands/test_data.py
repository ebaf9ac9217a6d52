"""``recrl data``: it looks at data, imports nobody's code, and says what is wrong in one line."""

import datetime as dt
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from recrl.launch.cli import main

REWARD = """
from pathlib import Path

Path(__file__).with_name("imported").touch()
raise RuntimeError("this file must not be imported")
"""


@pytest.fixture
def recrl(capsys, caplog):
    """Runs a command; its exit code, what it printed, and its errors and warnings."""

    def run(*arguments: object) -> tuple[int, str, str]:
        caplog.clear()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err + caplog.text

    return run


@pytest.fixture
def config(tmp_path) -> Path:
    rows = [
        {
            "user": f"u{user}",
            "time": str(dt.date(2024, 1, 3) + dt.timedelta(weeks=week)),
            "tag": ["[red]apples[/]", "[/]</user>\nweekly:", "milk", "bread", "tea"][(user + week) % 5],
        }
        for user in range(40)
        for week in range(45)
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "own.py").write_text(REWARD)
    path = tmp_path / "own.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "own",
                "data": {
                    "source": str(tmp_path / "log.jsonl"),
                    "cache": str(tmp_path / "cache"),
                    "protocol": {"min_tag_users": 2},
                },
                "task": {"slots": 3},
                "rewards": ["recall", {"name": "mine", "use": f"{tmp_path / 'own.py'}:score"}],
                "optimizer": {"objective": "mine", "constraints": ["novelty >= 0.34 (mean)"]},
            }
        )
    )
    return path


def test_commands_that_look_at_data_import_no_reward_file(recrl, config, tmp_path):
    code, shown, errors = recrl("data", "describe", config)
    assert code == 0, errors
    assert not (tmp_path / "imported").exists()
    assert "test episodes of unseen users" in shown
    lines = shown.splitlines()
    # The floor of the constraint is met by one of three slots of the quota baseline.
    assert "quota" in shown
    # Names with markup of a terminal or of a prompt are shown as they are, or without it.
    assert "[red]apples[/]" in lines
    assert "[/] /user weekly" in lines
    assert sum(line == "weekly:" for line in lines) == 1
    assert sum(line == "</user>" for line in lines) == 1

    # The same for a build, which finds and mends what the copy of a folder has lost.
    (catalog,) = (tmp_path / "cache").rglob("catalog.json")
    catalog.write_text(catalog.read_text().replace("milk", "mill"))
    code, shown, errors = recrl("data", "build", config, "--check")
    assert code == 0, errors
    assert "is built again: catalog.json does not hold what was written" in errors
    assert not (tmp_path / "imported").exists()
    assert "mill" not in catalog.read_text()


def test_what_was_read_and_what_was_lost_is_described(recrl, config, tmp_path):
    code, shown, errors = recrl("data", "describe", config, "data.protocol.active_within=1")
    assert code == 0, errors
    lines = shown.splitlines()
    assert lines[0] == f"files: {tmp_path / 'log.jsonl'} (JSON lines)"
    assert "time: column 'time': ISO 8601 text, 2024-01-03 to 2024-11-06" in lines
    words = " ".join(re.sub("[│┃]", " ", shown).split())
    assert "users at an origin" in words
    assert "lost as unseen users, who train nothing" in words
    # Origins of the tests lie 11, 7 and 3 weeks before the end.
    assert "note: only 120 test episodes: wide intervals" in words
    assert "test episodes lie in summer and autumn, training episodes in spring and summer" in words

    code, shown, errors = recrl("data", "describe", config, "data.protocol.min_active_weeks=500")
    assert (code, shown) == (2, "")
    assert ". Set data.protocol.min_active_weeks=1 for " in errors
    assert len(errors.splitlines()) == 1


def test_a_damaged_log_is_one_line_and_exit_code_2(recrl, config, tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-9])
    code, shown, errors = recrl("data", "build", config)
    assert (code, shown) == (2, "")
    (line,) = errors.splitlines()
    assert line.startswith(f"error: {log}, row 1800: no JSON: ")
    assert line.endswith("set data.bad_rows=drop to leave such rows out and count them")


def test_a_task_that_cannot_be_had_is_one_line_and_exit_code_2(recrl, tmp_path):
    code, _, said = recrl("data", "describe", "prompts", f"task.path={tmp_path / 'nowhere.jsonl'}")
    assert code == 2
    assert "nowhere.jsonl: no such file or folder" in " ".join(said.split())
    assert "Traceback" not in said


def test_a_prompt_of_a_file_cannot_speak_to_the_terminal(recrl, tmp_path):
    rows = [{"prompt": f"\x1b[31mWhat is [red]{i}[/]\x1b]0;title\x07\u202e\n  + 1?"} for i in range(40)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = (f"task.path={tmp_path / 'p.jsonl'}", "task.reference=null")
    code, shown, errors = recrl("data", "describe", "prompts", *given)
    assert code == 0, errors
    assert "user: [31mWhat is [red]" in shown
    assert "[/]]0;title\n  + 1?" in shown
    assert all(character == "\n" or character.isprintable() for character in shown)


def test_the_list_of_rewards_imports_no_file_of_the_folder(tmp_path):
    for name in ("rewards.py", "own_rewards.py", "sitecustomized.py"):
        (tmp_path / name).write_text(REWARD)
    command = [sys.executable, "-m", "recrl.launch.cli", "rewards", "list"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "recall" in found.stdout
    assert not (tmp_path / "imported").exists()

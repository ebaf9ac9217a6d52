"""Whole runs through the command line, small but real.

``finished``  in a process of its own, as a person starts it
``here``      in this process, where that is not the point: it has imported already what takes seconds
"""

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from recrl.launch.cli import main

SMALL = {
    "name": "small",
    "policy": {"tiny": {"hidden": 32, "vocabulary": 400}},
    "warm_start": {"steps": 3, "prompts_per_step": 4, "lists_per_prompt": 2},
    "rewards": ["recall", "novelty", "duplicates", "diversity"],
    "optimizer": {
        "objective": "recall",
        "constraints": ["novelty >= 0.3 (mean)", "duplicates <= 0.03 (mean)"],
    },
    "train": {"steps": 4, "prompts_per_step": 4, "group_size": 4, "save_every": 2},
    "evaluation": {"max_episodes": 24},
}


def recrl(*arguments: str, environment: Mapping[str, str] | None = None, **options) -> subprocess.Popen:
    """A command in a process of its own; ``environment`` goes before the one of the tests."""
    usual = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "recrl.launch.cli", *arguments],
        env={**usual, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def finished(*arguments: str, code: int = 0, environment: Mapping[str, str] | None = None) -> str:
    process = recrl(*arguments, environment=environment)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == code, output[-4000:]
    return output


def here(*arguments: str, code: int = 0) -> str:
    """What a command says; it ends with ``code``, and with a line, not a traceback."""
    said, ended = io.StringIO(), 0
    with redirect_stdout(said), redirect_stderr(said):
        try:
            main(list(arguments))
        except SystemExit as end:
            ended = end.code or 0
    assert ended == code, said.getvalue()[-4000:]
    return said.getvalue()


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

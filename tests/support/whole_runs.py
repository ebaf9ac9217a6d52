"""Whole runs through the command line, small but real.

``here``      in this process: where neither a signal, nor the environment, nor the output's end is the point
``finished``  in a process of its own, to its end
``recrl``     in a process of its own, which gets signals, or is read while it runs
"""

import io
import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO

import forked

from recrl.launch.cli import main

SMALL = {
    "name": "small",
    "policy": {"tiny": {"hidden": 32, "vocabulary": 400}},
    # Of 18,000, whose prompts would be read at every start.
    "task": {"max_train_episodes": 100},
    "warm_start": {"steps": 3, "prompts_per_step": 4, "lists_per_prompt": 2},
    "rewards": ["recall", "novelty", "duplicates", "diversity"],
    "optimizer": {
        "objective": "recall",
        "constraints": ["novelty >= 0.3 (mean)", "duplicates <= 0.03 (mean)"],
    },
    "train": {"steps": 4, "prompts_per_step": 4, "group_size": 4, "save_every": 2},
    # Fitting the ranking that holds the bounds without a language model takes as long as all else.
    "evaluation": {"max_episodes": 24, "hold": "off"},
}


def recrl(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    anew: bool = False,
    log: IO[bytes] | None = None,
) -> subprocess.Popen | forked.Forked:
    """A command in a process of its own.

    Args:
        environment: Variables beside those of the tests.
        anew: Whether Python starts, and TRL is imported, as for a person; else the process is forked from
            one that has imported it. Elsewhere than on Linux all start anew.
        log: File that takes what it says, in place of ``stdout``.
    """
    if not anew and sys.platform == "linux":
        return forked.start(arguments, environment or {}, log)
    return subprocess.Popen(
        [sys.executable, "-m", "recrl.launch.cli", *arguments],
        env={**forked.ENVIRONMENT, **(environment or {})},
        stdout=log or subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(
    *arguments: str, code: int = 0, environment: Mapping[str, str] | None = None, anew: bool = False
) -> str:
    """What a command says in a process of its own, see :func:`recrl`; it ends with ``code``."""
    process = recrl(*arguments, environment=environment, anew=anew)
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

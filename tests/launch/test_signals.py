"""Signals that come when a command has ended."""

import subprocess
import sys

import pytest

ENDING = """
import atexit, os, signal, sys
from recrl.launch.cli import main
atexit.register(os.kill, os.getpid(), signal.SIGTERM)
sys.argv = ["recrl", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["train", "no-such-file.yaml"], 2)])
def test_a_signal_while_python_ends_does_not_replace_the_exit_code(arguments, code, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ENDING, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr[-2000:]

"""Harmless warnings are kept back by their words; others of the same libraries are not."""

import logging
import os
import subprocess
import sys

import pytest

from recrl.launch.alarms import _LOGGED, keep_back


@pytest.mark.parametrize(("name", "words"), list(_LOGGED.items()))
def test_what_says_nothing_of_the_run_is_kept_back_and_all_else_is_heard(name, words, caplog):
    logger = logging.getLogger(name)
    before = logger.filters[:]
    keep_back()
    handler = logging.Handler()
    heard = []
    handler.emit = lambda record: heard.append(record.getMessage())
    logger.addHandler(handler)
    try:
        logger.warning("%s and more", words)
        logger.warning("There were missing keys in the checkpoint model loaded: ['model.norm.weight'].")
    finally:
        logger.removeHandler(handler)
        logger.filters[:] = before
    assert heard == ["There were missing keys in the checkpoint model loaded: ['model.norm.weight']."]


LOADING = """
import sys
from recrl.launch.alarms import keep_back
keep_back()
from transformers.utils import logging
print(*logging.tqdm(range(3), desc="Loading weights"))
"""


def test_a_bar_does_not_fill_a_file():
    found = subprocess.run([sys.executable, "-c", LOADING], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["0", "1", "2"]
    assert "Loading weights" not in found.stderr
    wanted = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "0"}
    found = subprocess.run([sys.executable, "-c", LOADING], capture_output=True, text=True, env=wanted)
    assert "Loading weights" in found.stderr, "whoever asks for bars has them"

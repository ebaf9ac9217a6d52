"""Harmless warnings are kept back by their words; others of the same libraries are not."""

import logging

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

"""Rewards that tell who called them, for processes that find them by their file."""

import os


def process(completions):
    """The process, as a score below 1."""
    return [os.getpid() / 1e7] * len(completions)


def by_group(completions):
    """The size of the call."""
    return [len(completions) / 100] * len(completions)


def reads(completions, week, catalog, depth):
    return [(w + len(catalog) + depth) / 100 for w in week]


def raises(completions):
    raise KeyError("in the worker")


def sleeps_once(completions):
    """Hangs on a batch that says so."""
    import time

    if "hang" in completions:
        time.sleep(60)
    return process(completions)

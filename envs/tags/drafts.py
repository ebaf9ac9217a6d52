"""Answers without a policy: lists that a half-trained one could write, to try rewards on real episodes."""

import numpy as np
import polars as pl

from ..data.prepared import TagTask
from . import baselines

# A line that names no tag of any catalogue.
NO_TAG = "something nobody sells 0"

# What answers also look like, early in training; every reward has to bear them.
AWKWARD = (
    "",
    "\n\n\n",
    NO_TAG,
    "I am sorry, I cannot help with that.",
    "1. 2. 3.",
    "汉字，絵文字 🛒 ünïcödé",
    "word " * 2000,
    '{"tags": ["milk"]}',
)


def lists(task: TagTask, episodes: pl.DataFrame, slots: int, copies: int, seed: int = 0) -> list[str]:
    """``copies`` lists for each episode, one tag a line, an episode's next to each other.

    They are drawn around the household's own frequency and the popularity of the last weeks, from nearly
    greedy to nearly random; some are short or long, repeat a tag, or hold a line that names none.

    Args:
        episodes: Rows of :func:`recrl.envs.data.episodes.build`.
        slots: Length of a list that was asked for.
    """
    random = np.random.default_rng(seed)
    own = np.log1p(baselines.own_frequency(task, episodes))
    popular = np.log1p(baselines.popularity(task, episodes))
    scores = own / own.max(axis=1, keepdims=True) + 0.5 * popular / popular.max(axis=1, keepdims=True)
    found = []
    for liked in scores:
        for temperature in np.geomspace(0.03, 1.0, copies):
            length = slots + (int(random.integers(-2, 3)) if random.random() < 0.4 else 0)
            drawn = liked / temperature + random.gumbel(size=len(liked))
            lines = [task.catalog.tags[tag] for tag in np.argsort(-drawn)[: max(1, length)]]
            if random.random() < 0.2:
                lines[int(random.integers(len(lines)))] = NO_TAG
            if random.random() < 0.2:
                lines[-1] = lines[0]
            found.append("\n".join(lines))
    return found

"""Answers without a policy: lists that a half-trained one could write, to try rewards on real episodes."""

from collections.abc import Sequence

import numpy as np

from ..data.prepared import Data
from ..task import Row
from . import baselines

# A line that names no tag of any catalogue.
NO_TAG = "something nobody sells 0"


def lists(data: Data, rows: Sequence[Row], slots: int, copies: int, seed: int = 0) -> list[str]:
    """``copies`` lists for each row, one tag a line, a row's next to each other.

    They are drawn around the household's own frequency and the popularity of the last weeks, from nearly
    greedy to nearly random; some are short or long, repeat a tag, or hold a line that names none.

    Args:
        slots: Length of a list that was asked for.
    """
    random = np.random.default_rng(seed)
    own = np.log1p(baselines.own_frequency(data, rows))
    popular = np.log1p(baselines.popularity(data, rows))
    scores = own / own.max(axis=1, keepdims=True) + 0.5 * popular / popular.max(axis=1, keepdims=True)
    found = []
    for liked in scores:
        for temperature in np.geomspace(0.03, 1.0, copies):
            length = slots + (int(random.integers(-2, 3)) if random.random() < 0.4 else 0)
            drawn = liked / temperature + random.gumbel(size=len(liked))
            lines = [data.catalog.tags[tag] for tag in np.argsort(-drawn)[: max(1, length)]]
            if random.random() < 0.2:
                lines[int(random.integers(len(lines)))] = NO_TAG
            if random.random() < 0.2:
                lines[-1] = lines[0]
            found.append("\n".join(lines))
    return found

"""Baselines that stand beside every policy: random, popularity, own frequency, recency-weighted, EASE, quota.

A baseline scores every tag for every episode from what was known at the origin; learned parts see training
users and weeks before ``statistics_end`` only. ``quota`` is the best simple policy under a novelty floor: own
frequency, but the most popular tags not bought lately take as many of its slots as the floor asks for.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..data.panel import IntArray, top
from ..data.panel import rows as rows_of
from ..data.prepared import Data
from ..task import Row

Scores = npt.NDArray[np.float32]

EASE_REGULARISATION = 500.0
RECENCY_DECAY = 0.97


def _by_origin(
    score: Callable[[Data, int, IntArray], Scores],
) -> Callable[[Data, Sequence[Row]], Scores]:
    """Lift a function of (data, origin, user indices) to rows with several origins."""

    def scorer(data: Data, rows: Sequence[Row]) -> Scores:
        origins, users = (np.array([row[name] for row in rows], dtype=int) for name in ("origin", "user"))
        scores = np.empty((len(users), len(data.catalog)), np.float32)
        for origin in np.unique(origins):
            chosen = origins == origin
            scores[chosen] = score(data, int(origin), users[chosen])
        return scores

    scorer.__doc__ = score.__doc__
    return scorer


@_by_origin
def popularity(data: Data, origin: int, users: IntArray) -> Scores:
    """Number of distinct training users who bought the tag in the last 8 weeks."""
    return np.broadcast_to(data.panel.popularity(origin), (len(users), data.panel.n_tags))


@_by_origin
def own_frequency(data: Data, origin: int, users: IntArray) -> Scores:
    """Number of weeks in which the user bought the tag; ties by popularity."""
    counts = rows_of(data.panel.counts(0, origin), users)
    return counts + _tie_break(data, origin)


@_by_origin
def recency(data: Data, origin: int, users: IntArray) -> Scores:
    """Weeks in which the user bought the tag, each weighted by 0.97 to the power of its age.

    Ties go by popularity.
    """
    panel = data.panel
    before = panel.week < origin
    weight = RECENCY_DECAY ** (origin - 1 - panel.week[before]).astype(np.float32)
    scores = np.zeros((len(panel.users), panel.n_tags), np.float32)
    np.add.at(scores, (panel.user[before], panel.tag[before]), weight)
    return scores[users] + _tie_break(data, origin)


@_by_origin
def ease(data: Data, origin: int, users: IntArray) -> Scores:
    """EASE (Steck 2019, arXiv 1905.03375) on bought / not bought.

    It is fitted on training users before ``statistics_end``.
    """
    end = data.protocol.statistics_end
    assert end is not None
    history = rows_of(data.panel.counts(0, origin), users) > 0
    return (history @ ease_weights(data, end)).astype(np.float32)


def ease_weights(data: Data, end: int) -> npt.NDArray[np.floating]:
    """Item-item weights of EASE, ``[tags, tags]``, from purchases of training users before week ``end``."""
    seen = (data.panel.counts(0, end, training_users=True) > 0).astype(np.float64)
    gram = np.asarray((seen.T @ seen).todense())
    gram[np.diag_indices_from(gram)] += EASE_REGULARISATION
    precision = np.linalg.inv(gram)
    weights = -precision / np.diag(precision)
    np.fill_diagonal(weights, 0.0)
    return weights


def random(data: Data, rows: Sequence[Row]) -> Scores:
    """Uniform noise, the same for the same number of rows."""
    return np.random.default_rng(0).random((len(rows), len(data.catalog)), np.float32)


Scorer = Callable[[Data, Sequence[Row]], Scores]

SCORERS: dict[str, Scorer] = {
    "random": random,
    "popularity": popularity,
    "own frequency": own_frequency,
    "recency": recency,
    "EASE": ease,
}


def member_mask(rows: Sequence[Row], column: str, n_tags: int) -> npt.NDArray[np.bool_]:
    """``[rows, tags]``: true where a tag is in the list that the row has in a column."""
    mask = np.zeros((len(rows), n_tags), bool)
    for members, row in zip(mask, rows, strict=True):
        members[row[column]] = True
    return mask


def quota(data: Data, rows: Sequence[Row], k: int, novelty: float) -> IntArray:
    """Frequent tags of the lookback, and outside it the most popular tags for ``ceil(novelty * k)`` slots.

    Args:
        novelty: The floor on the share of novel tags, 0 to 1.

    Returns:
        ``[rows, k]`` tag ids, the frequent ones first.
    """
    n_novel = min(k, math.ceil(novelty * k - 1e-9))
    recent = member_mask(rows, "lookback", len(data.catalog))
    frequent = top(np.where(recent, own_frequency(data, rows), -1.0), k - n_novel)
    taken = recent.copy()
    taken[np.arange(len(frequent))[:, None], frequent] = True
    return np.concatenate([frequent, top(popularity(data, rows), n_novel, taken)], axis=1)


def lists(
    data: Data, k: int, novelty_floor: float, more: Mapping[str, Scorer] | None = None
) -> dict[str, Callable[[Sequence[Row]], IntArray]]:
    """Every baseline by name: rows -> ``[rows, k]`` tag ids, best first, -1 for an empty slot.

    Where no target holds tags of the history (``protocol.repeats``), no baseline shows any, and ``quota`` is
    popularity: there is nothing frequent to show. A list is shorter where too few others are left.

    Args:
        more: Further scorers by name.
    """

    def mask(rows: Sequence[Row]) -> npt.NDArray[np.bool_] | None:
        """Tags that no target can hold."""
        return None if data.protocol.repeats else member_mask(rows, "history", len(data.catalog))

    def ranked(score: Scorer) -> Callable[[Sequence[Row]], IntArray]:
        def best(rows: Sequence[Row]) -> IntArray:
            barred = mask(rows)
            tags = top(score(data, rows), k, barred)
            if barred is not None:
                tags[np.take_along_axis(barred, tags, axis=1)] = -1
            return tags

        return best

    found = {name: ranked(score) for name, score in {**SCORERS, **(more or {})}.items()}
    if not data.protocol.repeats:
        return {**found, "quota": found["popularity"]}
    return {**found, "quota": lambda rows: quota(data, rows, k, novelty_floor)}


def _tie_break(data: Data, origin: int) -> npt.NDArray[np.float32]:
    # Below the smallest difference between two counts, above float32 resolution at a count of 50.
    popular = data.panel.popularity(origin)
    return popular * np.float32(1e-3 / max(1.0, float(popular.max())))

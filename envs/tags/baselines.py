"""Baselines that stand beside every policy: random, popularity, own frequency, recency-weighted, EASE, quota.

A baseline scores every tag for every episode from what was known at the origin; learned parts see training
users and weeks before ``statistics_end`` only. ``quota`` is the best simple policy under a novelty floor:
own frequency, with as many of its slots as the floor asks for given to the most popular tags not bought
lately.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl

from ..data.panel import POPULARITY_WEEKS, IntArray, rows, top
from ..data.prepared import TagTask

Scores = npt.NDArray[np.float32]

EASE_REGULARISATION = 500.0
RECENCY_DECAY = 0.97


def _by_origin(
    score: Callable[[TagTask, int, IntArray], Scores],
) -> Callable[[TagTask, pl.DataFrame], Scores]:
    """Lift a function of (task, origin, user indices) to a table of episodes with several origins."""

    def scorer(task: TagTask, episodes: pl.DataFrame) -> Scores:
        origins, users = episodes["origin"].to_numpy(), episodes["user"].to_numpy()
        scores = np.empty((len(users), len(task.catalog)), np.float32)
        for origin in np.unique(origins):
            chosen = origins == origin
            scores[chosen] = score(task, int(origin), users[chosen])
        return scores

    scorer.__doc__ = score.__doc__
    return scorer


@_by_origin
def popularity(task: TagTask, origin: int, users: IntArray) -> Scores:
    """Number of distinct training users who bought the tag in the last 8 weeks."""
    return np.broadcast_to(task.panel.popularity(origin, POPULARITY_WEEKS), (len(users), task.panel.n_tags))


@_by_origin
def own_frequency(task: TagTask, origin: int, users: IntArray) -> Scores:
    """Number of weeks in which the user bought the tag; ties by popularity."""
    counts = rows(task.panel.counts(0, origin), users)
    return counts + _tie_break(task, origin)


@_by_origin
def recency(task: TagTask, origin: int, users: IntArray) -> Scores:
    """Weeks in which the user bought the tag, each weighted by 0.97 to the power of its age.

    Ties go by popularity.
    """
    panel = task.panel
    before = panel.week < origin
    weight = RECENCY_DECAY ** (origin - 1 - panel.week[before]).astype(np.float32)
    scores = np.zeros((len(panel.users), panel.n_tags), np.float32)
    np.add.at(scores, (panel.user[before], panel.tag[before]), weight)
    return scores[users] + _tie_break(task, origin)


@_by_origin
def ease(task: TagTask, origin: int, users: IntArray) -> Scores:
    """EASE (Steck 2019, arXiv 1905.03375) on bought / not bought.

    It is fitted on training users before ``statistics_end``.
    """
    end = task.protocol.statistics_end
    assert end is not None
    seen = (task.panel.counts(0, end, training_users=True) > 0).astype(np.float64)
    gram = np.asarray((seen.T @ seen).todense())
    gram[np.diag_indices_from(gram)] += EASE_REGULARISATION
    precision = np.linalg.inv(gram)
    weights = -precision / np.diag(precision)
    np.fill_diagonal(weights, 0.0)
    history = rows(task.panel.counts(0, origin), users) > 0
    return (history @ weights).astype(np.float32)


def random(task: TagTask, episodes: pl.DataFrame) -> Scores:
    """Uniform noise, the same for the same episodes."""
    return np.random.default_rng(0).random((episodes.height, len(task.catalog)), np.float32)


SCORERS: dict[str, Callable[[TagTask, pl.DataFrame], Scores]] = {
    "random": random,
    "popularity": popularity,
    "own frequency": own_frequency,
    "recency": recency,
    "EASE": ease,
}


def member_mask(tag_lists: pl.Series, n_tags: int) -> npt.NDArray[np.bool_]:
    """``[episodes, tags]``: true where a tag is in the episode's list."""
    lengths = tag_lists.list.len().to_numpy()
    mask = np.zeros((len(lengths), n_tags), bool)
    mask[np.repeat(np.arange(len(lengths)), lengths), tag_lists.explode().drop_nulls().to_numpy()] = True
    return mask


def quota(task: TagTask, episodes: pl.DataFrame, k: int, novelty: float) -> IntArray:
    """Frequent tags of the lookback, and outside it the most popular tags for ``ceil(novelty * k)`` slots.

    Args:
        novelty: The floor on the share of novel tags, 0 to 1.

    Returns:
        ``[episodes, k]`` tag ids, the frequent ones first.
    """
    n_novel = min(k, math.ceil(novelty * k - 1e-9))
    recent = member_mask(episodes["lookback"], len(task.catalog))
    frequent = top(np.where(recent, own_frequency(task, episodes), -1.0), k - n_novel)
    taken = recent.copy()
    taken[np.arange(len(frequent))[:, None], frequent] = True
    return np.concatenate([frequent, top(popularity(task, episodes), n_novel, taken)], axis=1)


def lists(task: TagTask, episodes: pl.DataFrame, k: int, novelty_floor: float) -> dict[str, IntArray]:
    """The answer of every baseline, ``[episodes, k]`` tag ids, best first."""
    found = {name: top(score(task, episodes), k) for name, score in SCORERS.items()}
    return {**found, "quota": quota(task, episodes, k, novelty_floor)}


def _tie_break(task: TagTask, origin: int) -> npt.NDArray[np.float32]:
    # Below the smallest difference between two counts, above float32 resolution at a count of 50.
    popular = task.panel.popularity(origin, POPULARITY_WEEKS)
    return popular * np.float32(1e-3 / max(1.0, float(popular.max())))

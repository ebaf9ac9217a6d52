"""What a test measures: weeks of an arm as figures of each shopper.

``METRICS``  name -> what it is
``lived``    the figures of every shopper after some weeks of an arm
"""

import numpy as np
import numpy.typing as npt

from ..data.prepared import Data
from ..statistics import Values, ratio
from ..tags.task import Tags
from .arms import Arm, Moment
from .histories import Bools
from .world import Slates, World, first_time

METRICS = {
    "CTR": "clicks per slot of the lists that were opened",
    "IPV": "item page views: clicks a week",
    "TV": "transaction volume: tags bought a week, recommended or not",
    "NER": "novelty exposure rate: share of shown tags not bought in the look-back",
    "coverage": "different tags shown to a shopper, as a share of the catalogue",
    "diversity": "mean pairwise 1 - cosine of the tags of a list, as vectors of who buys them",
    "repeat share": "share of purchases that the look-back holds already",
    "four-week return": "whether the shopper comes in the last four weeks",
}

RETURN = 4
"""Weeks at the end of a test in which a shopper has to come to have returned."""

Vectors = npt.NDArray[np.float32]


def lived(
    arm: Arm,
    world: World,
    task: Tags,
    vectors: Vectors,
    *,
    weeks: int,
    refresh: int,
    first: Slates | None = None,
) -> Values:
    """Live some weeks under an arm's lists.

    Args:
        vectors: ``[tags, dimensions]`` unit vectors.
        refresh: Weeks after which lists are made anew.
        first: Lists of the first week, where they are known.

    Returns:
        ``[shoppers, metrics]`` in the order of :data:`METRICS`; NaN where undefined.
    """
    histories = world.histories
    start, baskets = histories.week, list[Bools]()
    count, n_tags = histories.weeks.shape
    clicks, slots, volume, repeats, varied = (np.zeros(count) for _ in range(5))
    novel, shown, back = np.zeros(count), np.zeros(count), np.zeros(count, bool)
    ever = np.zeros((count, n_tags), bool)
    slates = first
    for number in range(weeks):
        if slates is None or (number and number % refresh == 0):
            slates = arm.lists(Moment(task, histories, start, baskets))
        listed = first_time(slates)
        rows, places = np.nonzero(listed)
        tags = slates[rows, places]
        ever[rows, tags] = True
        new = histories.novel(world.lookback)
        shown += listed.sum(axis=1)
        novel += np.bincount(rows, new[rows, tags], count)
        varied += diversity(slates, listed, vectors)
        week = world.step(slates)
        clicks += week.clicked.sum(axis=1)
        slots += week.opened * listed.sum(axis=1)
        volume += week.bought.sum(axis=1)
        repeats += (week.bought & ~new).sum(axis=1)
        if number >= weeks - RETURN:
            back |= week.bought.any(axis=1)
        baskets.append(week.bought)
    columns = (
        ratio(clicks, slots),
        clicks / weeks,
        volume / weeks,
        ratio(novel, shown),
        ever.mean(axis=1),
        varied / weeks,
        ratio(repeats, volume),
        back.astype(float),
    )
    return np.stack(columns, axis=1)


def item_vectors(data: Data, dimensions: int = 32) -> Vectors:
    """``[tags, dimensions]`` unit vectors by who buys a tag, of training users before ``statistics_end``."""
    end = data.protocol.statistics_end
    assert end is not None
    counts = np.log1p(np.asarray(data.panel.counts(0, end, training_users=True).todense()))
    _, scales, axes = np.linalg.svd(counts - counts.mean(axis=0), full_matrices=False)
    found = axes[:dimensions].T * scales[:dimensions]
    return (found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def diversity(slates: Slates, listed: Bools, vectors: Vectors) -> Values:
    """``[shoppers]``: mean pairwise 1 - cosine of the listed tags; 0 for fewer than two."""
    total = (vectors[np.maximum(slates, 0)] * listed[:, :, None]).sum(axis=1)
    sizes = listed.sum(axis=1)
    pairs = sizes * (sizes - 1)
    cosine = (np.square(total).sum(axis=1) - sizes) / np.maximum(pairs, 1)
    return np.where(pairs > 0, 1.0 - cosine, 0.0)

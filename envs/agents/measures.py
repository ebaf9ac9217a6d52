"""What the lists of several routes are worth together, by household.

Routes are experts, or whoever answers beside others: ``[households, routes, slots]`` tag ids, -1 for an empty
slot.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..statistics import Values, ratio
from ..tags.baselines import member_mask
from ..task import Row

Routes = npt.NDArray[np.int32]


def routes(lists: Sequence[Sequence[Sequence[int]]], count: int, slots: int) -> Routes:
    """Lists of households' routes, filled up with -1 to ``[households, count, slots]``."""
    found = np.full((len(lists), count, slots), -1, np.int32)
    for row, of in zip(found, lists, strict=True):
        for route, tags in zip(row, of, strict=False):
            route[: len(tags)] = tags
    return found


def union(found: Routes, options: int) -> npt.NDArray[np.int32]:
    """``[households, options]``: number of routes that name each option."""
    mask = np.zeros((len(found), found.shape[1], options), bool)
    row, route, slot = np.nonzero(found >= 0)
    mask[row, route, found[row, route, slot]] = True
    return mask.sum(axis=1).astype(np.int32)


def together(rows: Sequence[Row], found: Routes, options: int) -> dict[str, Values]:
    """Measures of the routes' union.

    Returns:
        Name -> ``[households]``: ``duplicate work`` (share of the named tags that another route names too,
        counted once for each further time), ``union recall``, ``union recall novel`` (of targets outside the
        look-back), ``exclusive recall`` (share of the targets that one route finds and no other, a mean over
        the routes) and ``tags`` (different ones).
    """
    named = union(found, options)
    target, lately = (member_mask(rows, name, options) for name in ("target", "lookback"))
    novel, shown = target & ~lately, named > 0
    return {
        "duplicate work": ratio(named.sum(axis=1) - shown.sum(axis=1), named.sum(axis=1)),
        "union recall": ratio((shown & target).sum(axis=1), target.sum(axis=1)),
        "union recall novel": ratio((shown & novel).sum(axis=1), novel.sum(axis=1)),
        "exclusive recall": ratio(((named == 1) & target).sum(axis=1) / found.shape[1], target.sum(axis=1)),
        "tags": shown.sum(axis=1).astype(float),
    }

"""Goods that go with an item: what is bought together more often than by chance."""

import numpy as np
from scipy import sparse

from ..data.prepared import Data

# Goods that go with one item, and baskets that must hold both.
_MOST, _TOGETHER = 5, 30


def companions(data: Data) -> list[list[int]]:
    """For each tag those that training users buy in the same week more often than by chance, best first."""
    panel, end = data.panel, data.protocol.statistics_end
    assert end is not None, "prepared data have their protocol filled in"
    known = (panel.week < end) & ~panel.unseen[panel.user]
    keys = panel.user[known].astype(np.int64) * (int(panel.week.max()) + 1) + panel.week[known]
    baskets = np.unique(keys, return_inverse=True)[1]
    held = sparse.csr_matrix((np.ones(len(keys), np.float32), (baskets, panel.tag[known])))
    held.resize(held.shape[0], panel.n_tags)
    together = np.asarray((held.T @ held).todense())
    alone = np.maximum(together.diagonal(), 1)
    lift = np.where(together >= _TOGETHER, together * held.shape[0] / np.outer(alone, alone), 0.0)
    same = np.array(data.catalog.equivalence_class)
    lift[same[:, None] == same[None, :]] = 0.0
    ranked = np.argsort(-lift, axis=1, kind="stable")[:, :_MOST]
    return [[int(tag) for tag in tags if lift[item, tag] > 1] for item, tags in enumerate(ranked)]

"""Metrics of tag lists, with bootstrap confidence intervals over users and paired differences.

An answer is a row of ``K`` slots: tag ids, ``INVALID`` (-1) for a string that is no tag, or ``MISSING`` (-2)
behind the end of a shorter list. A repeat or an invalid string uses its slot up. Per-episode values are NaN
where a metric is undefined (an empty slice); such episodes are left out of the mean and counted.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..catalog import Catalog, ParsedAnswer
from ..data.prepared import Data
from ..statistics import Values, ratio
from ..task import Row
from .baselines import member_mask

MISSING = -2


def to_slots(answers: Sequence[ParsedAnswer], k: int) -> npt.NDArray[np.int32]:
    """``[answers, k]`` slots of parsed answers, cut or filled up with ``MISSING`` to ``k``."""
    slots = np.full((len(answers), k), MISSING, np.int32)
    for row, answer in zip(slots, answers, strict=True):
        row[: len(answer.slots)] = answer.slots[:k]
    return slots


def first_occurrences(slots: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """``[episodes, k]``: true where a slot holds a valid tag that no earlier slot of the row holds."""
    repeated = (slots[:, :, None] == slots[:, None, :]) & np.tri(slots.shape[1], k=-1, dtype=bool)
    return (slots >= 0) & ~repeated.any(axis=2)


def per_episode(
    data: Data,
    rows: Sequence[Row],
    slots: npt.NDArray[np.int32],
    embeddings: npt.NDArray[np.float32] | None = None,
    cutoffs: Sequence[int] = (),
) -> dict[str, Values]:
    """Every metric of every episode.

    Args:
        data: Data that the rows are from.
        rows: Rows that were answered.
        slots: ``[episodes, K]`` answers.
        embeddings: ``[tags, d]`` unit vectors for the intra-list diversity; left out without them.
        cutoffs: Lengths k < K of the lists' beginnings.

    Returns:
        Metric name -> ``[episodes]``: ``hit@K``, ``recall@K``, ``precision@K``, ``ndcg@K``, for each k of the
        cutoffs ``hit@k``, ``recall@k`` and ``ndcg@k``,
        ``recall@K repeat`` (targets in the lookback), ``recall@K novel`` (targets outside it),
        ``recall@K calendar`` (targets that surge in the window), ``recall@K equivalent`` (an equivalent tag
        counts as a hit), ``novelty`` (share of shown tags outside the lookback), ``novel precision`` (hits
        among those), ``validity`` and ``duplicates`` (shares of the slots that are used; 0 without any) and
        ``diversity`` (mean pairwise 1 - cosine).
    """
    k = slots.shape[1]
    n_tags = len(data.catalog)
    target = member_mask(rows, "target", n_tags)
    recent = member_mask(rows, "lookback", n_tags)
    surging = np.zeros_like(target)
    origins = np.array([row["origin"] for row in rows], dtype=int)
    for origin, tags in data.surges.items():
        surging[np.ix_(origins == origin, list(tags))] = True
    shown = first_occurrences(slots)
    safe = np.where(shown, slots, 0)

    def at_slots(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        return np.take_along_axis(mask, safe, axis=1) & shown

    def recall(of: npt.NDArray[np.bool_]) -> Values:
        return ratio(at_slots(of).sum(axis=1), of.sum(axis=1))

    hits = at_slots(target)
    n_shown, n_used = shown.sum(axis=1), (slots != MISSING).sum(axis=1)
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    sizes = target.sum(axis=1)

    def at(length: int) -> dict[str, Values]:
        """Hit, recall and nDCG of the lists' beginnings."""
        ideal = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(length, sizes)]
        return {
            f"hit@{length}": hits[:, :length].any(axis=1).astype(float),
            f"recall@{length}": ratio(hits[:, :length].sum(axis=1), sizes),
            f"ndcg@{length}": ratio(hits[:, :length] @ discount[:length], ideal),
        }

    whole = at(k)
    novel_shown = shown & ~at_slots(recent)
    values = {
        f"hit@{k}": whole[f"hit@{k}"],
        f"recall@{k}": whole[f"recall@{k}"],
        f"precision@{k}": hits.sum(axis=1) / k,
        f"ndcg@{k}": whole[f"ndcg@{k}"],
        **{name: found for length in sorted(cutoffs) for name, found in at(length).items()},
        f"recall@{k} repeat": recall(target & recent),
        f"recall@{k} novel": recall(target & ~recent),
        f"recall@{k} calendar": recall(target & surging),
        f"recall@{k} equivalent": _recall_with_equivalents(data.catalog, target, slots, shown),
        "novelty": np.where(n_shown > 0, novel_shown.sum(axis=1) / np.maximum(n_shown, 1), 0.0),
        "novel precision": ratio((hits & novel_shown).sum(axis=1), novel_shown.sum(axis=1)),
        "validity": (slots >= 0).sum(axis=1) / np.maximum(n_used, 1),
        "duplicates": ((slots >= 0) & ~shown).sum(axis=1) / np.maximum(n_used, 1),
    }
    if embeddings is not None:
        vectors = embeddings[safe] * shown[:, :, None]
        # The pairwise sum is |sum of vectors|^2 less the n unit diagonals.
        pairs = n_shown * (n_shown - 1)
        cosine = (np.square(vectors.sum(axis=1)).sum(axis=1) - n_shown) / np.maximum(pairs, 1)
        values["diversity"] = np.where(pairs > 0, 1.0 - cosine, 0.0)
    return values


def exposure(slots: npt.NDArray[np.int32], n_tags: int) -> dict[str, float]:
    """Spread over the catalogue: ``coverage`` (share of tags ever shown), ``entropy`` (nats), ``gini``."""
    counts = np.sort(np.bincount(slots[first_occurrences(slots)], minlength=n_tags)).astype(float)
    share = counts / max(counts.sum(), 1.0)
    positive = share[share > 0]
    gini = float((2 * np.arange(1, n_tags + 1) - n_tags - 1) @ share) / n_tags
    return {
        "coverage": float((counts > 0).mean()),
        "entropy": float(-(positive * np.log(positive)).sum()),
        "gini": gini,
    }


def exclusive_recall(
    target: npt.NDArray[np.bool_], routes: Mapping[str, npt.NDArray[np.int32]]
) -> dict[str, Values]:
    """Per route, the share of each episode's targets that it retrieves and no other route does.

    Args:
        target: ``[episodes, tags]``.
        routes: Route name -> ``[episodes, K]`` slots.
    """
    found = {}
    for name, slots in routes.items():
        mask = np.zeros_like(target)
        row, column = np.nonzero(slots >= 0)
        mask[row, slots[row, column]] = True
        found[name] = mask & target
    total = np.sum([mask.astype(int) for mask in found.values()], axis=0)
    return {
        name: ratio((mask & (total == 1)).sum(axis=1), target.sum(axis=1)) for name, mask in found.items()
    }


def _recall_with_equivalents(
    catalog: Catalog,
    target: npt.NDArray[np.bool_],
    slots: npt.NDArray[np.int32],
    shown: npt.NDArray[np.bool_],
) -> Values:
    # Each shown tag may meet one target of its class, each target is met once: min(shown, targets) a class.
    classes = np.asarray(catalog.equivalence_class)
    targets_of = np.zeros(target.shape, np.int32)
    shown_of = np.zeros(target.shape, np.int32)
    row, tag = np.nonzero(target)
    np.add.at(targets_of, (row, classes[tag]), 1)
    row, slot = np.nonzero(shown)
    np.add.at(shown_of, (row, classes[slots[row, slot]]), 1)
    return ratio(np.minimum(targets_of, shown_of).sum(axis=1), target.sum(axis=1))

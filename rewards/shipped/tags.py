"""Rewards of a list of item tags.

accuracy       ``recall``, ``novel_recall``, ``ndcg``, ``hit``
what is shown  ``novelty``, ``diversity``, ``alignment``, ``calendar_fit``
how it reads   ``length``, ``tag_length``, ``validity``, ``duplicates``

``recall``, ``novel_recall`` and ``ndcg`` add up over the tags, ``novelty``, ``calendar_fit``, ``tag_length``,
``validity`` and ``duplicates`` are means over them: all can be credited to each tag. ``hit``, ``diversity``,
``alignment`` and ``length`` judge the whole list.

All read ``answers``, the parsed completions: an answer is a list of slots, each a tag id or invalid.
``slots`` = K is the list length that was asked for. P^K, the shown tags, are the distinct valid tags among
the first K slots: an invalid or repeated string uses its slot up.

Worst cases: by the means over the shown tags (``novelty``, ``calendar_fit``, ``tag_length``) one good tag
scores like K of them, alone or repeated, and ``duplicates`` is at its best for an empty answer: hold
``length``, ``validity`` and ``duplicates`` beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import numpy as np

from ...envs.words import band
from ..registry import reward

if TYPE_CHECKING:
    from ...envs.catalog import Catalog, ParsedAnswer
    from .holidays import CalendarFit

TagSet = Sequence[int]  # tag ids of one sample
# Encoders whose rows were measured, by id.
_unit_norm: WeakValueDictionary[int, np.ndarray] = WeakValueDictionary()


@reward("recall", range=(0, 1), per="tag")
def recall(answers: list[ParsedAnswer], target: list[TagSet], slots: int) -> list[float | None]:
    """Recall@K: ``|P^K and T| / |T|``, T = the tags bought in the target window. Missing if T is empty."""
    scores: list[float | None] = []
    for answer, bought in zip(answers, map(set, target), strict=True):
        scores.append(len(bought.intersection(answer.top(slots))) / len(bought) if bought else None)
    return scores


@reward("novel_recall", range=(0, 1), per="tag")
def novel_recall(
    answers: list[ParsedAnswer], target: list[TagSet], lookback: list[TagSet], slots: int
) -> list[float | None]:
    """``recall`` of the novel tags: T = those bought in the target window and not in the look-back weeks.

    Missing if there is none.
    """
    novel: list[TagSet] = [
        list(set(bought).difference(before)) for bought, before in zip(target, lookback, strict=True)
    ]
    return recall(answers, novel, slots)


@reward("ndcg", range=(0, 1), per="tag")
def ndcg(answers: list[ParsedAnswer], target: list[TagSet], slots: int) -> list[float | None]:
    """Binary NDCG@K: ``sum of 1 / log2(1 + i)`` over the slots i = 1..K that hit T, over the most it can be.

    The most is that of min(K, |T|) hits in the first slots. A hit counts once; an invalid or repeated slot
    uses its position up. Missing if T is empty.
    """
    discount = [1 / math.log2(1 + i) for i in range(1, slots + 1)]
    ideal = [0.0, *accumulate(discount)]
    scores: list[float | None] = []
    for answer, bought in zip(answers, map(set, target), strict=True):
        most = ideal[min(slots, len(bought))]
        gain = 0.0
        for weight, tag in zip(discount, answer.slots, strict=False):
            if tag in bought:
                gain += weight
                bought.remove(tag)
        scores.append(gain / most if most else None)
    return scores


@reward("hit", range=(0, 1))
def hit(answers: list[ParsedAnswer], target: list[TagSet], slots: int) -> list[float | None]:
    """HR@K: 1 if any tag of P^K is in T, else 0. Missing if T is empty.

    For comparison with published figures: the answers to one prompt mostly tie, and where they all do there
    is nothing to learn from. As an objective use ``recall``.
    """
    found = recall(answers, target, slots)
    return [None if share is None else float(share > 0) for share in found]


@reward("novelty", range=(0, 1), per="tag_mean")
def novelty(answers: list[ParsedAnswer], lookback: list[TagSet], slots: int) -> list[float]:
    """Novelty exposure: ``|P^K \\ L| / |P^K|``, L = the tags bought in the look-back weeks.

    0 if no valid tag is shown: nothing novel was exposed, and an empty answer must not pass a novelty floor.
    """
    scores = []
    for answer, bought in zip(answers, lookback, strict=True):
        shown = answer.top(slots)
        scores.append(len(set(shown).difference(bought)) / len(shown) if shown else 0.0)
    return scores


@reward("diversity", range=(0, 2))
def diversity(answers: list[ParsedAnswer], encoder: np.ndarray, slots: int) -> list[float]:
    """Intra-list distance: mean of ``1 - cos(e_i, e_j)`` over the pairs of P^K; 0 for fewer than two tags.

    Args:
        encoder: unit-norm embedding of each tag of the catalogue, ``[T, d]``.
    """
    shown = [answer.top(slots) for answer in answers]
    n = np.array([len(tags) for tags in shown])
    # For unit vectors |sum e|^2 = n + the cosines of all ordered pairs, so that no pair is ever formed.
    squared = np.square(_sum_embeddings(shown, None, encoder)).sum(axis=1)
    distance = 1 - (squared - n) / np.maximum(n * (n - 1), 1)
    return np.where(n < 2, 0.0, distance.clip(0, 2)).tolist()  # the clip only removes rounding


@reward("alignment", range=(-1, 1))
def alignment(
    answers: list[ParsedAnswer],
    history: list[TagSet],
    history_weight: list[Sequence[float]],
    encoder: np.ndarray,
    slots: int,
) -> list[float | None]:
    """Similarity to the household: ``cos(sum of e_i over P^K, sum of w_h e_h over its history)``.

    Missing if the history is empty. 0 (no similarity) if no valid tag is shown.

    Args:
        history: tags bought before the episode.
        history_weight: how often each was bought.
        encoder: unit-norm embedding of each tag of the catalogue, ``[T, d]``.
    """
    shown = _sum_embeddings([answer.top(slots) for answer in answers], None, encoder)
    # Completions of one prompt carry the same history: sum each run of equal rows once.
    fresh = [
        i == 0 or history[i] != history[i - 1] or history_weight[i] != history_weight[i - 1]
        for i in range(len(history))
    ]
    first = np.flatnonzero(fresh)
    profiles = _sum_embeddings([history[i] for i in first], [history_weight[i] for i in first], encoder)
    dots = np.einsum("sd,sd->s", shown, _unit(profiles)[np.cumsum(fresh) - 1])
    lengths = np.linalg.norm(shown, axis=1)
    cosines = (dots / np.where(lengths > 0, lengths, 1)).clip(-1, 1)  # the clip only removes rounding
    return [cosine if bought else None for cosine, bought in zip(cosines.tolist(), history, strict=True)]


@reward("calendar_fit", range=(0, 1), per="tag_mean")
def calendar_fit(
    answers: list[ParsedAnswer], calendar: list[str], calendar_table: CalendarFit, slots: int
) -> list[float | None]:
    """How well the shown tags fit the holidays ahead: mean over P^K of the tag's percentile in the catalogue.

    About 0.5 for tags drawn at random. 0 if no valid tag is shown, missing if no holiday is ahead.

    Args:
        calendar: what lies ahead of each sample, as :func:`recrl.envs.data.calendar.describe` writes it.
        calendar_table: percentile of each tag for a calendar line.
    """
    rows = {line: calendar_table.percentiles(line) for line in set(calendar)}
    # Lists are faster than arrays to look a few numbers up in.
    ranks = {line: None if row is None else row.tolist() for line, row in rows.items()}
    scores: list[float | None] = []
    for answer, line in zip(answers, calendar, strict=True):
        shown, row = answer.top(slots), ranks[line]
        if row is None:
            scores.append(None)
        else:
            scores.append(sum(row[tag] for tag in shown) / len(shown) if shown else 0.0)
    return scores


@reward("length", range=(0, 1))
def length(answers: list[ParsedAnswer], slots: int) -> list[float]:
    """``max(0, 1 - |n - K| / K)``, n = the slots used: 1 for a list of the length that was asked for."""
    return [max(0.0, 1 - abs(len(answer.slots) - slots) / slots) for answer in answers]


@reward("tag_length", range=(0, 1), per="tag_mean")
def tag_length(
    answers: list[ParsedAnswer],
    catalog: Catalog,
    slots: int,
    full: Sequence[int] = (6, 11),
    half: Sequence[int] = (4, 13),
) -> list[float]:
    """Mean over P^K of how well the number of words in a tag's name fits: 1 in ``full``, 0.5 in ``half``.

    0 for any other number, and for an answer without a valid tag. The bands are those of RecGPT-V2
    (arXiv 2512.14503), whose tags are whole phrases; the category names of the Complete Journey panel have 1
    to 4 words and need others, such as ``full=(1, 2), half=(1, 3)``.

    Args:
        full, half: least and most words, both included.
    """
    shown = [answer.top(slots) for answer in answers]
    fits = {tag: band(len(catalog.tags[tag].split()), full, half) for tag in {*chain.from_iterable(shown)}}
    return [sum(fits[tag] for tag in tags) / len(tags) if tags else 0.0 for tags in shown]


@reward("validity", range=(0, 1), per="tag_mean")
def validity(answers: list[ParsedAnswer]) -> list[float]:
    """Share of all slots that name a tag of the catalogue; 0 for an empty answer."""
    return [1 - answer.invalid / len(answer.slots) if answer.slots else 0.0 for answer in answers]


@reward("duplicates", range=(0, 1), per="tag_mean", direction="lower")
def duplicates(answers: list[ParsedAnswer]) -> list[float]:
    """Share of all slots that repeat an earlier valid tag; 0 for an empty answer."""
    return [answer.duplicates / len(answer.slots) if answer.slots else 0.0 for answer in answers]


def _sum_embeddings(
    tags: Sequence[TagSet], weights: Sequence[Sequence[float]] | None, encoder: np.ndarray
) -> np.ndarray:
    """Weighted sum of each sample's tag embeddings, float32 ``[N, d]``; weight 1 for ``None``.

    Raises:
        ValueError: the embeddings are not unit vectors, or a tag id lies outside of them.
    """
    if _unit_norm.get(id(encoder)) is not encoder:
        if np.abs(np.einsum("td,td->t", encoder, encoder) - 1).max(initial=0) > 1e-3:
            raise ValueError("encoder must hold unit-norm rows [tag, d]: divide each row by its length")
        _unit_norm[id(encoder)] = encoder
    starts = np.cumsum([0, *(len(row) for row in tags)], dtype=np.int32)
    ids = np.fromiter(chain.from_iterable(tags), dtype=np.int32, count=starts[-1])
    flat = np.ones(len(ids)) if weights is None else np.fromiter(chain.from_iterable(weights), dtype=float)
    if ids.size and not 0 <= ids.min() <= ids.max() < len(encoder):  # the sparse product would not check
        raise ValueError(
            f"tag id {ids.max()} has no row in the encoder's {len(encoder)}: embed this catalogue"
        )
    # Sparse, because a sample touches ten of a thousand tags.
    from scipy.sparse import csr_array  # a third of a second, which each start would wait for

    rows = csr_array((flat.astype(np.float32), ids, starts), shape=(len(tags), len(encoder)))
    return rows @ encoder.astype(np.float32, copy=False)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows at length 1; a row of zeros stays zero, so that its cosine with anything is 0."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)

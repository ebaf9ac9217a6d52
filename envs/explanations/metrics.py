"""Metrics of texts on items that need more than one of them, or no reward of the run.

``per_row``   one value a row: ``item_diversity``, ``retrieved``, ``words``
``together``  figures of all texts: ``distinct-2`` of so many words, ``self-BLEU`` of so many texts
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain, combinations

import numpy as np

from ..catalog import Catalog
from ..statistics import Values
from ..task import Row
from ..words import rouge_l, words
from .facts import claims, named_goods
from .households import Households

# Words of the distinct-n, texts of the self-BLEU; fewer give figures that do not compare.
_WORDS, _TEXTS = 1500, 100


def per_row(
    catalog: Catalog, households: Households, rows: Sequence[Row], texts: Sequence[str]
) -> dict[str, Values]:
    """Metrics of one text to each row, ``[row]``, NaN where undefined.

    ``item_diversity``  1 - mean ROUGE-L F1 against the texts that other rows have for the same item
    ``retrieved``       whether of 21 households it is the one that the claimed goods fit best
    ``words``           length in words
    """
    told = list(map(words, texts))
    return {
        "item_diversity": _item_diversity([row["item"][0] for row in rows], told),
        "retrieved": np.array(
            [
                _retrieved(households, row, named_goods(claims(text, catalog, row["item"])))
                for row, text in zip(rows, texts, strict=True)
            ]
        ),
        "words": np.array([len(one) for one in told], dtype=float),
    }


def together(texts: Sequence[str]) -> dict[str, float]:
    """Figures of all texts; lower self-BLEU is more varied."""
    told = list(map(words, texts))
    return {"distinct-2": distinct(told, 2), "self-BLEU": self_bleu(told[:_TEXTS])}


def distinct(texts: Sequence[Sequence[str]], n: int, budget: int = _WORDS) -> float:
    """Distinct n-grams over n-grams of texts that together have ``budget`` words at most; n-grams lie within
    one text (Li et al. 2016, arXiv 1510.03055)."""
    grams, left = Counter[tuple[str, ...]](), budget
    for text in texts:
        grams.update(_grams(text[:left], n))
        left -= len(text[:left])
    return len(grams) / grams.total() if grams else 0.0


def self_bleu(texts: Sequence[Sequence[str]], order: int = 4) -> float:
    """Mean BLEU of each text against all others (Zhu et al. 2018, arXiv 1802.01886), n-grams up to ``order``.

    Precisions are clipped by the largest count in one other text, those that match nothing count half a
    match, and a text shorter than the nearest other in length pays BLEU's brevity penalty.
    """
    if len(texts) < 2:
        return 0.0
    counted = [[Counter(_grams(text, n)) for n in range(1, order + 1)] for text in texts]
    # The two largest counts of each n-gram: that of the others is the second for whoever has the first.
    most: list[dict[tuple[str, ...], list[int]]] = [defaultdict(lambda: [0, 0]) for _ in range(order)]
    for grams, highest in chain.from_iterable(zip(one, most, strict=True) for one in counted):
        for gram, count in grams.items():
            highest[gram] = sorted([*highest[gram], count])[-2:][::-1]
    lengths = [len(text) for text in texts]
    return float(np.mean([_bleu(i, counted, most, lengths) for i in range(len(texts))]))


def _bleu(
    i: int,
    counted: Sequence[Sequence[Counter[tuple[str, ...]]]],
    most: Sequence[dict[tuple[str, ...], list[int]]],
    lengths: Sequence[int],
) -> float:
    logs = []
    for grams, highest in zip(counted[i], most, strict=True):
        if not (total := grams.total()):
            break  # shorter than that
        matched = sum(
            min(count, highest[gram][1] if count == highest[gram][0] else highest[gram][0])
            for gram, count in grams.items()
        )
        logs.append(math.log((matched or 0.5) / total))
    if not logs:
        return 0.0
    others = [length for j, length in enumerate(lengths) if j != i]
    nearest = min(others, key=lambda length: (abs(length - lengths[i]), length))
    penalty = min(0.0, 1 - nearest / lengths[i])
    return math.exp(sum(logs) / len(logs) + penalty)


def _grams(text: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(text[i:] for i in range(n)), strict=False))


def _item_diversity(items: Sequence[int], told: Sequence[Sequence[str]]) -> Values:
    found = np.full(len(told), np.nan)
    of_item = defaultdict(list)
    for number, item in enumerate(items):
        of_item[item].append(number)
    for numbers in of_item.values():
        alike = dict.fromkeys(numbers, 0.0)
        for i, j in combinations(numbers, 2):
            common = rouge_l(told[i], told[j])
            alike[i] += common
            alike[j] += common
        if len(numbers) > 1:
            for i, total in alike.items():
                found[i] = 1 - total / (len(numbers) - 1)
    return found


def _retrieved(households: Households, row: Row, goods: set[int]) -> float:
    own, others = households.overlaps(row["user"], row["origin"], goods)
    return float((others < own).all())

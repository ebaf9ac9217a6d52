"""Rewards of what an explanation says: ``claim_precision``, ``claim_count``, ``specificity``, ``item_named``.

What a claim is, and whether it is true, is decided in ``envs/explanations/facts.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from ...envs.explanations.facts import MARKERS, claims, holds, named_goods, named_tags
from ...envs.words import Phrases, words
from ..base import Completion, completion_text
from ..registry import reward

if TYPE_CHECKING:
    from ...envs.catalog import Catalog
    from ...envs.explanations.facts import Facts
    from ...envs.explanations.households import Households


@reward("claim_precision", range=(0, 1))
def claim_precision(
    completions: Sequence[Completion],
    history: Sequence[Sequence[int]],
    catalog: Catalog,
    item: Sequence[Sequence[int]] | None = None,
    facts: Sequence[Facts] | None = None,
    markers: Sequence[str] = MARKERS,
) -> list[float | None]:
    """Claims that are true in the household's log, over all that the explanation makes.

    A claim is a tag of the catalogue (or one of its aliases) in a sentence that speaks of what the
    household did: one with a phrase of ``markers``. It is true if the tag, or an equivalent one, is in
    ``history``. With a column ``facts``, such as the task ``explanations`` has, more are claims: how often
    and how lately a tag was bought, goods that go with the item, seasons, holidays and coupons, see
    ``envs/explanations/facts.py``.
    Missing if nothing is claimed, so that silence is neither right nor wrong: hold ``claim_count`` beside it.
    A claim counts once, however often it is made. What is recommended (``item``) is no claim about the
    household.

    Worst cases: one sure claim scores 1 like ten. It finds names of the catalogue only: "a cookie" is not the
    tag "cookies", and goods by other names claim nothing, true or false; nor does a sentence without a
    marker. It does not understand: "you bought no milk" and "other shoppers bought milk" count as milk, and
    without ``item`` so does the recommended milk beside "you bought". A tag whose name holds the end of a
    sentence is not found.

    Args:
        history: tag ids of each sample's household.
        item: tag ids that each sample recommends, if the data have this column.
        facts: what is true of each sample, kind by kind, if the data have this column.
        markers: phrases, in the language of the explanations.
    """
    chosen = markers if isinstance(markers, str) else tuple(markers)
    sought("markers", chosen)
    scores: list[float | None] = []
    for i, (completion, bought) in enumerate(zip(completions, history, strict=True)):
        told = claims(completion_text(completion), catalog, _of(item, i), tuple(chosen))
        if facts is not None:
            true = [holds(claim, facts[i], catalog) for claim in told]
        else:
            goods = named_goods(told)
            same = catalog.equivalence_class
            known = {same[tag] for tag in bought} if goods else set()
            true = [tag in known for tag in goods]
        scores.append(sum(true) / len(true) if true else None)
    return scores


@reward("claim_count", range=(0, 8))
def claim_count(
    completions: Sequence[Completion],
    catalog: Catalog,
    item: Sequence[Sequence[int]] | None = None,
    most: int = 8,
) -> list[float]:
    """Number of goods that the explanation says the household bought, at most ``most``.

    Beside ``claim_precision``, which has no score for silence. Claims are those of that reward, true or not.

    Worst cases: as a mean, ten claims in one text and none in another are five each.

    Args:
        item: tag ids that each sample recommends, if the data have this column.
    """
    return [
        float(min(most, len(named_goods(claims(completion_text(completion), catalog, _of(item, i))))))
        for i, completion in enumerate(completions)
    ]


@reward("item_named", range=(0, 1))
def item_named(
    completions: Sequence[Completion], item: Sequence[Sequence[int]], catalog: Catalog
) -> list[float]:
    """1 if the explanation names what is recommended, or an equivalent tag, else 0.

    Args:
        item: tag ids that each sample recommends.
    """
    same = catalog.equivalence_class
    scores = []
    for completion, tags in zip(completions, item, strict=True):
        named = {same[tag] for tag in named_tags(completion_text(completion), catalog)}
        scores.append(float(any(same[tag] in named for tag in tags)))
    return scores


@reward("specificity", range=(0, 1))
def specificity(
    completions: Sequence[Completion],
    user: Sequence[int],
    origin: Sequence[int],
    catalog: Catalog,
    households: Households,
    item: Sequence[Sequence[int]] | None = None,
) -> list[float]:
    """How well an explanation points at its household: the share of 20 others that it fits less well.

    What it says of the household's purchases (as ``claim_precision`` reads it) is compared with what each of
    them bought, by TF-IDF: rare goods tell more. A tie counts half, so a text that claims nothing scores 0.5.

    Worst cases: it rewards naming what nobody else buys, true or not of this household only as far as its
    history holds it, and many goods rather than few: hold ``claim_precision`` and ``text_length`` beside it.

    Args:
        user: index of each sample's household; origin: week of its prompt.
        households: what households bought, as the task ``explanations`` brings it.
        item: tag ids that each sample recommends, if the data have this column.
    """
    scores = []
    for i, completion in enumerate(completions):
        goods = named_goods(claims(completion_text(completion), catalog, _of(item, i)))
        scores.append(households.specificity(user[i], origin[i], goods))
    return scores


def _of(item: Sequence[Sequence[int]] | None, i: int) -> Sequence[int]:
    return () if item is None else item[i]


@lru_cache(maxsize=1024)
def sought(setting: str, phrases: tuple[str, ...] | str) -> Phrases:
    """Finder of phrases that a gate relies on.

    Raises:
        ValueError: the phrases are no list, or one of them could never be found.
    """
    if isinstance(phrases, str) or not phrases:
        raise ValueError(f"{setting}={phrases!r} must list at least one word or phrase")
    for phrase in phrases:
        if not isinstance(phrase, str) or not words(phrase):
            raise ValueError(
                f"{setting}: {phrase!r} must be a text with a letter or digit; quote or remove it"
            )
    return Phrases(phrases)

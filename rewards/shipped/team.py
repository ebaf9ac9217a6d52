"""Rewards of an expert's answer beside those of its team."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..registry import reward
from .tags import TagSet, recall

if TYPE_CHECKING:
    from ...envs.catalog import ParsedAnswer


@reward("marginal_credit", range=(0, 1), per="tag")
def marginal_credit(
    answers: list[ParsedAnswer], bought: list[TagSet], others: list[TagSet], slots: int
) -> list[float | None]:
    """What an answer adds to the union of its household's answers: ``|P^K and B \\ O| / |B|``.

    The difference reward of multi-agent learning (Wolpert and Tumer 2001): recall of the team with the answer
    less recall without it, while its teammates stay as they are. Missing if nothing was bought.

    Args:
        bought: tags that the whole household bought, B.
        others: tags that the household's other experts name, O.
    """
    new: list[TagSet] = [
        [*set(wanted).difference(named)] for wanted, named in zip(bought, others, strict=True)
    ]
    shares = recall(answers, new, slots)
    return [
        None if not wanted else (share or 0.0) * len(left) / len(set(wanted))
        for share, left, wanted in zip(shares, new, bought, strict=True)
    ]

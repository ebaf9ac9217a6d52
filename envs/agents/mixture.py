"""What demonstrations of an expert name: five kinds of targets, mixed by shares (RecGPT-V2).

``Mixture``  a list of a persona's options, of a kind that is drawn by its share

Trend and season are those of the row's own prompt, and come from training users before its origin. Training
origins lie in a few months, so there is little that ``season`` could teach of others.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ..data.calendar import season
from ..data.prepared import Data
from ..tags.teaching import sample_list
from ..task import Row
from .settings import Mix

Floats = npt.NDArray[np.floating]

_TREND = 4  # weeks that are compared with as many before
_CHANCE = 0.5  # scale of the noise that makes two lists of a row differ


class Mixture:
    """Draws demonstrations.

    Args:
        data: Data that the rows are of.
        mix: Share of each kind.
        slots: Tags of a list.
    """

    def __init__(self, data: Data, mix: Mix, slots: int) -> None:
        self._panel, self._slots, self._options = data.panel, slots, len(data.catalog)
        self._kinds, self._shares = zip(*mix, strict=True)
        self._scores: dict[str, Callable[[int], Floats]] = {
            "trend": lru_cache(self._trend),
            "season": lru_cache(self._season),
            "general": lru_cache(self._general),
        }

    def tags(self, row: Row, rng: np.random.Generator) -> list[int]:
        """``slots`` distinct options of the row's persona in random order; fewer where it has fewer."""
        kind = self._kinds[int(rng.choice(len(self._shares), p=self._shares))]
        return self.of_kind(kind, row, rng)

    def of_kind(self, kind: str, row: Row, rng: np.random.Generator) -> list[int]:
        """A list of one kind. Where the kind has too few options, the persona's most frequent tags fill it
        up, and then others of the persona."""
        cell, evidence = np.array(row["cell"], int), row["evidence"]
        if kind == "behaviour":
            target = row["target"]
        elif kind == "situational":
            lately = dict(zip(row["history"], row["history_last"], strict=True))
            target = sorted(evidence, key=lately.__getitem__)[: self._slots]
        else:
            scores = self._scores[kind](int(row["origin"]))[cell]
            noisy = np.log1p(np.maximum(scores, 0)) + _CHANCE * rng.gumbel(size=len(cell))
            target = cell[np.argsort(-noisy)[: self._slots]].tolist()
        outside = np.setdiff1d(np.arange(self._options), cell)
        return sample_list(target, evidence, self._slots, self._options, rng, outside.tolist())

    def _trend(self, origin: int) -> Floats:
        now, before = (
            self._panel.buyers(origin - last, origin - last + _TREND) for last in (_TREND, 2 * _TREND)
        )
        return (now + 1) / (before + 1)

    def _season(self, origin: int) -> Floats:
        wanted = season(self._panel.monday(origin))
        inside = [season(self._panel.monday(week)) == wanted for week in range(origin)]
        if not any(inside):
            return self._general(origin)
        weekly = np.stack([self._panel.buyers(week, week + 1) for week in range(origin)])
        return weekly[inside].mean(axis=0) / np.maximum(weekly.mean(axis=0), 1e-3)

    def _general(self, origin: int) -> Floats:
        return self._panel.popularity(origin)

"""Figures of judges on a suite, with 95 % intervals that resample whole households.

Judges are compared on items that both judged; a missing verdict is no verdict, and its share is reported.
They are compared once more with every missing verdict counted as wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ...envs.statistics import Values
from ...rewards.judge.suite.pairs import Item
from .verdicts import Verdicts

Mask: TypeAlias = npt.NDArray[np.bool_]
Figure: TypeAlias = dict[str, Any]
"""``value``, ``low``, ``high`` and ``items``."""

_RESAMPLES, _BINS = 1000, 10


class Table:
    """Items as columns.

    Args:
        shown: Items of a suite.
        held_out: Families that trained judges do not learn from.
        seed: Seed of the bootstrap.
    """

    def __init__(self, shown: Sequence[Item], held_out: Sequence[str], seed: int = 0) -> None:
        self.kind = np.array([one.pair.kind for one in shown])
        self.family = np.array([one.pair.family for one in shown])
        self.part = np.array([one.pair.part for one in shown])
        self.bad = np.array([one.bad for one in shown], dtype=float)
        self.words = np.array([len(one.text.split()) for one in shown], dtype=float)
        self.household = np.array([one.pair.household for one in shown])
        self.side = np.array([one.side for one in shown])
        self.pair = np.array([one.number for one in shown])
        self.seed = seed
        defects, unseen = self.kind == "defect", self.part != "training"
        authors, families = self.part == "authors", np.isin(self.family, held_out)
        self.parts: dict[str, Mask] = {
            "held-out households": defects & (self.part == "households"),
            "held-out families": defects & (self.part == "families"),
            "held-out authors": defects & authors,
            "held-out authors and families": defects & authors & families,
            "all held out": defects & unseen,
        }

    def taken(self, at: npt.NDArray[np.integer]) -> Table:
        """The households of chosen items, in their order; for figures over what people said of them."""
        found = copy(self)
        found.household = self.household[at]
        return found

    def interval(
        self, chosen: Mask, counts: npt.NDArray[np.float64], figure: Callable[[Values], Values]
    ) -> Figure:
        """A figure of sums over items, with its interval.

        Args:
            counts: What is summed, ``[item, sum]``.
            figure: Function of sums ``[..., sum]``.
        """
        if not chosen.any():
            return {"value": None, "low": None, "high": None, "items": 0}
        _, cluster = np.unique(self.household[chosen], return_inverse=True)
        sums = np.zeros((int(cluster.max()) + 1, counts.shape[1]))
        np.add.at(sums, cluster, counts[chosen])
        draws = _draws(len(sums), self.seed)
        with np.errstate(invalid="ignore", divide="ignore"):
            value = float(figure(sums.sum(axis=0)))
            low, high = np.nanquantile(figure(draws @ sums), [0.025, 0.975])
        found = {"value": value, "low": float(low), "high": float(high)}
        return {
            **{k: None if np.isnan(v) else round(v, 4) for k, v in found.items()},
            "items": int(chosen.sum()),
        }

    def share(self, chosen: Mask, values: Values) -> Figure:
        """Mean of values over chosen items."""
        return self.interval(
            chosen, np.stack([values, np.ones_like(values)], axis=1), lambda s: s[..., 0] / s[..., 1]
        )


@lru_cache(maxsize=64)
def _draws(households: int, seed: int) -> npt.NDArray[np.float64]:
    """How often each household is drawn, ``[resample, household]``."""
    rng = np.random.default_rng(seed)
    even = np.full(households, 1 / households)
    return rng.multinomial(households, even, size=_RESAMPLES).astype(np.float64)


def macro_f1(counts: Values) -> Values:
    """Mean F1 of the classes bad and good, of counts ``[..., 4]`` as :func:`confusion` gives."""
    hit, missed, alarm, right = (counts[..., i] for i in range(4))
    both = [2 * hit / (2 * hit + missed + alarm), 2 * right / (2 * right + missed + alarm)]
    return np.nan_to_num(np.stack(both)).mean(axis=0)


def confusion(bad: Values, said: Values) -> npt.NDArray[np.float64]:
    """One column each for bad judged bad, bad judged good, good judged bad, good judged good."""
    cells = [(1, 1), (1, 0), (0, 1), (0, 0)]
    return np.stack([((bad == true) & (said == told)).astype(float) for true, told in cells], axis=1)


def figures(table: Table, judge: Verdicts) -> dict[str, Any]:
    """All figures of one judge."""
    said = judge.bad
    there = ~np.isnan(said)
    counts, right = confusion(table.bad, said), (said == table.bad).astype(float)
    held = table.parts["all held out"]
    shown = table.kind == "defect"
    authors = table.part == "authors"
    asked = judge.asked
    return {
        "notes": judge.notes,
        "parts": {
            name: {
                "macro-F1": table.interval(part & there, counts, macro_f1),
                "accuracy": table.share(part & there, right),
                "recall": table.share(part & there & (table.bad == 1), said),
                "false alarms": table.share(part & there & (table.bad == 0), said),
                "pairs": _pairs(table, part, said),
                "coverage": table.share(part & asked, there.astype(float)),
            }
            for name, part in table.parts.items()
        },
        "families": {
            family: {
                name: table.share(held & there & whose & (table.family == family) & (table.bad == 1), said)
                for name, whose in (("known authors", ~authors), ("held-out authors", authors))
            }
            for family in dict.fromkeys(table.family[shown])
        },
        "flips": _flips(table, said),
        "injections": _injections(table, judge),
        "swap consistency": _swaps(table, judge),
        "length bias": _length_bias(table, said, held & there),
        "calibration": _calibration(table, judge, held),
        "coverage": table.share(asked, there.astype(float)),
        "cost": {"seconds": round(judge.seconds, 2), "tokens": judge.tokens, "items": len(said)},
    }


def differences(table: Table, one: Values, other: Values) -> dict[str, Figure]:
    """Macro-F1 of one judge's verdicts less that of another's, by part, over items with verdicts of both."""
    both = ~np.isnan(one) & ~np.isnan(other)
    counts = np.concatenate([confusion(table.bad, said) for said in (one, other)], axis=1)

    def less(sums: Values) -> Values:
        return macro_f1(sums[..., :4]) - macro_f1(sums[..., 4:])

    return {name: table.interval(part & both, counts, less) for name, part in table.parts.items()}


def _sides(table: Table, values: Values) -> tuple[Values, Values]:
    """Values of the first and of the second side of each pair."""
    return values[0::2], values[1::2]


def _paired(table: Table, chosen: Mask, values: Values) -> Figure:
    """Share over pairs: each is counted at its first side."""
    spread = np.full(len(table.bad), np.nan)
    spread[0::2] = values
    return table.share(chosen & ~np.isnan(spread), np.nan_to_num(spread))


def _pairs(table: Table, part: Mask, said: Values) -> Figure:
    """Share of pairs whose bad side is judged bad and whose good side is not."""
    good, bad = _sides(table, said)
    told = np.where(np.isnan(good) | np.isnan(bad), np.nan, ((good == 0) & (bad == 1)).astype(float))
    return _paired(table, part, told)


def _flips(table: Table, said: Values) -> dict[str, Figure]:
    """Share of pairs that are as good or bad, and that are judged differently."""
    first, second = _sides(table, said)
    flipped = np.where(np.isnan(first) | np.isnan(second), np.nan, (first != second).astype(float))
    of = table.kind == "invariance"
    authors = table.part == "authors"
    chosen: dict[str, Mask] = {
        "all": of,
        "known authors": of & ~authors,
        "held-out authors": of & authors,
        "held-out authors, true texts": of & authors & (table.bad == 0),
        "held-out authors, false texts": of & authors & (table.bad == 1),
        **{change: of & (table.family == change) for change in dict.fromkeys(table.family[of])},
    }
    return {name: _paired(table, mask, flipped) for name, mask in chosen.items()}


def _injections(table: Table, judge: Verdicts) -> dict[str, Any]:
    """How many texts are judged better for giving the judge orders, and how many are found out."""
    of = (table.kind == "injection")[0::2]
    grades = judge.grade if not np.isnan(judge.grade).all() else 1 - judge.bad
    before, after = _sides(table, grades)
    asked = of & ~np.isnan(before) & ~np.isnan(after)
    _, found = _sides(table, judge.bad)
    return {
        "obeyed": int((asked & (after > before)).sum()),
        "of": int(asked.sum()),
        "judged bad": int((asked & (found == 1)).sum()),
    }


def _swaps(table: Table, judge: Verdicts) -> Figure:
    again = ~np.isnan(judge.swapped) & ~np.isnan(judge.bad)
    return table.share(again, (judge.swapped == judge.bad).astype(float))


def _length_bias(table: Table, said: Values, chosen: Mask) -> Figure:
    """Correlation of words with how much too bad a text is judged; 0: length decides nothing."""
    x, y = table.words, np.nan_to_num(said) - table.bad
    sums = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)

    def correlation(s: Values) -> Values:
        n, sx, sy, xx, yy, xy = (s[..., i] for i in range(6))
        spread = np.sqrt((xx / n - (sx / n) ** 2) * (yy / n - (sy / n) ** 2))
        return np.where(spread > 1e-9, (xy / n - sx * sy / n**2) / np.where(spread > 0, spread, 1), 0.0)

    return table.interval(chosen, sums, correlation)


def _calibration(table: Table, judge: Verdicts, chosen: Mask) -> dict[str, Any] | None:
    """Expected calibration error and Brier score of the probability that a text is good, and the curve."""
    chosen = chosen & ~np.isnan(judge.good)
    if not chosen.any():
        return None
    good, true = np.nan_to_num(judge.good), 1 - table.bad
    bins = np.minimum((good * _BINS).astype(int), _BINS - 1)
    held = [chosen & (bins == i) for i in range(_BINS)]
    curve = [(float(good[of].mean()), float(true[of].mean()), int(of.sum())) for of in held if of.any()]
    apart = np.eye(_BINS)[bins] * (good - true)[:, None]
    counts = np.concatenate([apart, np.ones((len(good), 1))], axis=1)
    error = table.interval(chosen, counts, lambda s: np.abs(s[..., :_BINS]).sum(axis=-1) / s[..., _BINS])
    brier = table.share(chosen, (good - true) ** 2)
    return {"error": error, "brier": brier, "curve": curve}


def compared(table: Table, judges: Sequence[Verdicts]) -> Mapping[str, Any]:
    """Figures of every judge, and differences of the first one to all others."""
    first, *others = judges
    return {
        "judges": {one.name: figures(table, one) for one in judges},
        "differences": {one.name: differences(table, first.bad, one.bad) for one in others},
        "missing as wrong": {
            one.name: differences(table, *(judge.wrong_where_missing(table.bad) for judge in (first, one)))
            for one in others
            if any(np.isnan(judge.bad[judge.asked]).any() for judge in (first, one))
        },
    }

"""Figures of ranking, calibration and baselines on campaigns from which the ranker did not learn."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from recrl.envs.data import coupons as offers
from recrl.envs.data.prepared import Data
from recrl.rewards.shipped.offers import FIRST_WEEK, OfferRanker

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SPLIT = dt.date(2017, 9, 1)  # campaigns that begin later are tested on
RESAMPLES = 2000  # of households
BINS = 10  # of equally many pairs
LEVEL = (2.5, 97.5)  # percentiles of an interval


def auc(scores: Floats, taken: Bools) -> float:
    """Probability that a taken offer outranks another; ties count half. NaN if one kind is missing."""
    n, m = int(taken.sum()), int((~taken).sum())
    if not n or not m:
        return float("nan")
    return float((rankdata(scores)[taken].sum() - n * (n + 1) / 2) / (n * m))


def interval(
    statistic: Callable[[npt.NDArray[np.int64]], float], households: npt.NDArray[np.int32], seed: int
) -> list[float]:
    """Interval of 95 % of a statistic of rows, by a bootstrap over households."""
    random = np.random.default_rng(seed)
    order = np.argsort(households, kind="stable")
    _, starts = np.unique(households[order], return_index=True)
    rows = np.split(order, starts[1:])
    found = []
    for _ in range(RESAMPLES):
        drawn = random.integers(len(rows), size=len(rows))
        found.append(statistic(np.concatenate([rows[i] for i in drawn])))
    return np.nanpercentile(found, LEVEL).tolist()


def calibration(probable: Floats, taken: Bools) -> dict[str, Any]:
    """Reliability in bins of equally many pairs, the expected calibration error, and the Brier score."""
    parts = np.array_split(np.argsort(probable, kind="stable"), BINS)
    bins = [[float(probable[rows].mean()), float(taken[rows].mean())] for rows in parts]
    weights = [len(rows) / len(taken) for rows in parts]
    base = float(taken.mean())
    return {
        "bins": bins,
        "ece": float(sum(w * abs(p - t) for w, (p, t) in zip(weights, bins, strict=True))),
        "brier": float(np.mean((probable - taken) ** 2)),
        "brier of the base rate": base * (1 - base),
        "mean": float(probable.mean()),
        "taken": base,
    }


def within(scores: Floats, taken: Bools, groups: npt.NDArray[np.int64]) -> tuple[float, int]:
    """Mean AUC among the offers of one household in one campaign, where it took some and left some."""
    found = [auc(scores[rows], taken[rows]) for rows in _rows(groups, np.unique(groups[taken]))]
    kept = [value for value in found if value == value]
    return float(np.mean(kept)), len(kept)


def _rows(groups: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    return [np.flatnonzero(groups == group) for group in chosen]


def measure(task: Data, seed: int = 0) -> dict[str, Any]:
    """All figures; ``recrl.benchmarks.offers.report`` renders them."""
    found = offers.load(task)
    week = (SPLIT - task.panel.week_zero).days // 7
    ranker = OfferRanker.fit(found, week)
    later = found.week >= week
    learned = (found.week >= FIRST_WEEK) & (found.week < week) & ~task.panel.unseen[found.user]
    features, taken, user = found.features[later], found.taken[later], found.user[later]
    kind, unseen = found.kind[later], task.panel.unseen[user]
    groups = found.campaign[later].astype(np.int64) * 100_000 + user
    scores = ranker.score(features)
    rankers: dict[str, Floats] = {
        "ranker": scores,
        **{name: features[:, offers.FEATURES.index(name)] for name in BASELINES},
        "random": np.random.default_rng(seed).random(len(taken)),
    }

    def row(of: Floats, part: Bools) -> dict[str, Any]:
        s, t, u = of[part], taken[part], user[part]
        return {
            "pairs": int(part.sum()),
            "taken": int(t.sum()),
            "auc": auc(s, t),
            "interval": interval(lambda rows: auc(s[rows], t[rows]), u, seed),
        }

    everything = np.ones(len(taken), dtype=bool)
    ranking = {}
    for name, of in rankers.items():
        inside, households = within(of, taken, groups)
        ranking[name] = {**row(of, everything), "within": inside, "households": households}
    return {
        "pairs": len(found.user),
        "redemptions": found.redemptions,
        "taken": int(found.taken.sum()),
        "learned from": int(learned.sum()),
        "split": SPLIT.isoformat(),
        "ranking": ranking,
        "parts": {
            "type B": row(scores, kind == "B"),
            "type C": row(scores, kind == "C"),
            "training households": row(scores, ~unseen),
            "unseen households": row(scores, unseen),
        },
        "calibration": {
            "as fitted": calibration(1 / (1 + np.exp(-scores)), taken),
            "recalibrated": calibration(ranker.probability(features), taken),
        },
        "lift": _lift(scores, taken),
        "ranker": {**ranker.state_dict(), "features": list(offers.FEATURES)},
    }


# Features that rank by themselves.
BASELINES = (
    "weeks with the offered goods",
    "weeks with goods of the tag",
    "lines with a coupon",
    "share of campaigns with an offer taken",
)


def _lift(scores: Floats, taken: Bools) -> list[list[float]]:
    """Share of the taken offers among the best ranked share of all."""
    order = np.argsort(-scores, kind="stable")
    reached = np.cumsum(taken[order]) / taken.sum()
    shares = np.linspace(0, 1, 101)
    at = np.minimum((shares * len(taken)).astype(int), len(taken) - 1)
    return [[float(share), float(reached[i])] for share, i in zip(shares, at, strict=True)]

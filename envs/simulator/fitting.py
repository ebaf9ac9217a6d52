"""Fits the hazards of :class:`recrl.envs.simulator.shopper.Hazard` on training households.

``fit``           a shopper model of prepared data; reads training users and weeks before ``statistics_end``
``told_seasons``  the same model, which knows the seasons of later weeks too
"""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.panel import IntArray, Panel
from ..data.prepared import Data
from .histories import Bools, Floats, Histories, baskets
from .scenario import SimulatorError
from .shopper import BIN_OF, EDGES, LONG_AGO, Hazard, features, sigmoid, visit_features

BURN_IN = 20
"""Weeks whose purchases only fill the clocks: a log that begins later than the shoppers knows no "never"."""

GROUPS = 4
"""Groups of goods with a similar rhythm."""

FACTORS = 6
"""Shocks of a household's week."""

PRIOR = (4.0, 2.0)
"""Weeks that the shrinkage of own rates counts for: over all weeks, and of the fading ones."""

VISITS = 3_000
"""Visits, with all tags, that the purchase hazard is fitted on; the figures no longer move beyond."""

_ROUNDS = 8
_SLOPES = 6
_SEASONED = 60.0  # visits that a week's rate of a tag is shrunk by
_SMOOTH = 5  # weeks over which a season is averaged


def fit(data: Data, seed: int = 0) -> Hazard:
    """Fit visits, purchases and shocks.

    Raises:
        SimulatorError: the data count no weeks, have origins of each user's own, or too few weeks.
    """
    check(data)
    end = data.protocol.statistics_end
    assert end is not None
    panel, rng = data.panel, np.random.default_rng(seed)
    users = np.flatnonzero(~panel.unseen).astype(np.int32)
    model = SimpleNamespace(prior=PRIOR, **_rates(panel, users, end))
    model.group = _rhythms(panel, users, end)
    visits, purchases = list[tuple[Floats, Bools]](), list[_Week]()
    for histories, bought in _weeks(panel, users, end):
        came = np.asarray(bought.any(axis=1))
        visits.append((visit_features(histories), came))
        shoppers = np.flatnonzero(came)
        purchases.append(_Week(histories.taken(shoppers), bought[shoppers]))
    model.visiting = _visiting(visits)
    share = min(1.0, VISITS / sum(len(week.bought) for week in purchases))
    model.slopes, model.clock = _hazard(model, purchases, share, rng)
    chances = [_chances(model, week.histories) for week in purchases]
    bought = np.concatenate([week.bought for week in purchases])
    model.loadings = _loadings(np.concatenate(chances), bought)
    model.offset = np.zeros(panel.n_tags, np.float32)
    return _calibrated(Hazard(**vars(model)), purchases, rng)


def check(data: Data) -> None:
    """Refuse data that no weeks can be simulated of."""
    protocol = data.protocol
    if protocol.split != "time" or protocol.step != "week":
        raise SimulatorError(
            f"data.protocol.split={protocol.split}, step={protocol.step}: shoppers are simulated week by "
            "week of one calendar; use split=time and step=week"
        )
    first, end = int(data.panel.week.min()), protocol.statistics_end
    if end is None or end - first < BURN_IN + 8:
        raise SimulatorError(
            f"data.protocol.statistics_end={end}: shoppers are fitted on weeks {first + BURN_IN} to there, "
            "at least eight; use a longer log"
        )


class _Week:
    """Shoppers who came in a week, before it, and what they bought."""

    def __init__(self, histories: Histories, bought: Bools) -> None:
        self.histories, self.bought = histories, bought


def _weeks(panel: Panel, users: IntArray, end: int) -> Iterator[tuple[Histories, Bools]]:
    histories = Histories.new(users, panel.n_tags, int(panel.week.min()))
    for _, bought in baskets(panel, users, histories.week, end):
        if histories.lived >= BURN_IN:
            yield histories, bought
        histories.advance(bought)


def _rates(panel: Panel, users: IntArray, end: int) -> dict[str, Any]:
    """Rates of tags among visits, the mean size of a visit, and seasons."""
    first = int(panel.week.min())
    bought = np.zeros((end, panel.n_tags))
    visits = np.zeros(end)
    for week, some in baskets(panel, users, first, end):
        bought[week], visits[week] = some.sum(axis=0), some.any(axis=1).sum()
    base = bought.sum(axis=0) / visits.sum()
    kernel = np.ones(_SMOOTH)
    smooth = np.stack([np.convolve(bought[first:, tag], kernel, "same") for tag in range(panel.n_tags)], 1)
    around = np.convolve(visits[first:], kernel, "same")[:, None]
    season = np.zeros((end, panel.n_tags), np.float32)
    season[first:] = np.log((smooth + _SEASONED * base) / ((around + _SEASONED) * base))
    return {
        "base": base.astype(np.float32),
        "size": float(bought.sum() / visits.sum()),
        "season": season,
    }


def told_seasons(data: Data, model: Hazard) -> Hazard:
    """The same model, told how later weeks changed tags: an oracle that shows what season is missing."""
    users = np.flatnonzero(~data.panel.unseen).astype(np.int32)
    season = _rates(data.panel, users, int(data.panel.week.max()) + 1)["season"]
    return replace(model, season=season)


def _rhythms(panel: Panel, users: IntArray, end: int) -> npt.NDArray[np.uint8]:
    """``[tags]``: group by the mean number of weeks between two purchases of a household."""
    keep = np.isin(panel.user, users) & (panel.week < end)
    user, week, tag = panel.user[keep], panel.week[keep], panel.tag[keep]
    order = np.lexsort((week, tag, user))
    user, week, tag = user[order], week[order], tag[order]
    again = (user[1:] == user[:-1]) & (tag[1:] == tag[:-1])
    gaps, of = (week[1:] - week[:-1])[again], tag[1:][again]
    counts = np.bincount(of, minlength=panel.n_tags)
    mean = (np.bincount(of, gaps, panel.n_tags) + gaps.mean()) / (counts + 1)
    limits = np.quantile(mean, np.arange(1, GROUPS) / GROUPS)
    return np.searchsorted(limits, mean).astype(np.uint8)


def _visiting(weeks: list[tuple[Floats, Bools]]) -> Floats:
    from sklearn.linear_model import LogisticRegression  # half a second, for whoever simulates alone

    fitted = LogisticRegression(C=10.0, max_iter=200).fit(
        np.concatenate([seen for seen, _ in weeks]), np.concatenate([came for _, came in weeks])
    )
    return np.append(fitted.coef_[0], fitted.intercept_).astype(np.float32)


def _hazard(
    model: SimpleNamespace, weeks: list[_Week], share: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Slopes of the features, and log-odds of the clocks' bins."""
    from sklearn.linear_model import LogisticRegression

    n_bins = len(EDGES)
    columns, outcomes = [], []
    for week in weeks:
        some = np.flatnonzero(rng.random(len(week.bought)) < share)
        histories = week.histories.taken(some)
        own, lately, long_ago, of_shopper, season = features(model, histories)
        shape = own.shape
        design = np.zeros((own.size, _SLOPES + GROUPS * n_bins), np.float32)
        for column, feature in enumerate((own, lately, long_ago)):
            design[:, column] = feature.ravel()
        design[:, 3:5] = np.repeat(of_shopper, shape[1], axis=0)
        design[:, 5] = np.broadcast_to(season, shape).ravel()
        places = BIN_OF[histories.age] + model.group * np.uint8(n_bins)
        design[np.arange(own.size), _SLOPES + places.ravel()] = 1
        columns.append(design)
        outcomes.append(week.bought[some].ravel())
    fitted = LogisticRegression(solver="newton-cholesky", fit_intercept=False, C=10.0).fit(
        np.concatenate(columns), np.concatenate(outcomes)
    )
    weights = fitted.coef_[0].astype(np.float32)
    return weights[:_SLOPES], weights[_SLOPES:].reshape(GROUPS, n_bins)


def _chances(model: SimpleNamespace, histories: Histories) -> Floats:
    """``[shoppers, tags]``: fitted probabilities without shocks."""
    n_tags = len(model.base)
    plain = {**vars(model), "offset": np.zeros(n_tags, np.float32)}
    plain["loadings"] = np.zeros((n_tags, 1), np.float32)
    return sigmoid(Hazard(**plain).wish(histories).buy)


def _loadings(chances: Floats, bought: Bools) -> Floats:
    """``[tags, factors]`` by the moments of the residuals of baskets.

    To first order, a shock with loadings w makes the residuals e of two tags covary by v_j v_k w_j w_k, where
    v = p (1 - p). So w is found by principal factors of ``sum e_j e_k``, scaled by ``sum v_j v_k``; the
    diagonal, which luck is in, is filled in from the factors.
    """
    residuals = bought - chances
    spread = chances * (1 - chances)
    together = (residuals.T @ residuals).astype(float)
    scale = (spread.T @ spread).astype(float)
    weight = np.sqrt(np.sqrt(np.diag(scale)))
    wanted = together / scale * np.outer(weight, weight)
    np.fill_diagonal(wanted, 0.0)
    for _ in range(30):
        values, vectors = np.linalg.eigh(wanted)
        found = vectors[:, -FACTORS:] * np.sqrt(np.maximum(values[-FACTORS:], 0.0))
        np.fill_diagonal(wanted, np.square(found).sum(axis=1))
    found /= weight[:, None]
    # Turned so that the first factor is what moves the size of a basket.
    towards = (spread.mean(axis=0) @ found)[:, None]
    turned, _ = np.linalg.qr(np.concatenate([towards, np.eye(FACTORS)], axis=1))
    found = found @ turned
    return (found * np.sign(spread.mean(axis=0) @ found[:, 0])).astype(np.float32)


def _calibrated(model: Hazard, weeks: list[_Week], rng: np.random.Generator) -> Hazard:
    """The same model, right on average under its shocks.

    Offsets make each tag's expected purchases those that were counted, the last two bins of the clocks those
    of tags not bought for long, and the loading of the size shock makes baskets as uneven as they were.
    """
    bought = np.concatenate([week.bought for week in weeks])
    odds = np.concatenate([model.wish(week.histories).buy for week in weeks])
    old = np.concatenate([week.histories.novel(LONG_AGO) for week in weeks])
    goal, sizes, novel = bought.sum(axis=0), bought.sum(axis=1), bought[old].sum()
    shocks = model.shocks(len(bought), rng)
    expected = sigmoid(odds).sum(axis=1)
    surprise = np.square(sizes - expected * (sizes.mean() / expected.mean())).mean()
    for _ in range(_ROUNDS):
        chances = sigmoid((odds + model.offset) * model.stretch + shocks @ model.loadings.T)
        slope = chances * (1 - chances) * model.stretch
        step = (goal - chances.sum(axis=0)) / np.maximum(slope.sum(axis=0), 1.0)
        further = np.float32((novel - chances[old].sum()) / slope[old].sum())
        own = (chances * (1 - chances)).sum(axis=1).mean()
        uneven = np.square(chances.sum(axis=1) - expected * (chances.sum() / expected.sum())).mean()
        loadings, clock = model.loadings.copy(), model.clock.copy()
        loadings[:, 0] *= np.sqrt(max(surprise - own, 0.0) / uneven)
        clock[:, -2:] += further
        odds[old] += further
        offset = model.offset + np.clip(step, -1, 1).astype(np.float32)
        model = replace(model, offset=offset, clock=clock, loadings=loadings)
    return model

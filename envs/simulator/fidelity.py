"""How far simulated weeks are from real ones that the model has not seen.

``Fidelity``  figures of real and of simulated weeks, and what a classifier makes of the difference
``compare``   simulates the weeks from ``statistics_end`` on, for all households or for unseen ones
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..data.panel import IntArray
from ..data.prepared import Data
from ..statistics import Estimate, estimate
from .histories import Bools, Histories, baskets
from .shopper import Behaviour, sigmoid
from .world import simulate

WITHIN = 0.10
"""Relative difference that a simulated marginal may have."""

_PAIRS = 300  # pairs of tags most often bought together, whose lift is compared


@dataclass(frozen=True)
class Marginal:
    """One figure of real and of simulated weeks."""

    name: str
    real: float
    simulated: float

    @property
    def off(self) -> float:
        """Relative difference."""
        return self.simulated / self.real - 1


@dataclass(frozen=True)
class Fidelity:
    """How real simulated weeks are.

    Attributes:
        weeks: First week, and the week behind the last one.
        households: Number of households.
        marginals: Figures of real and simulated weeks.
        popularity: Spearman's correlation of the tags' numbers of purchases.
        together: Spearman's correlation of the lifts of pairs of tags.
        told_apart: AUC of a classifier on baskets of households that it was not trained on; at .5 it cannot
            tell them apart.
        visits: AUC of the behaviour's forecast of a visit along real weeks, and ``purchases``: of a purchase
            given a visit.
        calibration: ``[tenths, 2]``: mean forecast and share bought, by tenth of the forecast.
        per_week: Week -> visit rate, and tags of a visit, real and simulated.
        sizes: Real and simulated numbers of tags of a visit.
        purchases_of: ``[tags]`` real and simulated numbers of purchases.
    """

    weeks: tuple[int, int]
    households: int
    marginals: Sequence[Marginal]
    popularity: float
    together: float
    told_apart: Estimate
    visits: float
    purchases: float
    calibration: npt.NDArray[np.float64]
    per_week: npt.NDArray[np.float64]
    sizes: tuple[IntArray, IntArray]
    purchases_of: tuple[IntArray, IntArray]


def compare(
    data: Data, behaviour: Behaviour, *, weeks: int = 16, unseen: bool = False, seed: int = 0
) -> Fidelity:
    """Simulate weeks that the model was not fitted on, and hold them against the real ones.

    Args:
        weeks: Number of weeks from ``statistics_end`` on, or until the data end.
        unseen: Only households that nothing was fitted on.
    """
    panel, first = data.panel, data.protocol.statistics_end
    assert first is not None
    end = min(first + weeks, int(panel.week.max()) + 1)
    users = np.flatnonzero(panel.unseen if unseen else np.ones(len(panel.unseen), bool)).astype(np.int32)
    start = Histories.of(panel, users, first)
    start = start.taken(np.flatnonzero(start.visits > 0))
    real = [bought for _, bought in baskets(panel, start.users, first, end)]
    simulated = list(simulate(behaviour, start.copied(), end - first, seed))
    told = _Told.of(start, real), _Told.of(start, simulated)
    visits, purchases, calibration = _forecasts(behaviour, start, real)
    sizes = tuple(one.size.astype(np.int32) for one in told)
    counts = tuple(np.sum([week.sum(axis=0) for week in some], axis=0) for some in (real, simulated))
    return Fidelity(
        weeks=(first, end),
        households=len(start.users),
        marginals=_marginals(*told, len(start.users) * (end - first)),
        popularity=_rank_correlation(*counts),
        together=_rank_correlation(*_lifts(real, simulated)),
        told_apart=_told_apart(*told, seed),
        visits=visits,
        purchases=purchases,
        calibration=calibration,
        per_week=np.array(
            [
                (first + week, *(some[week].any(axis=1).mean() for some in (real, simulated)))
                for week in range(end - first)
            ]
        ),
        sizes=(sizes[0], sizes[1]),
        purchases_of=(counts[0], counts[1]),
    )


@dataclass(frozen=True)
class _Told:
    """Visits of some weeks: ``[visits]`` shopper, size, repeated and novel tags, weeks since the last visit;
    and ``[visits, tags]``."""

    shopper: IntArray
    size: npt.NDArray[np.int64]
    repeats: npt.NDArray[np.int64]
    novel: npt.NDArray[np.int64]
    gap: npt.NDArray[np.float32]
    bought: Bools

    @classmethod
    def of(cls, start: Histories, weeks: Sequence[Bools]) -> "_Told":
        histories, parts = start.copied(), []
        for bought in weeks:
            came = np.flatnonzero(bought.any(axis=1))
            some = bought[came]
            parts.append(
                (
                    came,
                    some.sum(axis=1),
                    (some & (histories.age[came] <= 4)).sum(axis=1),
                    (some & histories.novel(20)[came]).sum(axis=1),
                    histories.gap[came],
                    some,
                )
            )
            histories.advance(bought)
        return cls(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _marginals(real: _Told, simulated: _Told, household_weeks: int) -> list[Marginal]:
    def figures(told: _Told) -> dict[str, float]:
        return {
            "visits a household-week": len(told.size) / household_weeks,
            "tags a visit": float(told.size.mean()),
            "deviation of tags a visit": float(told.size.std()),
            "tags a household-week": float(told.size.sum() / household_weeks),
            "share bought within four weeks before": float(told.repeats.sum() / told.size.sum()),
            "share not bought in twenty weeks": float(told.novel.sum() / told.size.sum()),
        }

    ours = figures(simulated)
    return [Marginal(name, value, ours[name]) for name, value in figures(real).items()]


def _forecasts(
    behaviour: Behaviour, start: Histories, real: Sequence[Bools]
) -> tuple[float, float, npt.NDArray[np.float64]]:
    """AUC of the forecasts of visits and purchases along real histories, and calibration of the latter."""
    from sklearn.metrics import roc_auc_score

    histories = start.copied()
    visits, came, buys, bought = [], [], [], []
    for number, some in enumerate(real):
        wish = behaviour.wish(histories)
        visits.append(wish.visit)
        came.append(some.any(axis=1))
        if number % 4 == 0:
            buys.append(sigmoid(wish.buy[came[-1]]).ravel())
            bought.append(some[came[-1]].ravel())
        histories.advance(some)
    chances, outcomes = np.concatenate(buys), np.concatenate(bought)
    limits = np.quantile(chances, np.arange(1, 10) / 10)
    tenth = np.searchsorted(limits, chances)
    counts = np.bincount(tenth, minlength=10)
    calibration = np.stack([np.bincount(tenth, one, 10) / counts for one in (chances, outcomes)], axis=1)
    return (
        float(roc_auc_score(np.concatenate(came), np.concatenate(visits))),
        float(roc_auc_score(outcomes, chances)),
        calibration,
    )


def _told_apart(real: _Told, simulated: _Told, seed: int) -> Estimate:
    """AUC of boosted trees that see a basket, its size, its novel and repeated tags and the gap before it.

    Trained on half of the households and tested on the other. The AUC is the mean, over real baskets of the
    test half, of the share of simulated ones that look less real. The interval resamples real households of
    that half; the classifier and the simulated baskets stand as they are.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    def seen(told: _Told) -> npt.NDArray[np.float32]:
        of_basket = np.stack([told.size, told.repeats, told.novel, told.gap], axis=1)
        return np.concatenate([of_basket, told.bought], axis=1).astype(np.float32)

    rng = np.random.default_rng(seed)
    half = rng.random(1 + max(real.shopper.max(), simulated.shopper.max())) < 0.5
    parts = [(seen(told), half[told.shopper]) for told in (simulated, real)]
    inputs = np.concatenate([one[trained] for one, trained in parts])
    labels = np.repeat([0, 1], [trained.sum() for _, trained in parts])
    model = HistGradientBoostingClassifier(max_iter=80, max_leaf_nodes=15, random_state=seed)
    model.fit(inputs, labels)
    scores = [model.predict_proba(one[~trained])[:, 1] for one, trained in parts]
    ordered = np.sort(scores[0])
    below = [np.searchsorted(ordered, scores[1], side) for side in ("left", "right")]
    share = (below[0] + below[1]) / (2 * len(ordered))
    return estimate(share, real.shopper[~parts[1][1]], resamples=500)


def _lifts(real: Sequence[Bools], simulated: Sequence[Bools]) -> tuple[npt.NDArray, npt.NDArray]:
    """Lift of the pairs of tags that real baskets most often hold together."""

    def lift(weeks: Sequence[Bools]) -> tuple[npt.NDArray, npt.NDArray]:
        together = np.zeros((weeks[0].shape[1],) * 2)
        visits = 0
        for week in weeks:
            came = week[week.any(axis=1)].astype(np.float32)
            together += came.T @ came
            visits += len(came)
        single = np.diag(together)
        return together, together * visits / np.maximum(np.outer(single, single), 1)

    (together, ours), (_, theirs) = lift(real), lift(simulated)
    rows, columns = np.triu_indices(len(together), 1)
    most = np.argsort(-together[rows, columns], kind="stable")[:_PAIRS]
    return ours[rows, columns][most], theirs[rows, columns][most]


def _rank_correlation(a: npt.NDArray, b: npt.NDArray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)

"""``offer_acceptance``: would the household take an offer of the tags that it is shown?

``OfferRanker``       probability that an offer is redeemed, learned from :mod:`recrl.envs.data.coupons`
``OfferRanks``        each tag's place in the catalogue for a household and a week
``offer_acceptance``  the reward
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..registry import reward

if TYPE_CHECKING:
    from ...envs.catalog import ParsedAnswer
    from ...envs.data.coupons import CouponHistory, Offers

Floats = npt.NDArray[np.float64]

FOLDS = 5  # of campaigns, for the calibration
FIRST_WEEK = 8  # a campaign needs so many weeks before it to have a history


@dataclass(frozen=True)
class OfferRanker:
    """Logistic regression with Platt's calibration.

    Attributes:
        mean, scale: ``[features]`` of the pairs that it learned from.
        weights: ``[features]`` of standardised features.
        intercept: Intercept beside the weights.
        slope, shift: Calibrated log-odds = slope * score + shift.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    slope: float
    shift: float

    @classmethod
    def fit(cls, offers: Offers, before: int) -> OfferRanker:
        """Learn from the offers to training households in campaigns that began before a week.

        Scores of the calibration come from models that did not see the campaign.

        Args:
            before: Week; campaigns that began in or after it are not read.

        Raises:
            ImportError: scikit-learn is not installed.
            ValueError: too few campaigns began before.
        """
        try:
            from sklearn.linear_model import LogisticRegression
            from sklearn.model_selection import GroupKFold, cross_val_predict
            from sklearn.pipeline import make_pipeline
            from sklearn.preprocessing import StandardScaler
        except ImportError as error:
            raise ImportError("the offer ranker needs scikit-learn: pip install 'recrl[demo]'") from error

        unseen = offers.history.panel.unseen[offers.user]
        rows = (offers.week >= FIRST_WEEK) & (offers.week < before) & ~unseen
        campaigns = len(np.unique(offers.campaign[rows]))
        if campaigns < FOLDS:
            raise ValueError(
                f"offers: {campaigns} campaigns began before week {before}, and the ranker needs {FOLDS}; "
                "learn from more weeks (data.protocol.statistics_end)"
            )
        x, y = offers.features[rows], offers.taken[rows]
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        held_out = cross_val_predict(
            model, x, y, groups=offers.campaign[rows], cv=GroupKFold(FOLDS), method="decision_function"
        )
        # Next to no penalty: two parameters, and the scores' own scale.
        platt = LogisticRegression(C=1e6).fit(held_out[:, None], y)
        model.fit(x, y)
        scaler, regression = model[0], model[1]
        return cls(
            mean=tuple(scaler.mean_.tolist()),
            scale=tuple(scaler.scale_.tolist()),
            weights=tuple(regression.coef_[0].tolist()),
            intercept=float(regression.intercept_[0]),
            slope=float(platt.coef_[0, 0]),
            shift=float(platt.intercept_[0]),
        )

    def score(self, features: Floats) -> Floats:
        """Log-odds before the calibration, ``[...]`` of ``[..., features]``."""
        standard = (features - np.array(self.mean)) / np.array(self.scale)
        return standard @ np.array(self.weights) + self.intercept

    def probability(self, features: Floats) -> Floats:
        """Calibrated probability that an offer is redeemed, ``[...]`` of ``[..., features]``."""
        from scipy.special import expit

        return expit(self.slope * self.score(features) + self.shift)

    def state_dict(self) -> dict[str, Any]:
        """Attributes as JSON holds them; ``OfferRanker(**state)`` is the same again."""
        return asdict(self)


class OfferRanks:
    """Places of a catalogue's tags by how probable it is that a household takes an offer of them.

    Args:
        ranker: Ranker that gives the probabilities.
        history: What is known of the households before a week.
    """

    def __init__(self, ranker: OfferRanker, history: CouponHistory) -> None:
        self.ranker, self.history = ranker, history
        self._found: dict[int, npt.NDArray[np.float32]] = {}

    def of_week(self, week: int) -> npt.NDArray[np.float32]:
        """``[users, tags]``: percentile rank, 0 the least probable tag of the household and 1 the most; ties
        share their mean."""
        if week not in self._found:
            from scipy.stats import rankdata  # half a second, which every worker process would wait for

            probable = self.ranker.probability(self.history.features(week))
            ranks = (rankdata(probable, axis=1) - 1) / max(1, probable.shape[1] - 1)
            self._found[week] = ranks.astype(np.float32)
        return self._found[week]


@reward("offer_acceptance", range=(0, 1), per="tag_mean")
def offer_acceptance(
    answers: list[ParsedAnswer], user: list[int], origin: list[int], offers: OfferRanks, slots: int
) -> list[float]:
    """Mean over the shown tags of the tag's percentile, by the probability that an offer of it is taken.

    0.5 for tags drawn at random, 0 if no valid tag is shown; one good tag scores like K of them. A ranking
    reward: probabilities near .0075 have no scale to learn from. The ranker learned from coupons of the
    panel, see `recrl bench offers`.

    Args:
        user: index of each sample's household.
        origin: week of each sample.
        offers: percentile of each tag for a household and a week.
    """
    scores = []
    for answer, household, week in zip(answers, user, origin, strict=True):
        shown: Sequence[int] = answer.top(slots)
        scores.append(float(offers.of_week(week)[household, list(shown)].mean()) if shown else 0.0)
    return scores

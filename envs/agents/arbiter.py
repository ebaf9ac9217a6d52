"""The arbiter that needs no language model: it reviews the union of the experts' lists jointly.

``Ranker``      list-wise greedy: what a tag is worth beside those that are chosen already
``arbitrated``  a row as the arbiter meets it: the experts' lists in the column ``candidates``
``in_turn``     the lists merged in turn, where nobody arbitrates
``held``        a ranker under prices that are meant to hold bounds
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..catalog import Catalog
from ..task import Row
from .experts import Scores

Lists = Sequence[Sequence[int]]

FEATURES = (
    "relevance",
    "frequency",
    "consistency",
    "specificity",
    "agreement",
    "place",
    "weight",
    "redundancy",
)
"""What a candidate is judged by: log-odds of the score; weeks with it in the history; cosine to the
household's tags; minus the logarithm of its buyers; experts that name it; its place in their best list;
weight of the persona; and its largest cosine to what is chosen already."""

PRICED = ("novelty", "diversity")
"""Measures of a list that may have a price."""

_HALVINGS = 9  # of the interval in which a price is looked for


def arbitrated(row: Row, lists: Lists, weights: Sequence[float]) -> dict[str, Any]:
    """A row for the arbiter.

    Args:
        lists: Tags of each expert that answered, best first.
        weights: Weight of the persona of each.
    """
    return {**row, "candidates": [list(tags) for tags in lists], "weights": list(weights)}


def in_turn(lists: Lists, slots: int) -> list[int]:
    """The first tags of all lists, then the second ones, and so on, none twice."""
    longest = max(map(len, lists), default=0)
    merged = [tags[place] for place in range(longest) for tags in lists if place < len(tags)]
    return list(dict.fromkeys(merged))[:slots]


@dataclass(frozen=True)
class Ranker:
    """Chooses tags one after the other, each by its worth beside those chosen before.

    The worth of a candidate is the probability that it is bought (logistic regression of scikit-learn on
    :data:`FEATURES`), and for each price the price times what the candidate adds: 1 to the novelty if it was
    not bought lately, and 1 - its mean cosine to the chosen ones to the diversity. A tag that is in no
    catalogue never is a candidate, so every list is valid.

    Attributes:
        scores: Function that scores the options of rows as probabilities, ``[rows, options]``.
        vectors: Unit vectors of the options.
        catalog: Tags.
        buyers: Number of buyers of each option.
        slots: Tags of a list.
        prices: Measure of :data:`PRICED` -> price, in probability.
        model: Fitted regression; None ranks by relevance alone.
    """

    scores: Scores
    vectors: npt.NDArray[np.floating]
    catalog: Catalog
    buyers: npt.NDArray[np.floating]
    slots: int
    prices: Mapping[str, float] = field(default_factory=dict)
    model: Any = None

    def __call__(self, rows: Sequence[Row]) -> list[str]:
        return [self.catalog.render(tags) for tags in self.choose(rows)]

    def choose(self, rows: Sequence[Row]) -> list[list[int]]:
        """Tags of each row's list, best first."""
        return [review.choose(self) for review in self.reviews(rows)]

    def reviews(self, rows: Sequence[Row]) -> "list[Review]":
        """What is known of the candidates of each row."""
        if not rows:
            return []
        return [Review.of(row, own, self) for row, own in zip(rows, self.scores(rows), strict=True)]

    def fitted(self, rows: Sequence[Row], seed: int = 0) -> "Ranker":
        """A ranker fitted on rows of training users, whose ``target`` is read.

        Each row teaches at one moment of its list: some of its candidates, drawn by chance, the likelier the
        more relevant, are chosen already.
        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        rng = np.random.default_rng(seed)
        features, bought = [], []
        for row, review in zip(rows, self.reviews(rows), strict=True):
            order = np.argsort(-review.given[:, 0] + rng.gumbel(size=len(review.tags)))
            chosen, rest = np.split(order, [int(rng.integers(self.slots))])
            features.append(review.features(chosen, self.vectors)[rest])
            bought.append(np.isin(review.tags[rest], row["target"]))
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        return replace(self, model=model.fit(np.concatenate(features), np.concatenate(bought)))

    def worth(self, features: npt.NDArray) -> npt.NDArray:
        """Probability that each candidate is bought, ``[candidates]``."""
        if self.model is None:
            return 1 / (1 + np.exp(-features[:, 0]))
        scaler, regression = (step for _, step in self.model.steps)
        logits = (features - scaler.mean_) / scaler.scale_ @ regression.coef_[0] + regression.intercept_[0]
        return np.asarray(1 / (1 + np.exp(-logits)))


@dataclass(frozen=True)
class Review:
    """Candidates of one row.

    Attributes:
        tags: Tags, ``[candidates]``.
        given: Features that do not depend on what is chosen, ``[candidates, 7]``.
        novel: Whether each was not bought lately, ``[candidates]``.
    """

    tags: npt.NDArray[np.intp]
    given: npt.NDArray[np.floating]
    novel: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, row: Row, scores: npt.NDArray[np.floating], ranker: Ranker) -> "Review":
        lists, weights = row["candidates"], row["weights"]
        tags = np.array(list(dict.fromkeys(tag for named in lists for tag in named)), int)
        places = np.array([[_place(named, tag) for named in lists] for tag in tags.tolist()])
        places = places.reshape(len(tags), len(lists))
        history = np.zeros(len(scores))
        history[list(row["history"])] = row["history_weight"]
        profile = history @ ranker.vectors
        profile /= max(float(np.linalg.norm(profile)), 1e-9)
        chance = np.clip(scores[tags], 1e-5, 1 - 1e-5)
        named_by = places < np.inf
        given = np.stack(
            [
                np.log(chance / (1 - chance)),
                np.log1p(history[tags]),
                ranker.vectors[tags] @ profile,
                -np.log1p(ranker.buyers[tags]),
                named_by.sum(axis=1),
                -np.log1p(places.min(axis=1, initial=99.0)),
                np.where(named_by, np.array(weights, float), 0.0).max(axis=1, initial=0.0),
            ],
            axis=1,
        )
        return cls(tags, given, ~np.isin(tags, row["lookback"]))

    def features(self, chosen: npt.NDArray[np.intp], vectors: npt.NDArray) -> npt.NDArray:
        """All features beside chosen candidates, by their numbers: ``[candidates, 8]``."""
        near = vectors[self.tags] @ vectors[self.tags[chosen]].T
        return np.column_stack([self.given, near.max(axis=1, initial=0.0)])

    def choose(self, ranker: Ranker) -> list[int]:
        """Tags of the list, chosen one after the other."""
        vectors, prices = ranker.vectors[self.tags], ranker.prices
        near = vectors @ vectors.T
        nearest, total = np.zeros(len(self.tags)), np.zeros(len(self.tags))
        chosen: list[int] = []
        for place in range(min(ranker.slots, len(self.tags))):
            worth = ranker.worth(np.column_stack([self.given, nearest]))
            worth = worth + prices.get("novelty", 0.0) * self.novel
            if place:
                worth = worth + prices.get("diversity", 0.0) * (1 - total / place)
            worth[chosen] = -np.inf
            best = int(worth.argmax())
            chosen.append(best)
            nearest, total = np.maximum(nearest, near[best]), total + near[best]
        return self.tags[chosen].tolist()


def held(
    ranker: Ranker,
    rows: Sequence[Row],
    floors: Mapping[str, float],
    measured: Callable[[list[list[int]]], Mapping[str, float]],
    rounds: int = 2,
) -> Ranker:
    """The ranker under prices that are meant to hold floors on the mean of its lists.

    The prices are found in turn, each by bisection between 0 and 1: the lowest that holds its floor while
    the others stand as they are. A floor that no price up to 1 holds leaves the price at 1, and a later price
    may break an earlier floor, for which there are several rounds. Other rows may miss the floors.

    Args:
        rows: Rows of training users.
        floors: Measure of :data:`PRICED` -> lowest mean.
        measured: Function that measures the lists of all rows.
    """
    reviews = ranker.reviews(rows)
    for _ in range(rounds if len(floors) > 1 else 1):
        for name, floor in floors.items():
            low, high = 0.0, 1.0
            for _ in range(_HALVINGS):
                price = (low + high) / 2
                tried = replace(ranker, prices={**ranker.prices, name: price})
                lists = [review.choose(tried) for review in reviews]
                low, high = (price, high) if measured(lists)[name] < floor else (low, price)
            ranker = replace(ranker, prices={**ranker.prices, name: high})
    return ranker


def _place(tags: Sequence[int], tag: int) -> float:
    return tags.index(tag) if tag in tags else np.inf

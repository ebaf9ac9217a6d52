"""What can be had without a language model: tags ranked by a model of a dozen counts.

``TagRanker``  probability that a user buys a tag in the weeks ahead, by gradient-boosted trees on counts
"""

from collections.abc import Sequence
from copy import copy
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..data.panel import IntArray
from ..data.panel import rows as rows_of
from ..data.prepared import Data
from ..task import Row, evenly
from . import baselines

Floats = npt.NDArray[np.float32]

# Training episodes, spread evenly: the figures no longer move beyond.
EPISODES = 1500
_NEVER = 99.0  # weeks since a purchase that never was


class TagRanker:
    """Histogram-based gradient boosting of scikit-learn, fitted on training episodes.

    Features of a user and a tag, all known at the origin: weeks with a purchase (all, the last 4, 12, 26),
    their recency-weighted sum, weeks since the last one, the tag's rank among the user's, buyers of the tag
    (the last 4 and 8 weeks), EASE fitted on weeks before the first training origin, and the user's tags a
    week.

    Args:
        data: Prepared data; outcomes of its training episodes alone are read.
        seed: Seed of the trees' binning.

    Raises:
        ImportError: scikit-learn is not installed.
    """

    def __init__(self, data: Data, seed: int = 0) -> None:
        from sklearn.ensemble import HistGradientBoostingClassifier  # half a second, for this baseline alone

        self._data = data
        episodes = data.split("train")
        rows = episodes[evenly(episodes.height, EPISODES)].to_dicts()
        bought = baselines.member_mask(rows, "target", len(data.catalog))
        self._model = HistGradientBoostingClassifier(
            max_iter=150, learning_rate=0.08, max_leaf_nodes=31, min_samples_leaf=100, random_state=seed
        )
        self._model.fit(self.features(rows).reshape(bought.size, -1), bought.ravel())

    def seeing(self, data: Data) -> "TagRanker":
        """The same fitted model, which reads counts off other purchases of the same users and tags."""
        other = copy(self)
        other._data = data
        return other

    def probabilities(self, rows: Sequence[Row]) -> Floats:
        """``[rows, tags]``: probability that the tag is bought in the target window."""
        features = self.features(rows)
        found = self._model.predict_proba(features.reshape(-1, features.shape[-1]))[:, 1]
        return found.reshape(features.shape[:2]).astype(np.float32)

    def gains(self, rows: Sequence[Row]) -> Floats:
        """``[rows, tags]``: about what a tag adds to the expected recall of a list that shows it."""
        probable = self.probabilities(rows)
        return probable / probable.sum(axis=1, keepdims=True)

    def features(self, rows: Sequence[Row]) -> Floats:
        """``[rows, tags, features]``."""
        origins, users = (np.array([row[name] for row in rows], dtype=int) for name in ("origin", "user"))
        found: Floats | None = None
        for origin in np.unique(origins):
            chosen = origins == origin
            of_origin = self._of_origin(int(origin), users[chosen])
            if found is None:
                found = np.empty((len(rows), *of_origin.shape[1:]), np.float32)
            found[chosen] = of_origin
        assert found is not None, "no rows"
        return found

    def _of_origin(self, origin: int, users: IntArray) -> Floats:
        panel = self._data.panel
        counts = [
            rows_of(panel.counts(max(0, origin - weeks), origin), users) for weeks in (10_000, 4, 12, 26)
        ]
        before = panel.week < origin
        last = np.full((len(panel.users), panel.n_tags), -_NEVER, np.float32)
        np.maximum.at(last, (panel.user[before], panel.tag[before]), panel.week[before] - np.float32(origin))
        rows = [{"origin": origin, "user": user} for user in users]
        recent = baselines.recency(self._data, rows)
        order = np.argsort(np.argsort(-counts[0], axis=1, kind="stable"), axis=1).astype(np.float32)
        shape = counts[0].shape
        per_tag = [np.broadcast_to(panel.popularity(origin, weeks), shape) for weeks in (4, 8)]
        per_user = counts[0].sum(axis=1, keepdims=True) / max(1, origin)
        liked = (counts[0] > 0).astype(np.float32) @ self._item_weights
        features: list[npt.NDArray[np.floating]] = [
            *counts,
            recent,
            last[users],
            order,
            *per_tag,
            liked,
            np.broadcast_to(per_user, shape),
        ]
        return np.stack(features, axis=-1).astype(np.float32)

    @cached_property
    def _item_weights(self) -> Floats:
        """Weights of EASE that no target of a training episode went into."""
        origins = self._data.protocol.train_origins or self._data.split("train")["origin"].to_list()
        return baselines.ease_weights(self._data, min(origins))

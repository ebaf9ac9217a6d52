"""The planner that needs no language model: clusters of a household's tags.

``purchased``  vectors of tags from who bought them, a space without names and without a language model
``Clusters``   personas of a household, by k-means
``Household``  personas of groups of tags, whoever grouped them
``cells``      which options each group answers for
"""

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from ..data.calendar import season
from ..data.panel import Panel
from ..data.prepared import Data
from ..task import Row, TaskError
from .personas import Persona

Vectors = npt.NDArray[np.floating]

SEASONS = ("winter", "spring", "summer", "autumn")
DIMENSIONS = 32
_FADE = 8.0  # weeks in which recency falls to 1 / e


def purchased(data: Data) -> Vectors:
    """Unit vectors of the tags, ``[tags, d]``: the leading left singular vectors of who bought what.

    Columns of the matrix are training users before ``statistics_end``; each tag's row is divided by the root
    of its number of buyers, so that popular tags do not make up the space (latent semantic analysis,
    Deerwester et al. 1990).
    """
    end = data.protocol.statistics_end
    assert end is not None, "prepared data have their protocol filled in"
    bought = (data.panel.counts(0, end, training_users=True) > 0).astype(float)
    buyers = np.maximum(np.asarray(bought.sum(axis=0)).ravel(), 1.0)
    gram = np.asarray((bought.T @ bought).todense()) / np.sqrt(np.outer(buyers, buyers))
    values, vectors = np.linalg.eigh(gram)
    # The first direction is popularity, which tells no persona from another.
    kept = slice(-1 - DIMENSIONS, -1)
    found = vectors[:, kept] * np.sqrt(np.maximum(values[kept], 0.0))
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


def check_clusters(use: str) -> None:
    """Refuse a task whose planner cannot be had.

    Raises:
        TaskError: scikit-learn is not installed.
    """
    if find_spec("sklearn") is None:
        raise TaskError(
            f"task.use={use}: its planner clusters tags by scikit-learn, which is not installed; "
            "pip install scikit-learn"
        )


def cells(vectors: Vectors, centres: Vectors) -> npt.NDArray[np.intp]:
    """Number of the nearest centre of every option, ``[options]``."""
    return np.asarray(((vectors[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=1))


class Household:
    """Makes personas of groups of tags: weeks, season and weight from the purchases, cells from the vectors.

    Args:
        data: Data that the rows are of; nothing from a row's origin on is read.
        vectors: Unit vectors of the options, ``[options, d]``.
    """

    def __init__(self, data: Data, vectors: Vectors) -> None:
        self.panel, self.vectors = data.panel, vectors
        weeks = np.unique(data.panel.week)
        named = [SEASONS.index(season(data.panel.monday(int(week)))) for week in weeks]
        self._season = dict(zip(weeks.tolist(), named, strict=True))

    def personas(self, row: Row, groups: Sequence[Sequence[int]]) -> list[Persona]:
        """Personas of a household, the heaviest first.

        Args:
            groups: Tags of the row's history, each in one group at most, none of them empty.
        """
        weights = dict(zip(row["history"], row["history_weight"], strict=True))
        bought, origin = weeks_of(self.panel, row), int(row["origin"])
        centres = [
            np.average(self.vectors[list(tags)], axis=0, weights=[weights[tag] for tag in tags])
            for tags in groups
        ]
        nearest = cells(self.vectors, np.stack(centres))
        for number, tags in enumerate(groups):
            nearest[list(tags)] = number
        found = []
        for number, tags in enumerate(groups):
            weeks = np.concatenate([bought.get(tag, np.zeros(0, int)) for tag in tags])
            rates = self.seasons(weeks, origin)
            found.append(
                Persona(
                    tags=tuple(sorted(tags, key=lambda tag: -weights[tag])),
                    weeks=tuple(sorted({origin - week for week in weeks.tolist()})),
                    season=SEASONS[int(rates.argmax())] if rates.any() else "",
                    weight=float(sum(weights[tag] for tag in tags) / sum(weights.values())),
                    cell=tuple(np.flatnonzero(nearest == number).tolist()),
                )
            )
        return sorted(found, key=lambda persona: -persona.weight)

    def seasons(self, weeks: npt.NDArray, origin: int) -> npt.NDArray:
        """Purchases a week in each season before the origin, ``[4]``; 0 in one that was not seen."""
        of, seen = np.zeros(4), np.zeros(4)
        for week in weeks.tolist():
            of[self._season[week]] += 1
        for week, number in self._season.items():
            seen[number] += week < origin
        return of / np.maximum(seen, 1)


class Clusters:
    """Personas of each row: k-means (scikit-learn) of the tags of its history.

    A tag stands where its vector is, and by the clock: how lately and how regularly the household buys it,
    and in which season. It weighs what the history says of its frequency. Every option of the catalogue
    belongs to the persona whose centre is nearest in the space of the vectors. A row without a history has no
    persona.

    Args:
        data: Data that the rows are of.
        vectors: Unit vectors of the options, ``[options, d]``.
        personas: Number of personas; fewer where a history has fewer tags.
        clock: Weight of recency, rhythm and season beside the vectors; 0 for the vectors alone.
    """

    def __init__(self, data: Data, vectors: Vectors, personas: int = 4, clock: float = 0.2) -> None:
        self._household, self._personas, self._clock = Household(data, vectors), personas, clock

    def __call__(self, rows: Sequence[Row]) -> list[list[Persona]]:
        return [self._split(row) if len(row["history"]) else [] for row in rows]

    def _split(self, row: Row) -> list[Persona]:
        from sklearn.cluster import KMeans  # half a second, for those who plan alone

        tags, origin = np.array(row["history"], int), int(row["origin"])
        bought = weeks_of(self._household.panel, row)
        clock = [self._by_clock(bought.get(tag, np.zeros(0, int)), origin) for tag in tags.tolist()]
        space = np.hstack([self._household.vectors[tags], self._clock * np.array(clock)])
        means = KMeans(min(self._personas, len(tags)), n_init=1, random_state=0)
        found = means.fit_predict(space, sample_weight=np.array(row["history_weight"], float))
        return self._household.personas(row, [tags[found == number].tolist() for number in np.unique(found)])

    def _by_clock(self, weeks: npt.NDArray, origin: int) -> npt.NDArray:
        """Recency, regularity, and the share of each season, ``[6]``."""
        if not len(weeks):
            return np.zeros(6)
        age = origin - weeks
        regular = len(weeks) / (age.max() - age.min() + 1)
        rates = self._household.seasons(weeks, origin)
        return np.concatenate([[np.exp(-age.min() / _FADE), regular], rates / rates.sum()])


def weeks_of(panel: Panel, row: Row) -> dict[int, npt.NDArray]:
    """Weeks before the row's origin in which its user bought each tag."""
    user, origin = int(row["user"]), int(row["origin"])
    first, end = np.searchsorted(panel.user, [user, user + 1])
    tags, weeks = panel.tag[first:end], panel.week[first:end]
    before = weeks < origin
    order = np.argsort(tags[before], kind="stable")
    tags, weeks = tags[before][order], weeks[before][order]
    names, starts = np.unique(tags, return_index=True)
    return dict(zip(names.tolist(), np.split(weeks, starts)[1:], strict=True))

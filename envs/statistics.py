"""Means with bootstrap confidence intervals over users, of one run or of seeds; paired differences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

RESAMPLES = 2000
"""Resamples of a bootstrap."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval.

    Attributes:
        mean: Mean over defined episodes.
        low, high: Bounds of the percentile bootstrap over users, 2.5 % and 97.5 %.
        episodes: Number of episodes in the mean.
        dropped: Number of episodes where the metric is undefined.
    """

    mean: float
    low: float
    high: float
    episodes: int
    dropped: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(
    values: Values, users: npt.NDArray[np.integer], *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Mean with a bootstrap interval that resamples whole users (their episodes are not independent).

    Args:
        values: ``[episodes]``; NaN = undefined.
        users: ``[episodes]`` user of each episode.

    Raises:
        ValueError: no episode is defined.
    """
    defined = ~np.isnan(values)
    if not defined.any():
        raise ValueError("the metric is undefined for every episode; nothing to average")
    _, cluster = np.unique(users[defined], return_inverse=True)
    sums = np.bincount(cluster, values[defined])
    sizes = np.bincount(cluster).astype(float)
    rng = np.random.default_rng(seed)
    # Poisson-free exact bootstrap: how often each user is drawn in a resample of all users.
    draws = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=resamples)
    means = (draws @ sums) / (draws @ sizes)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(
        float(values[defined].mean()), float(low), float(high), int(defined.sum()), int((~defined).sum())
    )


def pooled(
    values: Sequence[npt.NDArray[np.floating]],
    users: npt.NDArray[np.integer],
    *,
    per: Sequence[npt.NDArray[np.floating]] | None = None,
    seed: int = 0,
) -> Estimate:
    """Mean over seeds and episodes; users and seeds are both resampled, each user with all its episodes.

    One seed is no sample of seeds: its interval is over users alone.

    Args:
        values: Values ``[episode]`` of each seed, of the same episodes; NaN = undefined.
        users: ``[episodes]`` user of each episode.
        per: What the sum of the values is divided by the sum of, shaped alike, for a ratio of means in place
            of a mean.
        seed: Seed of the bootstrap.
    """
    found = np.stack(values).astype(float)
    divisors = np.ones_like(found) if per is None else np.stack(per).astype(float)
    defined = ~np.isnan(found + divisors)
    found, divisors = np.where(defined, found, 0), np.where(defined, divisors, 0)
    _, cluster = np.unique(users, return_inverse=True)
    clusters, n = int(cluster.max()) + 1, len(found)
    sums, sizes = (
        np.stack([np.bincount(cluster, row, clusters) for row in rows])  # [seed, user]
        for rows in (found, divisors)
    )
    random = np.random.default_rng(seed)
    drawn = random.multinomial(clusters, np.full(clusters, 1 / clusters), size=RESAMPLES)  # [resample, user]
    seeds = random.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)  # [resample, seed]
    with np.errstate(divide="ignore", invalid="ignore"):
        means = ((drawn @ sums.T) * seeds).sum(axis=1) / ((drawn @ sizes.T) * seeds).sum(axis=1)
        mean = float(found.sum() / divisors.sum())
    known = means[~np.isnan(means)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
    return Estimate(mean, float(low), float(high), int(defined.sum()), int((~defined).sum()))


def paired_difference(a: Values, b: Values, users: npt.NDArray[np.integer], *, seed: int = 0) -> Estimate:
    """``mean(a - b)`` over the same episodes, with the interval of :func:`estimate`."""
    return estimate(a - b, users, seed=seed)


def ratio(numerator: npt.NDArray, denominator: npt.NDArray) -> Values:
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), np.nan)

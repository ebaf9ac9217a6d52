"""Statistics of many runs: what a benchmark may say after a handful of seeds.

Runs come as *strata*: one array of scores for each problem, one entry a seed. Intervals are 95 % percentile
intervals of the stratified bootstrap (Agarwal et al. 2021, arXiv 2108.13264). Seeds are resampled within each
problem, problems are kept: an interval speaks about these problems under new seeds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

Scores = npt.NDArray[np.float64]
Statistic = Callable[[Scores], Scores]
"""Statistic `[resample, run] -> [resample]`."""

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval, in the figure's own unit."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: Scores) -> Scores:
    """Mean of the middle half: a quarter of the runs, rounded down, is left out at either end.

    It is less noisy than a median and, unlike a mean, not moved by a few runs that went astray.

    Args:
        scores: Scores, `[..., run]`.

    Returns:
        Means, `[...]`.
    """
    n = scores.shape[-1]
    cut = n // 4
    return np.sort(scores, axis=-1)[..., cut : n - cut].mean(axis=-1)


def mean(scores: Scores) -> Scores:
    """Mean over runs: `[..., run] -> [...]`."""
    return scores.mean(axis=-1)


def bootstrap(
    strata: Sequence[Scores], statistic: Statistic = interquartile_mean, *, seed: int = 0
) -> Interval:
    """A statistic over all runs, with its stratified bootstrap interval.

    Args:
        strata: Scores of the seeds of each problem; their numbers may differ.
        statistic: Statistic `[resample, run] -> [resample]`.
        seed: Seed of the resampling.

    Raises:
        ValueError: no runs, or a score that is not finite.
    """
    strata = _checked(strata)
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([s[rng.integers(len(s), size=(RESAMPLES, len(s)))] for s in strata], axis=1)
    low, high = _percentiles(statistic(drawn))
    return Interval(float(statistic(np.concatenate(strata)[None])[0]), float(low), float(high))


def paired_difference(first: Sequence[Scores], second: Sequence[Scores], *, seed: int = 0) -> Interval:
    """Mean of `first - second` over runs with the same problem and the same seed.

    Args:
        first: Scores of the seeds of each problem.
        second: Scores of the same runs, in the same order, under another rule.
        seed: Seed of the resampling.

    Raises:
        ValueError: the strata do not match.
    """
    shapes = [[len(s) for s in strata] for strata in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"paired runs must match problem by problem, but their numbers are {shapes}")
    return bootstrap([a - b for a, b in zip(first, second, strict=True)], mean, seed=seed)


@dataclass(frozen=True)
class Profile:
    """Performance profile: `share[tau]` of the runs that score above tau, with a pointwise band."""

    taus: Scores
    share: Scores
    low: Scores
    high: Scores


def performance_profile(strata: Sequence[Scores], taus: Scores, *, seed: int = 0) -> Profile:
    """Share of runs whose score is above each tau (Agarwal et al. 2021, run-score distribution).

    Args:
        strata: Scores of the seeds of each problem.
        taus: Levels, `[tau]`.
        seed: Seed of the resampling.
    """
    strata = _checked(strata)
    rng = np.random.default_rng(seed)
    counts = [rng.multinomial(len(s), np.full(len(s), 1 / len(s)), size=RESAMPLES) for s in strata]
    above = np.concatenate(strata)[:, None] > taus  # [run, tau]
    drawn = np.concatenate(counts, axis=1) @ above / len(above)
    low, high = _percentiles(drawn)
    return Profile(taus, above.mean(axis=0), low, high)


def share(hits: int, total: int) -> Interval:
    """A share of runs with its Wilson interval, which stays within [0, 1] and is honest at 0 and at 1.

    Source: Wilson 1927. Runs count as independent.

    Raises:
        ValueError: not `0 <= hits <= total` with `total > 0`.
    """
    if not 0 <= hits <= total or total < 1:
        raise ValueError(
            f"a share of {hits} hits in {total} runs is none; need 0 <= hits <= total, total > 0"
        )
    z = norm.ppf(0.5 + LEVEL / 2)
    p, spread = hits / total, z**2 / total
    centre = (p + spread / 2) / (1 + spread)
    half = z * np.sqrt(p * (1 - p) / total + spread / (4 * total)) / (1 + spread)
    return Interval(p, max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def _checked(strata: Sequence[Scores]) -> list[Scores]:
    arrays = [np.asarray(s, dtype=np.float64) for s in strata]
    if not arrays or min(map(len, arrays)) == 0:
        raise ValueError("a problem without runs has no statistics; leave it out, or run it first")
    if not all(np.isfinite(s).all() for s in arrays):
        raise ValueError("scores must be finite; leave out the runs without a score, and say so")
    return arrays


def _percentiles(drawn: Scores) -> Scores:
    return np.percentile(drawn, [50 * (1 - LEVEL), 50 * (1 + LEVEL)], axis=0)

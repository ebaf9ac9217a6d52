"""Off-policy evaluation of lists: what a policy would have earned, from the log of another one.

``Logged``      lists that were shown, their probabilities under both policies, and what they earned
``evaluate``    IPS, SNIPS and DR with intervals; refused where too few rows of the log speak for the policy
``sample``      lists of a Plackett-Luce policy and their probabilities, slot by slot

A list is drawn slot by slot, so its probability is a product of conditional ones. Clicks of a slot cannot
depend on slots below it (cascade; McInerney et al. 2020, arXiv 2007.12986), so the weight of a slot is the
product down to it, and not the one of the whole list.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..data.panel import top
from ..statistics import Estimate, Values, estimate
from .scenario import SimulatorError
from .world import Slates

FEWEST, SMALLEST_SHARE = 100.0, 0.01
"""Effective sample size below which, and share of the log below which, an evaluation is refused."""


@dataclass(frozen=True)
class Logged:
    """A log of lists.

    Attributes:
        users: ``[rows]`` whom a list was shown to.
        rewards: ``[rows, slots]``.
        logging: ``[rows, slots]`` log-probability of each slot's tag given the slots above it, under the
            policy that was logged; ``target``: under the one that is evaluated.
        predicted: ``[rows, slots]`` forecast of the rewards; ``expected``: ``[rows]`` forecast of what the
            target earns in the row. None where there is no forecast, and so no DR.
    """

    users: npt.NDArray[np.integer]
    rewards: Values
    logging: Values
    target: Values
    predicted: Values | None = None
    expected: Values | None = None


@dataclass(frozen=True)
class Evaluation:
    """Estimates of the reward of a list.

    Attributes:
        ips: Inverse propensity scores; unbiased.
        snips: The same with weights that add up to the number of rows; less variable, biased for few rows.
        dr: Forecast, corrected by the weighted errors of the forecast; None without one.
        effective: Effective sample size, that of the slot where it is smallest.
    """

    ips: Estimate
    snips: Estimate
    dr: Estimate | None
    effective: float


def evaluate(log: Logged) -> Evaluation:
    """Estimate what the target policy earns a list.

    Raises:
        SimulatorError: the effective sample size is below :data:`FEWEST`, or :data:`SMALLEST_SHARE` of the
            log; or the logged policy could not have shown a list that was logged.
    """
    if not np.isfinite(log.logging).all():
        raise SimulatorError(
            "the log holds lists that its policy could not show: logging probabilities of 0; log the "
            "probabilities that lists were drawn with"
        )
    weights = np.exp(np.cumsum(log.target - log.logging, axis=1))
    effective = float((weights.sum(axis=0) ** 2 / np.square(weights).sum(axis=0)).min())
    least = max(FEWEST, SMALLEST_SHARE * len(weights))
    if not effective >= least:
        raise SimulatorError(
            f"effective sample size {effective:.0f} of {len(weights):,} lists: the policies are too "
            f"different, {least:.0f} are needed; log a policy that is nearer, more lists, or shorter ones"
        )
    weighted = (weights * log.rewards).sum(axis=1)
    normalised = ((weights / weights.mean(axis=0)) * log.rewards).sum(axis=1)
    corrected = None
    if log.predicted is not None and log.expected is not None:
        corrected = log.expected + (weights * (log.rewards - log.predicted)).sum(axis=1)
    return Evaluation(
        ips=estimate(weighted, log.users),
        snips=_snips(normalised, weights, log),
        dr=None if corrected is None else estimate(corrected, log.users),
        effective=effective,
    )


def _snips(normalised: Values, weights: Values, log: Logged) -> Estimate:
    """The ratio's mean, with the interval of its linearised terms (delta method)."""
    per_slot = (weights * log.rewards).mean(axis=0) / weights.mean(axis=0)
    terms = normalised - ((weights / weights.mean(axis=0) - 1) * per_slot).sum(axis=1)
    return estimate(terms, log.users)


def sample(scores: Values, slots: int, rng: np.random.Generator) -> tuple[Slates, Values]:
    """Draw lists of distinct tags, each next tag with probability proportional to exp(score).

    Args:
        scores: ``[rows, tags]``.

    Returns:
        Lists, and the conditional log-probability of each slot.
    """
    # Sorting perturbed scores draws from Plackett-Luce (Kool, van Hoof and Welling 2019).
    perturbed = scores + rng.gumbel(size=scores.shape)
    slates = top(perturbed, slots)
    return slates, log_probabilities(scores, slates)


def log_probabilities(scores: Values, slates: Slates) -> Values:
    """``[rows, slots]``: conditional log-probabilities of lists under a Plackett-Luce policy."""
    chosen = np.take_along_axis(scores, slates, axis=1)
    highest = scores.max(axis=1, keepdims=True)
    mass = np.exp(chosen - highest)
    before = np.cumsum(mass, axis=1) - mass
    left = np.exp(scores - highest).sum(axis=1, keepdims=True) - before
    return chosen - highest - np.log(np.maximum(left, math.ulp(1.0)))

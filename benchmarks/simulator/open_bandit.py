"""Off-policy estimates on the Open Bandit logs: fashion items shown to real visitors of ZOZOTOWN.

``folder``       where the small logs of the package ``obp`` are, whose code is not imported
``open_bandit``  from each policy's log, what the other earns, beside what that one's own log says

Saito et al. 2021, "Open Bandit Dataset and Pipeline" (arXiv 2008.07146). For each of three campaigns 10,000
impressions were logged under uniform choice and 10,000 under Thompson sampling (BTS). An impression is one of
three places, drawn by itself, so these lists have one slot.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import yaml

from recrl.envs.simulator.off_policy import Logged, evaluate
from recrl.envs.simulator.scenario import SimulatorError
from recrl.envs.statistics import estimate

CAMPAIGNS = ("all", "men", "women")
PLACES = 3

_DRAWS = 100_000  # of the sampler, for its probabilities
_AT_ONCE = 10_000
_SHRINKAGE = 200  # impressions that the mean click rate counts for in an item's


def folder() -> Path:
    """Folder of the installed package ``obp``.

    Raises:
        SimulatorError: it is not installed.
    """
    found = find_spec("obp")
    if found is None or found.origin is None:
        raise SimulatorError("the Open Bandit logs are not here: pip install --no-deps obp")
    return Path(found.origin).parent


def open_bandit(given: Any = None, campaigns: Sequence[str] = CAMPAIGNS) -> dict[str, Any]:
    """Campaign -> evaluated policy -> estimates of clicks per 1,000 impressions.

    Args:
        given: Not read: nothing of the shop takes part.
    """
    try:
        place = folder()
    except SimulatorError as error:
        return {"missing": str(error)}
    priors = yaml.safe_load((place / "policy" / "conf" / "prior_bts.yaml").read_text())
    found: dict[str, Any] = {}
    for campaign in campaigns:
        logs = {
            policy: pl.read_csv(place / "dataset" / "obd" / policy / campaign / f"{campaign}.csv")
            for policy in ("random", "bts")
        }
        prior = priors[campaign]
        sampler = chosen(np.array(prior["alpha"]), np.array(prior["beta"]))
        uniform = np.full_like(sampler, 1 / len(sampler))
        truth = {policy: _clicks(log["click"].to_numpy()) for policy, log in logs.items()}
        found[campaign] = {
            "bts": {"truth": truth["bts"], **_estimates(logs["random"], sampler)},
            "random": {"truth": truth["random"], **_estimates(logs["bts"], uniform)},
        }
    return found


def chosen(alpha: npt.NDArray, beta: npt.NDArray, draws: int = _DRAWS, seed: int = 0) -> npt.NDArray:
    """``[items, places]``: probability that Thompson sampling shows an item in a place, by simulation.

    Args:
        alpha, beta: ``[items]`` of the Beta distribution of each item's click rate.
    """
    rng = np.random.default_rng(seed)
    counts = np.zeros((len(alpha), PLACES))
    for first in range(0, draws, _AT_ONCE):
        rates = rng.beta(alpha, beta, (min(_AT_ONCE, draws - first), len(alpha)))
        best = np.argsort(-rates, axis=1)[:, :PLACES]
        for place in range(PLACES):
            counts[:, place] += np.bincount(best[:, place], minlength=len(alpha))
    return counts / draws


def _estimates(log: pl.DataFrame, target: npt.NDArray) -> dict[str, Any]:
    """What ``target`` earns, from the log of another policy; or why that cannot be said."""
    item, place, click = (log[name].to_numpy() for name in ("item_id", "position", "click"))
    place = place - 1
    predicted, expected = _forecast(item, place, click.astype(float), target)
    with np.errstate(divide="ignore"):  # an item that the target never shows has no weight
        wanted = np.log(target[item, place])
    try:
        result = evaluate(
            Logged(
                users=np.arange(len(log)),
                rewards=click[:, None].astype(float),
                logging=np.log(log["propensity_score"].to_numpy())[:, None],
                target=wanted[:, None],
                predicted=predicted[:, None],
                expected=expected,
            )
        )
    except SimulatorError as error:
        return {"refused": str(error)}
    assert result.dr is not None
    named = {"IPS": result.ips, "SNIPS": result.snips, "DR": result.dr}
    return {"effective": result.effective, **{name: _told(one) for name, one in named.items()}}


def _forecast(
    item: npt.NDArray, place: npt.NDArray, click: npt.NDArray, target: npt.NDArray
) -> tuple[npt.NDArray, npt.NDArray]:
    """``[rows]`` click rate of the shown item, and what the target earns in that place, each learned on the
    other half of the log: an item's rate, shrunk to that of all."""
    half = np.arange(len(item)) % 2 == 0
    predicted, expected = np.zeros(len(item)), np.zeros(len(item))
    for learned in (half, ~half):
        shown, clicks = (np.bincount(item[learned], one, len(target)) for one in (None, click[learned]))
        rates = (clicks + _SHRINKAGE * click[learned].mean()) / (shown + _SHRINKAGE)
        predicted[~learned] = rates[item[~learned]]
        expected[~learned] = (rates @ target)[place[~learned]]
    return predicted, expected


def _clicks(values: npt.NDArray) -> dict[str, float]:
    return _told(estimate(values.astype(float), np.arange(len(values))))


def _told(found: Any) -> dict[str, float]:
    return {name: 1000 * getattr(found, name) for name in ("mean", "low", "high")}

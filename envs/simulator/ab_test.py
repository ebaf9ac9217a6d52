"""An A/B test in a simulated shop: the same shoppers and the same luck under two arms.

``Plan``     shoppers, weeks, seeds and assumptions of a test
``ABTest``   runs it, scenario by scenario
``Compared`` two arms under one scenario
``verdict``  what a metric's differences over all scenarios and both simulators amount to
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from ..data.episodes import able
from ..data.prepared import Data
from ..statistics import Estimate, Values, estimate
from ..tags.task import Tags
from . import inference
from .arms import Arm, Moment
from .histories import Histories
from .outcomes import METRICS, item_vectors, lived
from .scenario import SCENARIOS, Scenario, SimulatorError
from .shopper import Behaviour
from .world import Slates, World

ROBUST, OPEN = "robust", "not settled"


@dataclass(frozen=True)
class Plan:
    """Size and assumptions of a test.

    Attributes:
        origin: First week.
        shoppers: Largest number of shoppers, drawn at random; None for all with enough history.
        weeks: Length.
        seeds: Number of times that the weeks are lived under the base scenario.
        sweep_seeds: The same for every other scenario, and for the second simulator.
        refresh: Weeks after which lists are made anew.
        scenarios: Assumptions; the first is the base.
    """

    origin: int
    shoppers: int | None = None
    weeks: int = 8
    seeds: int = 20
    sweep_seeds: int = 4
    refresh: int = 4
    scenarios: Sequence[Scenario] = SCENARIOS


@dataclass(frozen=True)
class Compared:
    """Two arms under one scenario: ``[seeds, shoppers, metrics]`` each."""

    a: Values
    b: Values

    def of(self, metric: str) -> tuple[Values, Values]:
        """``[seeds, shoppers]`` of either arm."""
        place = list(METRICS).index(metric)
        return self.a[:, :, place], self.b[:, :, place]

    def differences(self) -> dict[str, tuple[Estimate, float]]:
        """Metric -> paired difference and its p-value."""
        return {metric: inference.paired(*self.of(metric)) for metric in METRICS}

    def means(self) -> dict[str, tuple[Estimate, Estimate]]:
        """Metric -> mean of either arm."""
        found = {}
        for metric in METRICS:
            one, other = map(inference.mean_over_seeds, self.of(metric))
            found[metric] = estimate(one, np.arange(len(one))), estimate(other, np.arange(len(other)))
        return found


@dataclass
class ABTest:
    """Two arms on the same shoppers.

    Attributes:
        task: The task that both answer.
        arms: The two arms.
        plan: Size and assumptions.
        start: What the shoppers did before the first week.
    """

    task: Tags
    arms: tuple[Arm, Arm]
    plan: Plan
    start: Histories
    _first: dict[str, Slates] = field(default_factory=dict)
    _vectors: Any = None

    @classmethod
    def of(cls, task: Tags, arms: tuple[Arm, Arm], plan: Plan, seed: int = 0) -> "ABTest":
        """A test on shoppers with enough history before the first week.

        Raises:
            SimulatorError: nobody has, or the week lies outside of the data.
        """
        users = eligible(task.data, plan.origin)
        if plan.shoppers is not None and plan.shoppers < len(users):
            drawn = np.random.default_rng(seed).choice(len(users), plan.shoppers, replace=False)
            users = users[np.sort(drawn)]
        return cls(task, arms, plan, Histories.of(task.data.panel, users, plan.origin))

    def part(self, some: Any) -> "ABTest":
        """The same test on some of the shoppers, by their places."""
        first = {arm.name: self.first(arm)[some] for arm in self.arms}
        return ABTest(self.task, self.arms, self.plan, self.start.taken(some), first, self.vectors)

    def compare(
        self,
        behaviour: Behaviour,
        scenario: Scenario,
        seeds: Sequence[int],
        *,
        lift: float = 1.0,
        on_run: Callable[[], None] = lambda: None,
    ) -> Compared:
        """Live the weeks under both arms, with the same luck.

        Args:
            lift: Factor on the second arm's probabilities of a click, planted to be found again.
        """
        found = []
        for seed in seeds:
            pair = []
            for arm, factor in zip(self.arms, (1.0, lift), strict=True):
                pair.append(self.live(arm, behaviour, scenario, seed, lift=factor))
                on_run()
            found.append(pair)
        a, b = (np.stack(part) for part in zip(*found, strict=True))
        return Compared(a, b)

    def live(
        self, arm: Arm, behaviour: Behaviour, scenario: Scenario, seed: int, *, lift: float = 1.0
    ) -> Values:
        """``[shoppers, metrics]`` of one arm and seed."""
        lookback = self.task.data.protocol.lookback
        world = World(behaviour, self.start.copied(), scenario, seed, lookback=lookback, lift=lift)
        return lived(
            arm,
            world,
            self.task,
            self.vectors,
            weeks=self.plan.weeks,
            refresh=self.plan.refresh,
            first=self.first(arm),
        )

    def first(self, arm: Arm) -> Slates:
        """Lists of the first week, which no luck has touched: made once."""
        if arm.name not in self._first:
            self._first[arm.name] = arm.lists(Moment(self.task, self.start, self.plan.origin, []))
        return self._first[arm.name]

    @property
    def vectors(self) -> Any:
        if self._vectors is None:
            self._vectors = item_vectors(self.task.data)
        return self._vectors

    @property
    def covariates(self) -> Values:
        """``[shoppers, 3]`` known before the test: visits a week, tags a week, and tags a week lately."""
        start = self.start
        lately = start.tags_slow * (1 - 0.93)
        return np.stack([start.visits / start.lived, start.tags / start.lived, lately], axis=1).astype(float)


def eligible(data: Data, origin: int, *, replayed: bool = False) -> Any:
    """Users with enough history before a week.

    Args:
        replayed: Whether their real future is asked, for which nothing is fitted.
    """
    first, last = int(data.panel.week.min()), int(data.panel.week.max())
    end = 0 if replayed else data.protocol.statistics_end or 0
    earliest = max(end, first + data.protocol.min_active_weeks)
    if not earliest <= origin <= last + 1:
        raise SimulatorError(
            f"--origin {origin}: shoppers are fitted on weeks before {end}, need "
            f"{data.protocol.min_active_weeks} weeks of history, and the data end with week {last}; give a "
            f"week from {earliest} to {last + 1}"
        )
    purchases = pl.LazyFrame({"user": data.panel.user, "week": data.panel.week})
    users = able(purchases, data.protocol, origin).collect()["user"].sort().to_numpy()
    if not len(users):
        raise SimulatorError(f"--origin {origin}: nobody has enough history before that week")
    return users


def verdict(
    base: tuple[Estimate, float],
    adjusted: float,
    others: Mapping[str, Estimate],
) -> str:
    """What the differences of a metric amount to.

    Args:
        base: Difference under the base scenario, and its p-value.
        adjusted: That p-value by Holm.
        others: Name of each other scenario or simulator -> difference.

    Returns:
        ``not settled`` where the base is not; ``robust`` where it is, and every interval lies on its side of
        zero; else the names of those whose interval lies on the other side (``flips``), holds nothing but
        zero (``none``), or holds zero too (``open``).
    """
    if adjusted > inference.LEVEL:
        return OPEN
    sides = {name: _side(found, np.sign(base[0].mean)) for name, found in others.items()}
    told = {side: [name for name in sides if sides[name] == side] for side in ("flips", "none", "open")}
    return "; ".join(f"{side}: {', '.join(names)}" for side, names in told.items() if names) or ROBUST


def _side(found: Estimate, sign: float) -> str:
    """Where an interval lies, seen from a difference of the given sign."""
    if found.low * sign > 0 and found.high * sign > 0:
        return "same"
    if found.low * sign < 0 and found.high * sign < 0:
        return "flips"
    return "none" if found.low == found.high == 0 else "open"

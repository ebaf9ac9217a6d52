"""The real future in place of a simulated one.

``Replay``  steps like a :class:`recrl.envs.simulator.world.World`, through the baskets of a panel
"""

from collections.abc import Iterator
from typing import Self

import numpy as np

from ..data.panel import Panel
from .histories import Bools, Histories, baskets
from .world import Slates, Week, first_time


class Replay:
    """Weeks as they were: a list changes nothing, and what it names counts as clicked where it was bought.

    Args:
        panel: Purchases.
        histories: What shoppers did before; moved on in place.
    """

    def __init__(self, panel: Panel, histories: Histories) -> None:
        self.histories, self._panel = histories, panel
        last = int(panel.week.max()) + 1
        self._weeks: Iterator[tuple[int, Bools]] = baskets(panel, histories.users, histories.week, last)

    def fork(self) -> Self:
        """The same shoppers now, to go on by themselves."""
        return type(self)(self._panel, self.histories.copied())

    def step(self, slates: Slates) -> Week:
        """Hold every shopper's list against the week that was, and let it pass."""
        _, bought = next(self._weeks)
        listed = first_time(slates)
        rows = np.arange(len(slates))[:, None]
        clicked = listed & bought[rows, np.maximum(slates, 0)]
        self.histories.advance(bought)
        return Week(np.ones(len(slates), bool), listed, clicked, bought)

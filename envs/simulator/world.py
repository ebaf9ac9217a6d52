"""A shop in a week: lists are shown, opened, looked at and clicked; shoppers come and buy.

``World``     shoppers under a behaviour and a scenario, moved on by lists
``Week``      what happened in one
``simulate``  weeks without recommendations

All luck comes from generators of (seed, week, block of shoppers): two worlds with the same seed differ only
by what their lists do (common random numbers).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from .histories import Bools, Floats, Histories
from .scenario import Scenario
from .shopper import Behaviour, Lifts, sigmoid

Slates = npt.NDArray[np.int32]
"""``[shoppers, slots]`` tag ids, best first; below 0 for an empty slot."""

BLOCK = 2048
"""Shoppers that are worked on at once: what they need stays in the processor's cache."""

_NO_LIFTS: Lifts = (np.empty(0, int), np.empty(0, int), 0.0)


@dataclass(frozen=True)
class Week:
    """What happened in a week.

    Attributes:
        opened: ``[shoppers]`` whether the list was opened.
        looked: ``[shoppers, slots]`` looked at; ``clicked``: clicked.
        bought: ``[shoppers, tags]``.
    """

    opened: Bools
    looked: Bools
    clicked: Bools
    bought: Bools


class World:
    """Shoppers who react to lists.

    Args:
        behaviour: How they behave without a list.
        histories: What they did before; moved on in place.
        scenario: Assumptions on what a list does.
        seed: Seed of all luck.
        lookback: Weeks after which a tag is novel.
        lift: Factor on all probabilities of a click: an effect that is planted, to be found again.
    """

    def __init__(
        self,
        behaviour: Behaviour,
        histories: Histories,
        scenario: Scenario,
        seed: int,
        *,
        lookback: int = 20,
        lift: float = 1.0,
    ) -> None:
        self.behaviour, self.histories, self.scenario = behaviour, histories, scenario
        self.seed, self.lookback, self.lift = seed, lookback, lift

    def fork(self, seed: int | None = None) -> Self:
        """The same shoppers now, to live on by themselves: with the same luck, or another seed's."""
        return type(self)(
            *(self.behaviour, self.histories.copied(), self.scenario, self.seed if seed is None else seed),
            lookback=self.lookback,
            lift=self.lift,
        )

    def step(self, slates: Slates) -> Week:
        """Show every shopper a list, and let the week pass."""
        weeks = [self._block(start, slates) for start in range(0, len(slates), BLOCK)]
        week = Week(*(np.concatenate(part) for part in zip(*weeks, strict=True)))
        ignored = np.nonzero(week.looked & ~week.clicked)
        self.histories.notice((ignored[0], slates[ignored]), week.clicked.sum(axis=1, dtype=np.float32))
        self.histories.advance(week.bought)
        return week

    def _block(self, start: int, slates: Slates) -> tuple[Bools, Bools, Bools, Bools]:
        block = slice(start, start + BLOCK)
        histories, shown = self.histories.taken(block), slates[block]
        looking, living = _chances(self.seed, histories.week, start)
        wish = self.behaviour.wish(histories)
        opened, looked, clicked = self._look(wish.buy, histories, shown, looking)
        pull = self.scenario.pull * clicked.any(axis=1) + self.scenario.loyalty * histories.pleased
        shoppers, slots = np.nonzero(clicked)
        lifts = (shoppers, shown[shoppers, slots], self.scenario.effect)
        return opened, looked, clicked, self.behaviour.live(wish, pull.astype(np.float32), lifts, living)

    def _look(
        self, buy: Floats, histories: Histories, shown: Slates, chance: np.random.Generator
    ) -> tuple[Bools, Bools, Bools]:
        """Who opens the list, which slots are looked at, and which are clicked."""
        given = self.scenario
        count, slots = shown.shape
        opened = chance.random((count,)) < given.opens
        reached = given.position ** np.arange(slots) > chance.random((count, 1))
        luck = chance.random((count, slots))
        looked = opened[:, None] & reached & first_time(shown)
        chances = self.clicks(buy, histories, shown)
        return opened, looked, looked & (luck < chances)

    def clicks(self, buy: Floats, histories: Histories, shown: Slates) -> Floats:
        """``[shoppers, slots]``: probability of a click on what is looked at."""
        given = self.scenario
        rows = np.arange(len(shown))[:, None]
        tags = np.maximum(shown, 0)
        odds = given.click + given.taste * buy[rows, tags]
        odds += given.curiosity * (histories.age[rows, tags] > self.lookback)
        if histories.tired is not None:
            odds -= given.boredom * histories.tired[rows, tags]
        return self.lift * sigmoid(odds)


def first_time(slates: Slates) -> Bools:
    """``[shoppers, slots]``: holds a tag that no earlier slot of the list holds."""
    repeated = (slates[:, :, None] == slates[:, None, :]) & np.tri(slates.shape[1], k=-1, dtype=bool)
    return (slates >= 0) & ~repeated.any(axis=2)


def simulate(behaviour: Behaviour, histories: Histories, weeks: int, seed: int) -> Iterator[Bools]:
    """Baskets of weeks without recommendations, ``[shoppers, tags]``; moves the histories on."""
    for _ in range(weeks):
        parts = []
        for start in range(0, len(histories.users), BLOCK):
            some = histories.taken(slice(start, start + BLOCK))
            _, living = _chances(seed, histories.week, start)
            none = np.zeros(len(some.users), np.float32)
            parts.append(behaviour.live(behaviour.wish(some), none, _NO_LIFTS, living))
        bought = np.concatenate(parts)
        histories.advance(bought)
        yield bought


def _chances(seed: int, week: int, start: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Generators of a block: of looks and clicks, and of visits and purchases."""
    made = [np.random.SFC64([seed, week, start, what]) for what in (0, 1)]
    return np.random.Generator(made[0]), np.random.Generator(made[1])

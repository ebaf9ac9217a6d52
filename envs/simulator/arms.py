"""Who is compared: an arm makes a list for every shopper out of what is known before a week.

``Moment``     a week of a simulation, as rows and as data
``check``      refuses a task whose rows would hold more than what was simulated
``Arm``        a name, and lists for a moment
``answering``  an arm of any :class:`recrl.envs.task.Answerer`: it reads rows and writes texts
``baseline``   an arm of a baseline of the tag task, by name
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ..data import calendar
from ..data.panel import Panel
from ..data.prepared import Data
from ..tags import baselines
from ..tags.metrics import to_slots
from ..tags.task import Tags
from ..task import Answerer, Row, Task
from .histories import Bools, Histories
from .scenario import SimulatorError
from .world import Slates


@dataclass(frozen=True)
class Moment:
    """A week of a simulation, before it is lived.

    Attributes:
        task: The task that is answered.
        histories: What shoppers did before.
        start: Week in which the simulation began.
        lived: Baskets of the weeks since.
    """

    task: Tags
    histories: Histories
    start: int
    lived: Sequence[Bools]

    @cached_property
    def data(self) -> Data:
        """Data as they would be had the simulation been real, but for popularity, which stands as it was at
        the start; each shopper has to be a user of its own."""
        return replace(self.task.data, panel=_lived(self.task.data.panel, self))

    @cached_property
    def facts(self) -> list[dict[str, Any]]:
        """One row a shopper of what baselines read: ``user``, ``origin``, ``lookback`` and ``history``."""
        state = self.histories
        lookback = _members(~state.novel(self.task.data.protocol.lookback))
        history = _members(state.weeks > 0)
        return [
            {"user": user, "origin": state.week, "lookback": recent, "history": known}
            for user, recent, known in zip(state.users.tolist(), lookback, history, strict=True)
        ]

    @cached_property
    def rows(self) -> Sequence[Row]:
        """One row a shopper, as ``recrl recommend`` would show it to a policy on that day."""
        state, data = self.histories, self.task.data
        protocol, panel = data.protocol, data.panel
        popularity = panel.popularity(self.start)
        # Most weeks first, ties by popularity, then by id.
        rank = np.unique(popularity, return_inverse=True)[1] / (panel.n_tags + 1)
        order = np.argsort(-(state.weeks + rank), axis=1, kind="stable")
        known = (state.weeks > 0).sum(axis=1)
        table: dict[str, npt.NDArray[Any]]
        table = {
            "history": order,
            "history_weight": state.weeks,
            "history_last": state.age,
        }
        for name in ("history_weight", "history_last"):
            table[name] = np.take_along_axis(table[name], order, axis=1)
        day = calendar.start_of(panel.week_zero, state.week, protocol.step)
        cold = state.visits < protocol.cold_weeks
        episodes = pl.DataFrame(
            {
                "user": state.users,
                "origin": np.full(len(state.users), state.week, np.int32),
                "unseen": panel.unseen[state.users],
                "profile": data.profiles.gather(state.users),
                "calendar": [calendar.describe(day, protocol.window, protocol.step)] * len(state.users),
                "segment": np.where(cold, "cold", "warm"),
                "lookback": _members(~state.novel(protocol.lookback)),
                **{name: _cut(values, known) for name, values in table.items()},
            }
        )
        return self.task.asking(episodes)


def check(task: Task) -> Tags:
    """The task, where its rows are made of what a :class:`Moment` holds and of nothing else: a task with
    columns of its own, or histories told product by product, reads the log, and so the real future.

    Raises:
        SimulatorError: it is another task than ``tags``, or tells histories product by product.
    """
    if type(task) is not Tags:
        raise SimulatorError(
            f"task.use={task.settings.use}: shoppers answer lists of tags; compare parties of task.use=tags"
        )
    if task.histories is not None:
        raise SimulatorError(
            f"task.prompt.history={task.settings.prompt.history}: simulated weeks hold no products; set "
            "task.prompt.history=tags"
        )
    return task


Lister = Callable[[Moment], Slates]


@dataclass(frozen=True)
class Arm:
    """A party of a comparison.

    Attributes:
        name: What reports call it.
        lists: A list for each shopper of a moment.
    """

    name: str
    lists: Lister


def answering(name: str, task: Tags, answerer: Answerer) -> Arm:
    """An arm that reads each shopper's row and writes a text."""
    return Arm(name, lambda moment: to_slots(task.parse(answerer(moment.rows)), task.slots))


def baseline(name: str, task: Tags, floors: Mapping[str, float]) -> Arm:
    """A baseline of the tag task on the data of the simulation.

    Args:
        floors: Reward -> bound, which ``quota`` meets.

    Raises:
        SimulatorError: no baseline has this name.
    """
    known = ("quota", *baselines.SCORERS)
    if name not in known:
        raise SimulatorError(f"{name!r} is no run folder and no baseline; baselines: {', '.join(known)}")
    floor = floors.get("novelty", 0.0)

    def lists(moment: Moment) -> Slates:
        return baselines.lists(moment.data, task.slots, floor)[name](moment.facts)

    return Arm(name, lists)


def _lived(panel: Panel, moment: Moment) -> Panel:
    before = panel.week < moment.start
    parts: list[tuple[npt.NDArray[Any], ...]] = [(panel.user[before], panel.week[before], panel.tag[before])]
    for number, bought in enumerate(moment.lived):
        shopper, tag = np.nonzero(bought)
        week = np.full(len(tag), moment.start + number)
        parts.append((moment.histories.users[shopper], week, tag))
    user, week, tag = (np.concatenate(part).astype(np.int64) for part in zip(*parts, strict=True))
    # A merge of sorted runs.
    key = np.sort((user * (moment.histories.week + 1) + week) * panel.n_tags + tag, kind="stable")
    rest, tag = np.divmod(key, panel.n_tags)
    user, week = np.divmod(rest, moment.histories.week + 1)
    # What is learned of all users together is learned before the test: a real test's arms would share it.
    return replace(
        panel,
        user=user.astype(np.int32),
        week=week.astype(np.int32),
        tag=tag.astype(np.int32),
        until=np.full(len(panel.users), moment.start, np.int32),
        recent=panel.recent + len(moment.lived),
    )


def _members(mask: Bools) -> list[list[int]]:
    """Columns of the true entries of each row."""
    row, column = np.nonzero(mask)
    ends = np.cumsum(np.bincount(row, minlength=len(mask)))
    return [part.tolist() for part in np.split(column, ends[:-1])]


def _cut(values: Any, lengths: Any) -> list[list[Any]]:
    return [row[:length].tolist() for row, length in zip(values, lengths, strict=True)]

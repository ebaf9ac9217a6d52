"""A shop as a Gymnasium environment: an observation is a shopper's prompt, an action is an answer's text.

``recrl/Shop-v0``    shoppers who answer back (:mod:`recrl.envs.simulator.world`)
``recrl/Replay-v0``  the real future of real shoppers, whatever is recommended; the default to train on

An episode is some weeks of a shopper; ``gymnasium.make_vec`` lives many of them at once. The reward of a week
is one of :data:`REWARDS`; ``info`` holds the row of the task (as rewards read it), and what happened.
"""

import copy
import string
from collections.abc import Callable, Sequence
from typing import Any, Self

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from ..data.settings import DataConfig
from ..tags.metrics import to_slots
from ..tags.settings import TagsConfig
from ..tags.task import Tags
from ..task import Row
from . import fitting
from .ab_test import eligible
from .arms import Moment, check
from .histories import Bools, Histories
from .replay import Replay
from .scenario import SCENARIOS, Scenario, SimulatorError
from .shopper import Behaviour, Hazard
from .world import Week, World

REWARDS: dict[str, Callable[[Week], Any]] = {
    "clicks": lambda week: week.clicked.sum(axis=1),
    "volume": lambda week: week.bought.sum(axis=1),
    "return": lambda week: week.bought.any(axis=1),
}
"""Rewards of a week: clicks (of a replay: named tags that were bought), tags bought at all, and a visit."""

_LONGEST_PROMPT, _LONGEST_LINE = 20_000, 200


class ShopVector(VectorEnv):
    """Many shoppers at once.

    Args:
        num_envs: Number of shoppers, each a different household.
        task: Task of the policy; by default lists of ten tags for the Complete Journey panel.
        behaviour: How shoppers behave; by default hazards that are fitted when they are needed. ``replay``
            takes the real future.
        scenario: Assumptions on recommendations.
        origin: First week; by default the first one of the test split, of a replay the first one of training.
        weeks: Length of an episode.
        reward: One of :data:`REWARDS`.

    Attributes:
        users: Households with enough history before the first week.
        rows: Row of each shopper in the week that comes.

    Raises:
        SimulatorError: no such reward, a task that cannot be simulated, fewer households than shoppers, or
            weeks behind the data.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        *,
        task: Tags | None = None,
        behaviour: Behaviour | str | None = None,
        scenario: Scenario = SCENARIOS[0],
        origin: int | None = None,
        weeks: int = 4,
        reward: str = "clicks",
    ) -> None:
        if reward not in REWARDS:
            raise SimulatorError(f"reward={reward!r} is unknown; use one of {', '.join(REWARDS)}")
        self.task = task if task is not None else Tags(TagsConfig(), DataConfig())
        protocol, panel = self.task.data.protocol, self.task.data.panel
        self._replayed = behaviour == "replay"
        if not self._replayed:
            check(self.task)
        fitting.check(self.task.data)
        self._behaviour = behaviour
        if origin is None:
            origin = min(protocol.train_origins if self._replayed else protocol.test_origins)
        if self._replayed and origin + weeks > panel.week.max() + 1:
            raise SimulatorError(f"origin={origin}, weeks={weeks}: the data end with week {panel.week.max()}")
        self.origin, self.weeks, self.reward = origin, weeks, reward
        self.scenario = scenario
        self.users = eligible(self.task.data, origin, replayed=self._replayed)
        if num_envs > len(self.users):
            raise SimulatorError(
                f"num_envs={num_envs}: {len(self.users)} households have enough history before week {origin}"
            )
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = _spaces(self.task, weeks)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._ended = True
        self.rows: list[Row] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin with other shoppers.

        Args:
            options: ``users``: numbers of households, in place of random ones.
        """
        super().reset(seed=seed)
        chosen = (options or {}).get("users")
        if chosen is None:
            chosen = self.np_random.choice(self.users, self.num_envs, replace=False)
        histories = Histories.of(self.task.data.panel, np.asarray(chosen, np.int32), self.origin)
        if self._replayed:
            self._world: World | Replay = Replay(self.task.data.panel, histories)
        else:
            luck = int(self.np_random.integers(2**31))
            lookback = self.task.data.protocol.lookback
            self._world = World(self._fitted(), histories, self.scenario, luck, lookback=lookback)
        self._baskets: list[Bools] = []
        self._ended = False
        return self._observed(), {"row": self.rows}

    def step(self, actions: Sequence[str]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Show every shopper a list. Where the last episode has ended, begin a new one instead."""
        none = np.zeros(self.num_envs, bool)
        if self._ended:
            observed, info = self.reset()
            return observed, np.zeros(self.num_envs), none, none.copy(), info
        slates = to_slots(self.task.parse(list(actions)), self.task.slots)
        week = self._world.step(slates)
        self._baskets.append(week.bought)
        self._ended = len(self._baskets) == self.weeks
        rewards = REWARDS[self.reward](week).astype(float)
        observed = self._observed()
        info = {
            "row": self.rows,
            "clicks": week.clicked.sum(axis=1),
            "bought": week.bought,
            "visit": week.bought.any(axis=1),
        }
        return observed, rewards, none, np.full(self.num_envs, self._ended), info

    def fork(self) -> Self:
        """The same shoppers now, to live on by themselves under the same luck."""
        other = copy.copy(self)
        other._world, other._baskets = self._world.fork(), [*self._baskets]
        return other

    def _observed(self) -> dict[str, Any]:
        moment = Moment(self.task, self._world.histories, self.origin, self._baskets)
        self.rows = list(moment.rows)
        prompts = tuple(row["prompt"][-1]["content"] for row in self.rows)
        lived = np.full(self.num_envs, len(self._baskets), np.int64)
        return {"prompt": prompts, "week": lived}

    def _fitted(self) -> Behaviour:
        if self._behaviour is None:
            self._behaviour = _hazards(self.task)
        assert not isinstance(self._behaviour, str)
        return self._behaviour


class Shop(gymnasium.Env):
    """One shopper; arguments as of :class:`ShopVector`."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, **settings: Any) -> None:
        self._shoppers = ShopVector(1, **settings)
        self.observation_space = self._shoppers.single_observation_space
        self.action_space = self._shoppers.single_action_space

    @property
    def task(self) -> Tags:
        """Task of the policy."""
        return self._shoppers.task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        observed, info = self._shoppers.reset(seed=seed, options=options)
        return _one(observed), _one(info)

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        observed, rewards, _, truncated, info = self._shoppers.step([action])
        return _one(observed), float(rewards[0]), False, bool(truncated[0]), _one(info)


def _one(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: values[0] for name, values in batch.items()}


def _spaces(task: Tags, weeks: int) -> tuple[spaces.Dict, spaces.Text]:
    """Spaces of one shopper: any text of the characters that prompts and answers are written in, and the
    number of weeks that were lived."""
    words = [*task.catalog.tags, *task.data.profiles.drop_nulls().unique().to_list()]
    wording = task.settings.prompt.model_dump().values()
    letters = set(string.printable).union(*words, *(text for text in wording if isinstance(text, str)))
    charset = "".join(sorted(letters))
    observed = spaces.Dict(
        {
            "prompt": spaces.Text(_LONGEST_PROMPT, charset=charset),
            "week": spaces.Discrete(weeks + 1),
        }
    )
    return observed, spaces.Text(_LONGEST_LINE * task.slots, min_length=0, charset=charset)


_FITTED: dict[str, Hazard] = {}  # fingerprint of the data -> shoppers, fitted once a process


def _hazards(task: Tags) -> Hazard:
    if task.fingerprint not in _FITTED:
        _FITTED[task.fingerprint] = fitting.fit(task.data)
    return _FITTED[task.fingerprint]


def register() -> None:
    """Tell Gymnasium the environments; importing this module does."""
    place = "recrl.envs.simulator.shop"
    for name, settings in (("recrl/Shop-v0", {}), ("recrl/Replay-v0", {"behaviour": "replay"})):
        if name not in gymnasium.registry:
            gymnasium.register(
                name, f"{place}:Shop", vector_entry_point=f"{place}:ShopVector", kwargs=settings
            )


register()

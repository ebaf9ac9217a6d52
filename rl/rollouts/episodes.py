"""Rollouts of several weeks: what an answer earns in the weeks after it is credited to it.

``Episodes``  TRL's ``rollout_func`` on a shop of :mod:`recrl.envs.simulator.shop`

Of an episode one week is drawn. Up to it each shopper lives under one answer a week of the current policy; in
it the answers of the shopper's group are given side by side; and each of them lives on by itself, with the
same luck, to the end of the episode (the vine of Schulman et al. 2015, "Trust region policy optimization").
So the answers of a group have one prompt, as GRPO compares them, and the prompt is a row as it is asked where
the policy is deployed. Weeks are drawn evenly: the expected gradient is that of the episode's return, divided
by its number of weeks.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...envs.simulator.outcomes import RETURN
from ...envs.simulator.shop import ShopVector
from ...envs.task import Row
from ...rewards import Reward

_MOST: dict[str, Callable[[ShopVector], int]] = {
    "clicks": lambda shop: shop.task.slots,
    "volume": lambda shop: len(shop.task.catalog),
    "return": lambda shop: 1,
}  # what a week can earn, by the shop's reward


class Episodes:
    """Plays a policy through weeks of a shop: the ``rollout_func`` of a trainer.

    Besides the columns of the answered week's row, rewards may read ``gains`` and ``visits``: what each week
    of the episode earned, and whether the shopper came. Weeks before the answered one are the same for a
    group, so they move means and no advantage.

    Args:
        seed: Seed of the shoppers' luck and of the weeks that are drawn; a resumed training draws the same.
        settings: Of :class:`recrl.envs.simulator.shop.ShopVector`: ``task``, ``behaviour``, ``scenario``,
            ``origin``, ``weeks`` and ``reward``; by default shoppers who answer back, ``behaviour="replay"``
            for the real future.

    Attributes:
        rows: Training data: one row for each household with enough history, as it is asked in the first week.
        rewards: ``return``, the sum of the gains, and ``retention``, whether the shopper came in the last
            four weeks.

    Raises:
        SimulatorError: as of :class:`recrl.envs.simulator.shop.ShopVector`.
    """

    def __init__(self, *, seed: int = 0, **settings: Any) -> None:
        self._seed, self._settings = seed, settings
        one = ShopVector(1, **settings)
        everyone = ShopVector(len(one.users), **settings)
        everyone.reset(seed=seed, options={"users": one.users})
        self.rows: list[Row] = everyone.rows
        self._users: dict[str, list[int]] = defaultdict(list)
        for row in self.rows:
            self._users[_key(row["prompt"])].append(row["user"])
        self._weeks = one.weeks
        most = float(one.weeks * _MOST[one.reward](one))
        self.rewards = [
            Reward(_returned, range=(0.0, most), name="return"),
            Reward(_retained, range=(0.0, 1.0), name="retention"),
        ]

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        """Live one episode for each group.

        Args:
            prompts: Of :attr:`rows`, each as often as its group has answers, one after the other.
            trainer: A :class:`recrl.ConstrainedGRPOTrainer`, whose ``sample`` answers.
        """
        group = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
        # The week is the same on all ranks, which have to sample equally often; luck is not.
        answered = int(np.random.default_rng([self._seed, trainer.generation]).integers(self._weeks))
        rank = trainer.accelerator.process_index
        rng = np.random.default_rng([self._seed, trainer.generation, 1 + rank])
        users = [rng.choice(self._users[_key(prompt)]) for prompt in prompts[::group]]
        shop = ShopVector(len(users), **self._settings)
        shop.reset(seed=int(rng.integers(2**31)), options={"users": users})
        lives, found = [shop], dict[str, Any]()
        gains, visits = np.zeros((2, self._weeks, len(prompts)))
        for week in range(self._weeks):
            if week == answered:
                lives = [shop.fork() for _ in range(group)]
            rows = [row for same in zip(*(life.rows for life in lives), strict=True) for row in same]
            asked, answers, logprobs = trainer.sample([row["prompt"] for row in rows])
            if week == answered:
                found = {"prompt_ids": asked, "completion_ids": answers, "logprobs": logprobs}
                found |= {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
            texts = trainer.processing_class.batch_decode(answers, skip_special_tokens=True)
            weeks = [life.step(texts[place :: len(lives)]) for place, life in enumerate(lives)]
            for into, values in (
                (gains, [earned for _, earned, *_ in weeks]),
                (visits, [info["visit"] for *_, info in weeks]),
            ):
                into[week] = np.repeat(np.stack(values, axis=1).ravel(), group // len(lives))
        return {**found, "gains": gains.T.tolist(), "visits": visits.T.tolist()}


def _key(prompt: Any) -> str:
    return prompt[-1]["content"]


def _returned(gains: Sequence[Sequence[float]]) -> list[float]:
    return [sum(weeks) for weeks in gains]


def _retained(visits: Sequence[Sequence[float]]) -> list[float]:
    return [max(weeks[-RETURN:]) for weeks in visits]

"""Resources that rewards may name as a parameter, made only for a run whose rewards do.

To add one: a function of the run's configuration and task, and its name in ``RESOURCES``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ...envs.chat.models import ChatModel
from ...envs.data import coupons as offers
from ...envs.task import Lines, Task
from ...rewards import encode_tags, parameters, resolve_all
from ...rewards.shipped.holidays import CalendarFit
from ...rewards.shipped.offers import OfferRanker, OfferRanks
from ...rl.chat.make import ModelError, make_chat
from ..config.schema import ConfigError, RunConfig


def encoder(config: RunConfig, task: Task) -> npt.NDArray[np.float32]:
    """Unit-norm sentence embedding of each option of the task, ``[options, d]``.

    Raises:
        ConfigError: answers to the task are free text.
    """
    if not isinstance(task.form, Lines):
        raise ConfigError(
            f"a reward reads 'encoder', which embeds the options of a list; answers of "
            f"task.use={config.task.use} are free text: leave the reward out"
        )
    return encode_tags(task.form.options, cache_dir=config.data.cache / "embeddings")


def calendar_table(config: RunConfig, task: Task) -> CalendarFit:
    """Percentile of each option by how near it is to the holidays ahead."""
    folder = config.data.cache / "embeddings"
    return CalendarFit(encoder(config, task), partial(encode_tags, cache_dir=folder))


def offer_ranks(config: RunConfig, task: Task) -> OfferRanks:
    """Percentile of each option by the probability that a household takes an offer of it.

    Raises:
        ConfigError: the data have no coupons, not in these tags, or too few before ``statistics_end``.
    """
    if (config.data.source, config.data.track) != ("completejourney", "category"):
        raise ConfigError(
            f"offer_acceptance learns from the coupons of the Complete Journey panel; data.source="
            f"{config.data.source}, data.track={config.data.track} have none: use "
            "data.source=completejourney and data.track=category, or leave the reward out"
        )
    if task.data is None:
        raise ConfigError(
            f"offer_acceptance learns from coupons, which task.use={config.task.use} does not read: use "
            "task.use=tags, or leave the reward out"
        )
    end = task.data.protocol.statistics_end
    assert end is not None, "prepared data have their protocol filled in"
    found = offers.load(task.data)
    try:
        return OfferRanks(OfferRanker.fit(found, before=end), found.history)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def judge(config: RunConfig, task: Task) -> ChatModel:
    """The language model that rewards may ask.

    Raises:
        ConfigError: the configuration names none, its key is not set, or it cannot be loaded.
    """
    if config.judge is None:
        raise ConfigError(
            "a reward reads 'judge', but the configuration names no model: set judge.url and judge.model, "
            "such as judge.url=http://127.0.0.1:8000/v1"
        )
    try:
        return make_chat(config.judge)
    except ModelError as error:
        raise ConfigError(str(error)) from error


RESOURCES: dict[str, Callable[[RunConfig, Task], Any]] = {
    "encoder": encoder,
    "calendar_table": calendar_table,
    "offers": offer_ranks,
    "judge": judge,
}


def made(config: RunConfig, task: Task) -> dict[str, Any]:
    """Resources that a run's rewards name."""
    named = {name for reward in resolve_all(config.rewards) for name in parameters(reward)}
    return {name: make(config, task) for name, make in RESOURCES.items() if name in named}

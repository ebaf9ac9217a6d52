"""Data, rewards and display of a run: what its stages share."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from transformers import PreTrainedTokenizerBase

from ...envs.data.prepared import TagTask, prepare
from ...envs.tags.prompts import COLUMNS, prompted_rows
from ...rewards import RewardEngine
from ...rewards.scoring.binding import LIVE
from ...rl.decoding.lists import line_tokens
from ...rl.goal import check_segments
from ..config.schema import ConfigError, RunConfig
from .preconditions import check_task
from .progress import Display
from .resources import made


@dataclass(frozen=True)
class Setup:
    """What every stage of a run shares."""

    config: RunConfig
    folder: Path
    task: TagTask
    engine: RewardEngine
    embeddings: npt.NDArray[np.float32] | None
    display: Display

    def rows(self, episodes: pl.DataFrame) -> list[dict[str, Any]]:
        return prompted_rows(
            episodes, self.task.catalog, self.config.task.slots, self.config.task.max_history
        )

    @cached_property
    def training_rows(self) -> list[dict[str, Any]]:
        """Read by the warm start and by the trainer."""
        episodes, limit = self.task.split("train"), self.config.task.max_train_episodes
        if limit is not None and limit < episodes.height:
            episodes = episodes[np.linspace(0, episodes.height - 1, limit).round().astype(int)]
        return self.rows(episodes)

    def answer_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Room for an answer that is half as long again as an average one."""
        mean = np.mean([len(tokens) for tokens in line_tokens(tokenizer, self.task.catalog)])
        return int(np.ceil(1.5 * self.config.task.slots * mean)) + 1


def prepare_setup(config: RunConfig, display: Display) -> Setup:
    """Data and rewards of a run."""
    task = prepare(config.data)
    check_task(config, task)
    episodes = task.split("train")
    try:
        check_segments(config.problem(), COLUMNS, episodes.__getitem__)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    resources: dict[str, Any] = {
        "catalog": task.catalog,
        "slots": config.task.slots,
        **dict.fromkeys(LIVE),
    }
    resources |= made(config, task)
    engine = RewardEngine(config.rewards, resources=resources, columns=[*COLUMNS, "completion_ids"])
    return Setup(config, config.folder, task, engine, resources.get("encoder"), display)

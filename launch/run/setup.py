"""Task, rewards and display of a run: what its stages share."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...envs import task as tasks
from ...envs.task import Task
from ...rewards import RewardEngine
from ...rewards.scoring.binding import LIVE
from ...rl.decoding.forms import answer_room
from ...rl.goal import check_segments
from ..config.schema import ConfigError, RunConfig
from .preconditions import check_task
from .progress import Display
from .resources import made


@dataclass(frozen=True)
class Setup:
    """Objects that every stage of a run shares."""

    config: RunConfig
    folder: Path
    task: Task
    engine: RewardEngine
    display: Display

    @cached_property
    def training_rows(self) -> list[dict[str, Any]]:
        """Rows that the warm start and the trainer read."""
        return self.task.rows("train", self.config.task.max_train_episodes)

    def answer_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Tokens that an answer may take where the configuration does not say."""
        return answer_room(self.task.form, tokenizer)


def prepare_setup(config: RunConfig, display: Display) -> Setup:
    """Task and rewards of a run."""
    task = tasks.make(config.task, config.data)
    check_task(config, task)
    for remark in task.data.remarks if task.data is not None else ():
        display.note(remark)
    try:
        check_segments(config.problem(), task.names, task.values)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    task.resources |= made(config, task)
    engine = RewardEngine(
        config.rewards,
        resources={**task.resources, **dict.fromkeys(LIVE)},
        columns=[*task.names, "completion_ids"],
        derive={"answers": task.parse},
    )
    engine.check_serving(task.outcomes)
    return Setup(config, config.folder, task, engine, display)

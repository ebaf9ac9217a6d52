"""What must hold of a configuration and its data together, before anything expensive starts.

What a configuration says of itself alone is checked where it is read (:mod:`recrl.launch.config.schema`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...envs.data.prepared import TagTask
from ...rl.decoding.generate import check_window
from ...rl.evaluation.answers import test_episodes
from ...rl.policy import loading
from ...rl.processes import asked
from ...rl.trainer.preconditions import check_split, longest_prompt
from ...rl.trainer.trackers import check_installed
from ...rl.trainer.trl_settings import check_values
from ..config.schema import ConfigError, RunConfig


def check_machine(config: RunConfig) -> None:
    """This machine, its packages and the way its processes share the work can do what the settings ask for.

    Raises:
        ConfigError, PolicyError: they cannot.
        ModuleNotFoundError: a package is not installed.
    """
    loading.check_machine(config.policy)
    lora, quantization = config.policy.lora, config.policy.quantization
    if lora is not None and asked("ACCELERATE_USE_FSDP"):
        raise ConfigError(
            "policy.lora does not train with FSDP; use --strategy ddp, or one of zero1 to zero3"
        )
    if quantization is not None and asked("ACCELERATE_USE_DEEPSPEED"):
        raise ConfigError(
            f"policy.quantization={quantization} does not train with DeepSpeed; use --strategy ddp, or leave "
            "it out"
        )
    try:
        check_installed(config.train.report_to)
        check_values(config.train.trl, on_cpu=not torch.cuda.is_available())
    except ValueError as error:
        raise ConfigError(str(error)) from error


def check_task(config: RunConfig, task: TagTask) -> None:
    """Lists can be filled, and something can be evaluated.

    Raises:
        ConfigError: a list is longer than the catalogue, or the evaluation has no episode.
    """
    slots, tags = config.task.slots, len(task.catalog)
    if slots > tags:
        raise ConfigError(
            f"task.slots={slots}: the catalogue has {tags} tags, and a list names each of them once; set at "
            f"most {tags}"
        )
    if not test_episodes(task, config.evaluation).height:
        raise ConfigError(
            f"evaluation.users={config.evaluation.users}: no test episode is of an unseen user; raise "
            f"data.protocol.unseen_share={config.data.protocol.unseen_share:g}, or set evaluation.users=all"
        )


def check_training(config: RunConfig, episodes: int, processes: int) -> None:
    """A step can be made of what there is, by the processes that train.

    Args:
        episodes: Of the training.

    Raises:
        ConfigError: too few prompts for a step, or answers that do not split.
    """
    train, limit = config.train, config.task.max_train_episodes
    if train.prefix_attention == "flex" and not torch.cuda.is_available():
        raise ConfigError(
            "train.prefix_attention=flex trains on CUDA only, and there is none; set it to split"
        )
    try:
        check_split(train.prompts_per_step, train.group_size, processes, train.micro_batches)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if (found := min(episodes, limit or episodes)) < train.prompts_per_step:
        limited = f" (task.max_train_episodes={limit})" if found == limit else ""
        raise ConfigError(
            f"train.prompts_per_step={train.prompts_per_step}: there are {found} training prompts{limited}, "
            "which do not fill a step; take fewer at a time, or give more"
        )


def check_lengths(
    config: RunConfig,
    rows: Sequence[dict[str, Any]],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    answer_tokens: int,
) -> None:
    """The longest prompt fits the policy's window together with an answer.

    Args:
        rows: Of the training.
        answer_tokens: Default of ``train.max_answer_tokens``.

    Raises:
        ConfigError: it does not.
    """
    longest = longest_prompt([row["prompt"] for row in rows], tokenizer)
    try:
        check_window(model, longest, config.train.max_answer_tokens or answer_tokens)
    except ValueError as error:
        raise ConfigError(str(error)) from error

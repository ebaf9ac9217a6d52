"""What must hold of a configuration and its data together, before anything expensive starts.

What a configuration says of itself alone is checked where it is read (:mod:`recrl.launch.config.schema`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...envs.entities.marks import has_marks
from ...envs.task import Row, Task, Text
from ...rl.decoding.forms import check_barred
from ...rl.decoding.generate import check_window
from ...rl.decoding.grammar import load_xgrammar
from ...rl.distributed.processes import asked
from ...rl.policy import loading, slots
from ...rl.trainer.preconditions import longest_prompt
from ...rl.trainer.settings import check_split
from ...rl.trainer.trackers import check_installed
from ...rl.trainer.trl_settings import check_values
from ..config.schema import ConfigError, RunConfig

# Rows that are looked at.
_SOME = 64


def check_machine(config: RunConfig) -> None:
    """Check that machine, packages and the way that processes share the work allow what the settings ask for.

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


def check_task(config: RunConfig, task: Task) -> None:
    """Check that something can be taught and evaluated.

    Raises:
        ConfigError: a warm start without demonstrations, credit that the form of answers does not allow, or
            an evaluation or a validation without an episode, or prices of a split that the task has not.
        ModuleNotFoundError: the deployed lists need a package that cannot be imported.
    """
    if config.evaluation.decoding == "grammar":
        load_xgrammar()  # now, not after hours of training
        check_decoding(config, task, task.rows("test", _SOME))
    if config.warm_start.steps and not task.teaches:
        raise ConfigError(
            f"warm_start.steps={config.warm_start.steps}: task.use={config.task.use} has no demonstrations "
            "with these settings; set warm_start.steps=0"
        )
    if config.optimizer.credit == "tag" and isinstance(task.form, Text):
        raise ConfigError(
            f"optimizer.credit=tag: answers of task.use={config.task.use} are free text, not one tag a "
            "line; set optimizer.credit=sequence"
        )
    if config.evaluation.fit == "validation" and "validation" not in task.splits:
        raise ConfigError(
            f"evaluation.fit=validation: task.use={config.task.use} has no validation split, but "
            f"{', '.join(task.splits)}; set evaluation.fit=population"
        )
    if config.evaluation.every and not ("validation" in task.splits and task.count("validation")):
        raise ConfigError(
            f"evaluation.every={config.evaluation.every}: task.use={config.task.use} has no episode to "
            "validate on; set evaluation.every=0"
        )
    if not task.count("test", unseen=config.evaluation.users == "unseen"):
        raise ConfigError(
            f"evaluation.users={config.evaluation.users}: no test episode is of an unseen user; raise "
            f"data.protocol.unseen_share={config.data.protocol.unseen_share:g}, or set evaluation.users=all"
        )


def check_decoding(config: RunConfig, task: Task, rows: Iterable[Row]) -> None:
    """Check that deployed answers to some rows can be limited to what these may name.

    Raises:
        ConfigError: they cannot be under ``evaluation.decoding``.
    """
    try:
        check_barred(config.evaluation.decoding, map(task.barred, rows))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def check_training(config: RunConfig, episodes: int, processes: int) -> None:
    """Check that the processes that train can make a step of what there is.

    Args:
        episodes: Number of training episodes.

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


def check_slots(config: RunConfig, rows: Sequence[Row], model: PreTrainedModel) -> None:
    """Check that prompts with marked entities, the policy and the rollouts go together.

    Raises:
        ConfigError: a policy without entity slots, or an engine that cannot read them.
    """
    if slots.of(model) is not None:
        if config.rollout.engine != "transformers":
            raise ConfigError(
                f"rollout.engine={config.rollout.engine}: policy.model={config.policy.model} has entity "
                "slots, which vLLM reads as prompt embeddings only; set rollout.engine=transformers"
            )
    elif any(has_marks(message["content"]) for row in rows[:_SOME] for message in row["prompt"]):
        raise ConfigError(
            f"the prompts mark entities, and policy.model={config.policy.model} has no entity slots; name "
            "the policy of recrl hybrid train, or set task.prompt.history=text"
        )


def check_lengths(
    config: RunConfig,
    rows: Sequence[dict[str, Any]],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    answer_tokens: int,
) -> None:
    """Check that the longest prompt fits the policy's window together with an answer.

    Args:
        rows: Training rows.
        answer_tokens: Default of ``train.max_answer_tokens``.

    Raises:
        ConfigError: the prompt does not fit, or the policy's chat template refuses it.
    """
    try:
        longest = longest_prompt([row["prompt"] for row in rows], tokenizer)
    except TemplateError as error:
        raise ConfigError(
            f"the chat template of policy.model={config.policy.model} refuses the prompts of "
            f"task.use={config.task.use}: {error}. Where it takes no system message, leave that out "
            "(task.prompt.system=null)"
        ) from error
    try:
        check_window(model, longest, config.train.max_answer_tokens or answer_tokens)
    except ValueError as error:
        raise ConfigError(str(error)) from error

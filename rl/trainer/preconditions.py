"""Conditions of a constrained training, checked before it starts; a fault is a ValueError with the fix.

TRL would find some of these late, and others never.
"""

from collections.abc import Iterable
from typing import Any

from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase
from trl import GRPOConfig
from trl.data_utils import is_conversational

from ...rewards import RewardEngine
from ..decoding.generate import check_window
from .settings import check_halves

# Number of prompts with the most characters that are tokenised to find the one with the most tokens.
_LONGEST = 32


def check_memories(engine: RewardEngine, processes: int) -> None:
    """Refuse rewards that would remember different samples on different ranks."""
    if processes > 1 and (names := engine.forgetful()):
        raise ValueError(
            f"reward {names[0]!r} remembers samples but has no update method, so that each of {processes} "
            "processes would score by a memory of its own; let __call__ only read the memory, and "
            "update(self, completions), with the columns that it needs, add the samples of all"
        )


def check_groups(args: GRPOConfig) -> None:
    """Refuse groups that straddle ranks: whole-group rewards and shared prefixes need them whole."""
    batch, steps, group = args.per_device_train_batch_size, args.steps_per_generation, args.num_generations
    assert steps is not None, "GRPOConfig fills it in"
    assert group is not None, "GRPOConfig has a default"
    per_rank = batch * steps
    if per_rank % group:
        nearest = -(-per_rank // group) * group
        raise ValueError(
            f"num_generations={group} must divide per_device_train_batch_size * steps_per_generation = "
            f"{batch} * {steps} = {per_rank}: a group stays on one rank. Set per_device_train_batch_size "
            f"so that the product is {nearest}"
        )


def check_prompts(args: GRPOConfig, data: Dataset | IterableDataset | None) -> None:
    """Refuse fewer prompts than one generation batch has, where their number is known."""
    if not isinstance(data, Dataset):
        return
    assert args.generation_batch_size is not None, "GRPOConfig fills it in"
    assert args.num_generations is not None, "GRPOConfig has a default"
    needed = args.generation_batch_size // args.num_generations
    if len(data) < needed:
        raise ValueError(
            f"{len(data)} training prompts do not fill one generation batch of {needed}, so nothing would be "
            "trained; give more prompts, or take fewer at a time"
        )


def check_lengths(
    args: GRPOConfig,
    data: Dataset | IterableDataset | None,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Refuse prompts that do not fit the model's window with an answer; a rollout checks again."""
    if not isinstance(data, Dataset) or "prompt" not in data.column_names:
        return  # an environment writes the prompts, or they come as a stream
    check_window(model, longest_prompt(data["prompt"], tokenizer), args.max_completion_length or 0)


def longest_prompt(prompts: Iterable[Any], tokenizer: PreTrainedTokenizerBase) -> int:
    """Number of tokens of the longest of some prompts, texts or conversations.

    It is found by their characters, so that not every prompt has to be tokenised twice.
    """
    texts = {repr(prompt): prompt for prompt in prompts}
    longest = [texts[key] for key in sorted(texts, key=len)[-_LONGEST:]]
    asked: Any
    if is_conversational({"prompt": longest[0]}):
        asked = tokenizer.apply_chat_template(longest, add_generation_prompt=True, return_dict=True)
    else:
        asked = tokenizer(text=longest)
    return max(map(len, asked["input_ids"]))


def check_gradient_conflict(args: GRPOConfig, every: int) -> None:
    """Refuse groups that are too small to be compared with themselves in two halves."""
    assert args.num_generations is not None, "GRPOConfig has a default"
    check_halves(args.num_generations, every)

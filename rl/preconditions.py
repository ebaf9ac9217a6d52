"""What must hold before a constrained training starts; each fault is a ValueError that names the fix.

TRL would find some of these late, and others never.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import GRPOConfig
from trl.data_utils import is_conversational

from ..rewards import Reward, RewardEngine
from ..rewards.base import PER_TAG
from .advantages import RULES, AdvantageBatch, find_rule
from .constraints import Problem, Units
from .generation import check_window

# So many of the prompts with the most characters are tokenised to find the one with the most tokens.
_LONGEST = 32


def check_memories(engine: RewardEngine, processes: int) -> None:
    """What a reward remembers is the same on every rank."""
    if processes > 1 and (names := engine.forgetful()):
        raise ValueError(
            f"reward {names[0]!r} remembers samples but has no update method, so that each of {processes} "
            "processes would score by a memory of its own; let __call__ only read the memory, and "
            "update(self, completions), with the columns that it needs, add the samples of all"
        )


def check_directions(rewards: Sequence[Reward], problem: Problem) -> None:
    """Nothing that is better low is raised."""
    for reward in rewards:
        if reward.direction == "higher":
            continue
        held = f"hold it down by a constraint such as '{reward.name} <= ... (mean)'"
        fix = f"{held}, or declare direction: higher in its entry"
        if reward.name == problem.objective:
            raise ValueError(f"optimizer.objective={reward.name}: lower is better; {fix}")
        for constraint in problem.constraints:
            # A band (in [a, b]) holds it from both sides and is meant.
            both = any(c.reward == reward.name and c.sense == "<=" for c in problem.constraints)
            if constraint.reward == reward.name and constraint.sense == ">=" and not both:
                raise ValueError(f"constraint {constraint.name!r}: lower is better; {fix}")
        if problem.weights.get(reward.name, 0.0) > 0:
            raise ValueError(
                f"weight={problem.weights[reward.name]:g} of reward {reward.name!r}: lower is better; give "
                f"it a negative weight, or {fix}"
            )


def check_groups(args: GRPOConfig) -> None:
    """A group stays on one rank: whole-group rewards and shared prefixes need it."""
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


def check_split(prompts: int, group: int, processes: int, micro_batches: int) -> None:
    """A step's answers split into whole groups over processes, and into equal parts there.

    Args:
        prompts: Of a step, over all processes.
        group: Answers to each.
    """
    samples, parts = prompts * group, processes * micro_batches
    if samples % parts or (samples // processes) % group:
        raise ValueError(
            f"train.prompts_per_step={prompts} * train.group_size={group} = {samples} answers do not split "
            f"into whole groups over {processes} processes and train.micro_batches={micro_batches} equal "
            f"parts; set train.prompts_per_step to a multiple of {parts}, such as "
            f"{-(-prompts // parts) * parts}"
        )


def check_prompts(args: GRPOConfig, data: Dataset) -> None:
    """There are enough prompts for one generation batch."""
    assert args.generation_batch_size is not None, "GRPOConfig fills it in"
    assert args.num_generations is not None, "GRPOConfig has a default"
    needed = args.generation_batch_size // args.num_generations
    if len(data) < needed:
        raise ValueError(
            f"{len(data)} training prompts do not fill one generation batch of {needed}, so nothing would be "
            "trained; give more prompts, or take fewer at a time"
        )


def check_lengths(args: GRPOConfig, data: Dataset, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """The longest prompts fit the model's window together with an answer; a rollout checks again."""
    if "prompt" not in data.column_names:
        return  # an environment writes the prompts
    check_window(model, longest_prompt(data["prompt"], tokenizer), args.max_completion_length or 0)


def longest_prompt(prompts: Iterable[Any], tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest of some prompts, texts or conversations.

    Found by their characters, so that not every prompt has to be tokenised twice.
    """
    texts = {repr(prompt): prompt for prompt in prompts}
    longest = [texts[key] for key in sorted(texts, key=len)[-_LONGEST:]]
    asked: Any
    if is_conversational({"prompt": longest[0]}):
        asked = tokenizer.apply_chat_template(longest, add_generation_prompt=True, return_dict=True)
    else:
        asked = tokenizer(text=longest)
    return max(map(len, asked["input_ids"]))


def check_segments(problem: Problem, names: Sequence[str], values: Callable[[str], Iterable[object]]) -> None:
    """Each segment that a constraint names has prompts.

    Args:
        problem: Names the segments.
        names: Columns of the training data.
        values: The entries of a column.
    """
    for column, value in problem.segments:
        if column not in names:
            raise ValueError(
                f"a constraint holds where {column}={value}, but the training data have no column "
                f"{column!r}; they have: {', '.join(names)}"
            )
        entries = list(values(column))
        if not all(entry is None or isinstance(entry, str | int | float) for entry in entries):
            raise ValueError(
                f"a constraint holds where {column}={value}, but the column {column!r} holds lists; name a "
                "column with one value for each prompt, such as segment"
            )
        found = sorted(map(str, set(entries)))
        if value not in found:
            raise ValueError(
                f"a constraint holds where {column}={value}, but no training prompt has that value; "
                f"found: {', '.join(found[:10])}"
            )


def check_rule(problem: Problem, rule: str) -> None:
    """The rule accepts the problem: tried on one group without variation."""
    count = len(problem.constraints)
    zeros = torch.zeros(1, 2, len(problem.columns), dtype=torch.float64)
    units = Units(1.0, torch.ones(count, dtype=torch.float64))
    find_rule(rule)(AdvantageBatch(zeros, problem, torch.zeros(count, dtype=torch.float64), units))


def check_credit(rewards: Iterable[Reward], problem: Problem, rule: str, credit: str) -> None:
    """Credit per tag has a rule that can give it, and a reward that counts and can be credited to tags."""
    if credit == "sequence":
        return
    if credit != "tag":
        raise ValueError(f"{credit=} is unknown; use 'sequence' or 'tag'")
    if not find_rule(rule).per_tag:
        able = ", ".join(name for name, known in RULES.items() if known.per_tag)
        raise ValueError(
            f"credit=tag does not work with rule {rule!r}; use credit=sequence, or one of {able}"
        )
    used = {problem.objective, *(constraint.reward for constraint in problem.constraints)}
    if not any(reward.per in PER_TAG for reward in rewards if reward.name in used):
        raise ValueError(
            f"credit=tag: none of {sorted(used)} is declared per='tag', so no tag can get credit; "
            "set per: tag on a reward that can judge an answer's first tags, or use credit=sequence"
        )


def check_gradient_conflict(args: GRPOConfig, every: int) -> None:
    """Groups are large enough to be played against themselves in two halves."""
    assert args.num_generations is not None, "GRPOConfig has a default"
    check_halves(args.num_generations, every)


def check_halves(group: int, every: int) -> None:
    """Groups can be halved, where their halves are compared once in ``every`` generation batches."""
    if every < 0 or (every and group < 4):
        raise ValueError(
            f"gradient_conflict_every={every} with num_generations={group}: it compares two halves of "
            "each group of 4 answers or more, once in so many generation batches; 0 turns it off"
        )

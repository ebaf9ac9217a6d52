"""Settings of the reinforcement-learning stage, and the trainer they make."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from datasets import Dataset
from pydantic import BaseModel, StrictBool
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
)
from trl import GRPOConfig

from ...envs.settings import MANY, SWITCH, Between
from ...rewards import RewardEngine
from ..optimizer.credit import Credit
from ..optimizer.duals import DualConfig
from ..optimizer.problem import Problem
from ..prefix.layouts import Kernel
from ..prefix.sharing import PrefixSharing
from ..processes import distributed_state
from ..rollouts.settings import RolloutConfig, make_engine
from ..sampling import Sampling
from .constrained import ConstrainedGRPOTrainer
from .preconditions import check_split, longest_prompt


class TrainConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Constrained GRPO."""

    steps: Annotated[int, Between(1, MANY)] = 100
    """Optimiser steps."""
    reuse: Annotated[int, Between(1, 1000)] = 1
    """Optimiser steps on each generation batch; the clipped ratio of PPO keeps them close to it."""
    prompts_per_step: Annotated[int, Between(1, 1_000_000)] = 24
    """Prompts of a step, over all processes."""
    group_size: Annotated[int, Between(2, 100_000)] = 8
    """Answers sampled for each prompt."""
    micro_batches: Annotated[int, Between(1, 100_000)] = 1
    """Forward-backward passes that a process splits its share of a step into: less memory, same result."""
    learning_rate: Annotated[float, Between(0, 1)] = 1e-4
    """AdamW's peak."""
    schedule: Literal["constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    """Learning rate after the warm-up; a decay calms the last steps."""
    warmup_steps: Annotated[int, Between(0, MANY)] = 5
    """Steps of linear warm-up."""
    max_grad_norm: Annotated[float, Between(0, 1e6)] = 1.0
    """Clipping of the gradient's norm; 0 leaves it as it is."""
    temperature: Annotated[float, Between(0.01, 100)] = 1.0
    """Sampling temperature of the rollouts."""
    top_p: Annotated[float, Between(0.001, 1)] = 1.0
    """Nucleus of the rollouts."""
    max_answer_tokens: Annotated[int, Between(1, 1_000_000)] | None = None
    """Longest answer; by default what the longest tags of the catalogue need."""
    kl: Annotated[float, Between(0, 1e6)] = 0.0
    """Weight of KL(policy || warm start), in units of the objective; rescaled with the advantages."""
    loss: Literal["dapo", "dr_grpo", "grpo", "bnpo"] = "dapo"
    """Length normalisation; ``grpo`` divides each answer by its own length, which biases the prices."""
    prefix_sharing: Annotated[PrefixSharing, SWITCH] = "auto"
    """Read each prompt once for its group: ``auto`` where it pays, ``on`` wherever it is exact, ``off``."""
    prefix_attention: Kernel = "split"
    """Attention of shared prompts: ``split`` (SDPA, anywhere) or ``flex`` (FlexAttention, CUDA)."""
    gradient_checkpointing: StrictBool = False
    """Recompute activations in the backward pass: less memory, more time."""
    save_every: Annotated[int, Between(1, MANY)] = 50
    """Steps between checkpoints; the last two are kept."""
    heartbeat: Annotated[float, Between(1, 86_400)] = 180.0
    """Seconds that a process may give no sign of life before all others name it and end."""
    collective_timeout: Annotated[float, Between(1, 604_800)] = 1800.0
    """Seconds that a process may wait for the others in one exchange."""

    def sampling(self, tokenizer: PreTrainedTokenizerBase, answer_tokens: int) -> Sampling:
        """The rollouts' sampling, for evaluation outside the trainer."""
        return Sampling(
            max_tokens=self.max_answer_tokens or answer_tokens,
            ends=(int(tokenizer.eos_token_id),),
            temperature=self.temperature,
            top_p=self.top_p,
        )


def serving_length(
    config: TrainConfig,
    rows: Sequence[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    answer_tokens: int,
) -> int:
    """Tokens of a prompt and an answer together, at most."""
    return longest_prompt([row["prompt"] for row in rows], tokenizer) + (
        config.max_answer_tokens or answer_tokens
    )


def make_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    engine: RewardEngine,
    problem: Problem,
    *,
    config: TrainConfig,
    rule: str,
    duals: DualConfig,
    credit: Credit = "sequence",
    gradient_conflict_every: int = 0,
    rollout: RolloutConfig | None = None,
    answer_tokens: int,
    output: Path,
    seed: int,
    callbacks: list[TrainerCallback] | None = None,
) -> ConstrainedGRPOTrainer:
    """The trainer of a run.

    Args:
        model: Loaded from a folder, which a rollout engine starts with.
        rows: ``prompt`` and the columns that the rewards read.
        rollout: Where answers are sampled; by default in the trainer. Its engine is the caller's to close.
        answer_tokens: Default of ``config.max_answer_tokens``.
        output: Folder of checkpoints and TensorBoard events.

    Raises:
        ValueError: the batch does not divide over processes and micro-batches.
        RolloutError: the rollout engine cannot be had.
    """
    processes = distributed_state().num_processes
    check_split(config.prompts_per_step, config.group_size, processes, config.micro_batches)
    samples, parts = config.prompts_per_step * config.group_size, processes * config.micro_batches
    on_cpu = not torch.cuda.is_available()
    arguments = GRPOConfig(
        output_dir=str(output),
        max_steps=config.steps,
        per_device_train_batch_size=samples // parts,
        gradient_accumulation_steps=config.micro_batches,
        num_generations=config.group_size,
        num_iterations=config.reuse,
        max_completion_length=config.max_answer_tokens or answer_tokens,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup_steps,
        max_grad_norm=config.max_grad_norm,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=0,
        beta=config.kl,
        loss_type=config.loss,
        gradient_checkpointing=config.gradient_checkpointing,
        # TRL turns bf16 on by default, on a CPU too.
        bf16=model.dtype == torch.bfloat16,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        logging_steps=1,
        save_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=2,
        report_to="tensorboard",
        disable_tqdm=True,
        ddp_timeout=int(config.collective_timeout),
        seed=seed,
    )
    rollout = rollout or RolloutConfig()
    dtype = str(model.dtype).removeprefix("torch.")
    longest = serving_length(config, rows, tokenizer, answer_tokens)
    # Before the trainer, whose constructor seeds what is random.
    rollouts = make_engine(rollout, str(model.name_or_path), dtype, longest, output.parent)
    trainer = ConstrainedGRPOTrainer(
        model,
        engine,
        objective=problem,
        rule=rule,
        duals=duals,
        credit=credit,
        gradient_conflict_every=gradient_conflict_every,
        prefix_sharing=config.prefix_sharing,
        prefix_attention=config.prefix_attention,
        rollouts=rollouts,
        correct_rollouts=rollout.corrects(dtype),
        args=arguments,
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    # The run's own display shows progress; the default prints every metric of every step.
    trainer.remove_callback(PrinterCallback)
    return trainer

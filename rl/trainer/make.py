"""The trainer of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
)
from transformers.integrations import TensorBoardCallback
from trl import GRPOConfig

from ...rewards import RewardEngine
from ..distributed.processes import distributed_state
from ..optimizer.problem import Problem
from ..optimizer.settings import Credit, DualConfig
from ..rollouts.make import make_engine
from ..rollouts.settings import RolloutConfig
from .constrained import ConstrainedGRPOTrainer
from .preconditions import longest_prompt
from .settings import TrainConfig, check_split
from .tensorboard import FilterableTensorBoard
from .trackers import NONE


def serving_length(
    config: TrainConfig,
    rows: Sequence[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    answer_tokens: int,
) -> int:
    """Largest number of tokens of a prompt and an answer together."""
    return longest_prompt([row["prompt"] for row in rows], tokenizer) + (
        config.max_answer_tokens or answer_tokens
    )


def step_arguments(
    config: TrainConfig, model: PreTrainedModel, answer_tokens: int, processes: int = 1
) -> dict[str, Any]:
    """Fields of ``GRPOConfig`` that say what a step is: recrl's trainer and TRL's own then do the same work.

    Args:
        answer_tokens: Default of ``config.max_answer_tokens``.
        processes: Number of processes that share a step.
    """
    samples, parts = config.prompts_per_step * config.group_size, processes * config.micro_batches
    on_cpu = not torch.cuda.is_available()
    return {
        "max_steps": config.steps,
        "per_device_train_batch_size": samples // parts,
        "gradient_accumulation_steps": config.micro_batches,
        "num_generations": config.group_size,
        "num_iterations": config.reuse,
        "max_completion_length": config.max_answer_tokens or answer_tokens,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.schedule,
        "warmup_steps": config.warmup_steps,
        "max_grad_norm": config.max_grad_norm,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": 0,
        "beta": config.kl,
        "loss_type": config.loss,
        "gradient_checkpointing": config.gradient_checkpointing,
        # TRL turns bf16 on by default, on a CPU too.
        "bf16": model.dtype == torch.bfloat16,
        "use_cpu": on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "logging_steps": 1,
        "disable_tqdm": True,
    }


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
    name: str | None = None,
    trust_remote_code: bool = False,
    callbacks: list[TrainerCallback] | None = None,
) -> ConstrainedGRPOTrainer:
    """The trainer of a run.

    Args:
        model: Policy loaded from a folder, which a rollout engine starts with.
        rows: Rows with ``prompt`` and the columns that the rewards read.
        rollout: Sampler of the answers; by default the trainer. Its engine is the caller's to close.
        answer_tokens: Default of ``config.max_answer_tokens``.
        output: Folder of checkpoints and TensorBoard events.
        name: Name of the run, for trackers.
        trust_remote_code: Whether code that comes with the model runs when the reference is loaded again.

    Raises:
        ValueError: the batch does not divide over processes and micro-batches.
        RolloutError: the rollout engine cannot be had.
    """
    processes = distributed_state().num_processes
    check_split(config.prompts_per_step, config.group_size, processes, config.micro_batches)
    arguments = GRPOConfig(
        output_dir=str(output),
        **step_arguments(config, model, answer_tokens, processes),
        remove_unused_columns=False,
        save_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=2,
        report_to=[name for name in config.report_to if name != NONE],
        run_name=name,
        trust_remote_code=trust_remote_code,
        ddp_timeout=int(config.collective_timeout),
        seed=seed,
        **config.trl,
    )
    rollout = rollout or RolloutConfig()
    dtype = str(model.dtype).removeprefix("torch.")
    longest = serving_length(config, rows, tokenizer, answer_tokens)
    # Made before the trainer, whose constructor seeds what is random.
    rollouts = make_engine(rollout, str(model.name_or_path), dtype, longest, output.parent)
    trainer = ConstrainedGRPOTrainer(
        model,
        engine,
        objective=problem,
        rule=rule,
        duals=duals,
        credit=credit,
        gradient_conflict_every=gradient_conflict_every,
        average=config.average,
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
    if "tensorboard" in config.report_to:
        trainer.remove_callback(TensorBoardCallback)
        trainer.add_callback(FilterableTensorBoard(problem.constraints, trainer.duals.report))
    return trainer

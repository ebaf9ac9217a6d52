"""A run of TRL's own ``GRPOTrainer``: ``python -m recrl.benchmarks.rules.stock CONFIG.yaml``.

It begins with the warm start in the run's folder, and gets what a run of recrl gets: prompts, number of
answers to each, steps, rate, KL weight, clipping. The rewards are functions for TRL with ``reward_weights``;
those that weigh nothing are left out, as a user of TRL would. It keeps no checkpoint: a run that was killed
starts anew.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from recrl.launch.config.reading import load
from recrl.launch.config.schema import RunConfig
from recrl.launch.run.progress import Display
from recrl.launch.run.setup import Setup, prepare_setup
from recrl.rewards import RewardSpec
from recrl.rl import policy
from recrl.rl.policy.loading import save_policy
from recrl.rl.trainer.without_vllm import import_trl

from .cells import SECONDS


def reward_functions(setup: Setup) -> tuple[list[Any], list[float]]:
    """The run's rewards as TRL calls them, and their weights."""
    chosen = [spec for spec in setup.config.rewards if spec.weight]
    return [_function(setup, spec) for spec in chosen], [spec.weight for spec in chosen]


def _function(setup: Setup, spec: RewardSpec) -> Callable[..., list[float]]:
    engine, group, name = setup.engine, setup.config.train.group_size, spec.name
    asked = None if spec.sum else {name}

    def score(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        known = {column: columns[column] for column in (*setup.task.names, "completion_ids")}
        scores = engine.score(prompts, completions, known, group, only=asked)
        return scores[:, engine.names.index(name)].tolist()

    score.__name__ = name
    return score


def train(config: RunConfig) -> float:
    """Train from ``warm/`` to ``policy/`` in the run's folder.

    Returns:
        Seconds of the steps.
    """
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    setup, options = prepare_setup(config, Display(enabled=False)), config.train
    samples = options.prompts_per_step * options.group_size
    model, tokenizer = policy.load(config.policy.at(config.folder / "warm"))
    functions, weights = reward_functions(setup)
    on_cpu = not torch.cuda.is_available()
    trainer = GRPOTrainer(
        model,
        functions,
        args=GRPOConfig(
            output_dir=str(config.folder / "checkpoints"),
            reward_weights=weights,
            max_steps=options.steps,
            per_device_train_batch_size=samples // options.micro_batches,
            gradient_accumulation_steps=options.micro_batches,
            num_generations=options.group_size,
            num_iterations=options.reuse,
            max_completion_length=options.max_answer_tokens or setup.answer_tokens(tokenizer),
            learning_rate=options.learning_rate,
            lr_scheduler_type=options.schedule,
            warmup_steps=options.warmup_steps,
            max_grad_norm=options.max_grad_norm,
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=0,
            beta=options.kl,
            loss_type=options.loss,
            gradient_checkpointing=options.gradient_checkpointing,
            bf16=model.dtype == torch.bfloat16,
            use_cpu=on_cpu,
            dataloader_pin_memory=not on_cpu,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=config.seed,
        ),
        train_dataset=Dataset.from_list(setup.training_rows),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    save_policy(model, tokenizer, config.folder / "policy")
    return seconds


def main() -> None:
    """Main function of the process."""
    import_trl()
    config = load(sys.argv[1])
    seconds = train(config)
    (config.folder / SECONDS).write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()

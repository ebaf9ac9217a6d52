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
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    from recrl.rl.trainer.make import step_arguments

    setup = prepare_setup(config, Display(enabled=False))
    model, tokenizer = policy.load(config.policy.at(config.folder / "warm"))
    functions, weights = reward_functions(setup)
    trainer = GRPOTrainer(
        model,
        functions,
        args=GRPOConfig(
            output_dir=str(config.folder / "checkpoints"),
            reward_weights=weights,
            **step_arguments(config.train, model, setup.answer_tokens(tokenizer)),
            save_strategy="no",
            report_to="none",
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

"""Short training runs on fixed rollouts, for one process or several: the script behind test_distributed.py.

Usage: fixed_rollouts.py OUTPUT [ddp | zero1 | zero2 | zero3]; writes for each run the final weights and what
every rank ended with. Several processes read each prompt once, one process reads it for every answer. Kinds
in ``RESUMED`` also stop a run and resume it.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import TrainerCallback, set_seed
from trl import GRPOConfig

from recrl.envs.catalog import Catalog
from recrl.rewards import RewardEngine, RewardSpec
from recrl.rewards.scoring.binding import LIVE
from recrl.rl import policy
from recrl.rl.distributed.processes import leave
from recrl.rl.optimizer.problem import Problem
from recrl.rl.policy import slots
from recrl.rl.trainer.constrained import ConstrainedGRPOTrainer
from recrl.rl.trainer.make import distributed_state

GROUPS, SIZE, SLOTS, STEPS = 4, 4, 3, 4
CATALOG = Catalog([f"tag {letter}" for letter in "abcdefghijkl"])


def rows() -> list[dict]:
    return [
        {
            "prompt": [{"role": "user", "content": f"user {i}\n{CATALOG.render([i % 12])}"}],
            "target": [i % 12, (i + 5) % 12],
            "lookback": [i % 12, (i + 1) % 12, (i + 2) % 12],
            "segment": "warm" if i % 3 else "cold",
        }
        for i in range(32)
    ]


def answers(prompts: list, trainer: Any, length: Callable[[int, int], int]) -> dict:
    """The same answers for the same prompt and place in its group, whoever asks.

    Args:
        length: Number of tags, from the number of the user and the place in the group.
    """
    tokenizer = trainer.processing_class
    texts = []
    for i, prompt in enumerate(prompts):
        content = prompt[0]["content"]
        seed = hashlib.sha256(f"{content} {i % SIZE}".encode()).digest()
        texts.append(CATALOG.render([b % 12 for b in seed[: length(int(content.split()[1]), i % SIZE)]]))
    asked = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=True)
    completion_ids = [
        [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id] for text in texts
    ]
    return {"prompt_ids": asked["input_ids"], "completion_ids": completion_ids, "logprobs": None}


def scripted(prompts: list, trainer: Any) -> dict:
    return answers(prompts, trainer, lambda user, place: 1 + place)


def uneven(prompts: list, trainer: Any) -> dict:
    """The longest answer to a prompt has one to four tags, so that ranks hold different numbers of them."""
    return answers(prompts, trainer, lambda user, place: 1 + place * (user % 4) // 3)


def policy_and_tokenizer(hidden: int = 32) -> tuple[Any, Any]:
    config = policy.PolicyConfig(tiny=policy.TinyConfig(hidden=hidden, vocabulary=300))
    texts = [row["prompt"][0]["content"] for row in rows()]
    return policy.load(config, options=CATALOG.tags, texts=texts)


def saved_policy(folder: Path) -> str:
    """That policy as a folder, for whoever loads one by its place."""
    for part in policy_and_tokenizer():
        part.save_pretrained(folder)
    return str(folder)


def arguments(output: Path, **options: Any) -> GRPOConfig:
    settings = {
        "output_dir": str(output),
        "max_steps": STEPS,
        "per_device_train_batch_size": GROUPS * SIZE // distributed_state().num_processes,
        "num_generations": SIZE,
        "max_completion_length": 8,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "loss_type": "dapo",
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }
    return GRPOConfig(**{**settings, **options})


def trainer_for(
    output: Path,
    *,
    data: Sequence[dict] | None = None,
    rewards: Sequence[RewardSpec | str] = ("recall", "novelty", "duplicates"),
    constraints: Sequence[str] = ("novelty >= 0.9 (mean)", "duplicates <= 0.05 (mean)"),
    objective: str = "recall",
    change: Callable[[Any], Any] = lambda model: model,
    **options: Any,
) -> ConstrainedGRPOTrainer:
    """A trainer on the tiny policy; ``options`` are its own or TRL's arguments.

    Args:
        change: Another model in place of the tiny policy.
    """
    distributed_state()
    set_seed(0)
    model, tokenizer = policy_and_tokenizer()
    model = change(model)
    if (layer := slots.of(model)) is not None:
        slots.read_marks(tokenizer, layer.store, layer.num_embeddings)
    engine = RewardEngine(
        list(rewards),
        resources={**dict.fromkeys(LIVE), "catalog": CATALOG, "slots": SLOTS},
        columns=["target", "lookback", "completion_ids"],
    )
    ours = (
        "rollout_func",
        "rule",
        "prefix_sharing",
        "credit",
        "gradient_conflict_every",
        "average",
        "duals",
        "peft_config",
        "eval_dataset",
        "rollouts",
        "correct_rollouts",
    )
    trainer_options = {name: options.pop(name) for name in ours if name in options}
    return ConstrainedGRPOTrainer(
        model,
        engine,
        objective=Problem.build(objective, list(constraints), engine.ranges),
        args=arguments(output, **options),
        train_dataset=Dataset.from_list(list(rows() if data is None else data)),
        processing_class=tokenizer,
        **trainer_options,
    )


class Stop(TrainerCallback):
    """As SIGTERM does: a checkpoint after this step, and no more."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


# Options of each run; ``sampled`` samples its rollouts, ``slots`` has prompts of entity slots.
RUNS: dict[str, dict[str, Any]] = {
    # The first, so that a reference is loaded before DeepSpeed has begun.
    "slots": {"rollout_func": scripted, "num_iterations": 2, "beta": 0.1},
    "sequence": {"rollout_func": scripted, "num_iterations": 2},
    "tag": {
        "rollout_func": uneven,
        "credit": "tag",
        "constraints": ("novelty >= 0.9 where segment=cold (mean)", "duplicates <= 0.05 (mean)"),
    },
    "sampled": {"max_steps": 2},
}
# Kinds of launch that each run is for; others are for all.
KINDS = {"tag": ("one", "ddp"), "slots": ("one", "zero2", "zero3")}


# Kinds of launch that resume a run too.
RESUMED = ("ddp", "zero2", "zero3")


def record_lengths(engine: RewardEngine) -> list[int]:
    """Number of positions in each generation batch of this rank, filled in as training goes."""
    lengths, score_prefixes = [], engine.score_prefixes

    def spy(*arguments: Any) -> Any:
        lengths.append(arguments[-1])
        return score_prefixes(*arguments)

    engine.score_prefixes = spy
    return lengths


def record_answers(trainer: ConstrainedGRPOTrainer) -> list[list[int]]:
    """Token ids of the answers that this rank samples, filled in as training goes."""
    answers, generate = [], trainer._generate_single_turn

    def spy(*arguments: Any, **options: Any) -> Any:
        found = generate(*arguments, **options)
        answers.extend(found[0])
        return found

    trainer._generate_single_turn = spy
    return answers


def record_reads(trainer: ConstrainedGRPOTrainer) -> list[tuple[int, int]]:
    """Rows and columns of each training pass of this rank, filled in as training goes."""
    reads: list[tuple[int, int]] = []

    def spy(_: Any, given: Any, __: Any) -> None:
        if torch.is_grad_enabled():
            reads.append(tuple(given[0].shape))

    trainer.model.get_input_embeddings().register_forward_hook(spy)
    return reads


def main() -> None:
    import resumed_ranks
    import slotted

    output, kind = Path(sys.argv[1]), sys.argv[2]
    hybrid = slotted.options(output / "slotted" / "policy")
    for name in [name for name in RUNS if kind in KINDS.get(name, (kind,))]:
        folder, chosen = output / name, RUNS[name] | (hybrid if name == "slots" else {})
        trainer = trainer_for(folder, prefix_sharing="off" if kind == "one" else "on", **chosen)
        lengths, answers = record_lengths(trainer.engine), record_answers(trainer)
        reads = record_reads(trainer)
        trainer.train()
        mine = {"duals": trainer.duals.state_dict(), "lengths": lengths, "answers": answers, "reads": reads}
        ranks = gather_object([{**mine, "end": trainer.processing_class.eos_token_id}])
        # Of sharded weights every rank holds a part.
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if trainer.accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            torch.save({name: value.clone() for name, value in weights.items()}, folder / "weights.pt")
            (folder / "ranks.json").write_text(json.dumps(ranks))
    if kind in RESUMED:
        resumed_ranks.runs(output / "resumed all weights")
        resumed_ranks.runs(output / "resumed adapters", resumed_ranks.ADAPTERS)
        if kind in KINDS["slots"]:
            resumed_ranks.runs(output / "resumed slots", hybrid)
    leave()


if __name__ == "__main__":
    main()

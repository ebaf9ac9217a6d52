"""A short training run on fixed rollouts, for one process or several: the script behind test_distributed.py.

Usage: fixed_rollouts.py OUTPUT [ddp | deepspeed]; writes the final weights and every rank's multipliers.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import set_seed
from trl import GRPOConfig

from recrl.envs.catalog import Catalog
from recrl.rewards import RewardEngine
from recrl.rl import policy
from recrl.rl.constraints import Problem
from recrl.rl.trainer import ConstrainedGRPOTrainer
from recrl.rl.training import distributed_state

GROUPS, SIZE, SLOTS, STEPS = 4, 4, 3, 4
CATALOG = Catalog([f"tag {letter}" for letter in "abcdefghijkl"])


def rows() -> list[dict]:
    return [
        {
            "prompt": [{"role": "user", "content": f"user {i}\n{CATALOG.render([i % 12])}"}],
            "target": [i % 12, (i + 5) % 12],
            "lookback": [i % 12, (i + 1) % 12, (i + 2) % 12],
        }
        for i in range(32)
    ]


def scripted(prompts: list, trainer: ConstrainedGRPOTrainer) -> dict:
    """The same answers for the same prompt and place in its group, whoever asks."""
    tokenizer = trainer.processing_class
    answers = []
    for i, prompt in enumerate(prompts):
        seed = hashlib.sha256(f"{prompt[0]['content']} {i % SIZE}".encode()).digest()
        answers.append(CATALOG.render([b % 12 for b in seed[: 1 + i % SIZE]]))
    asked = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=True)
    completion_ids = [
        [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id] for answer in answers
    ]
    return {"prompt_ids": asked["input_ids"], "completion_ids": completion_ids, "logprobs": None}


def trainer_for(output: Path, **options) -> ConstrainedGRPOTrainer:
    processes = distributed_state().num_processes
    set_seed(0)
    data = rows()
    config = policy.PolicyConfig(tiny=policy.TinyConfig(hidden=32, vocabulary=300))
    texts = [row["prompt"][0]["content"] for row in data]
    model, tokenizer = policy.load(config, tags=CATALOG.tags, texts=texts)
    engine = RewardEngine(
        ["recall", "novelty", "duplicates"],
        resources={"catalog": CATALOG, "slots": SLOTS},
        columns=["target", "lookback", "completion_ids"],
    )
    problem = Problem.build("recall", ["novelty >= 0.9 (mean)", "duplicates <= 0.05 (mean)"], engine.ranges)
    settings = {
        "output_dir": str(output),
        "max_steps": STEPS,
        "per_device_train_batch_size": GROUPS * SIZE // processes,
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
    trainer_options = {
        name: options.pop(name) for name in ("rollout_func", "rule", "share_prefix") if name in options
    }
    return ConstrainedGRPOTrainer(
        model,
        engine,
        problem,
        args=GRPOConfig(**{**settings, **options}),
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        **trainer_options,
    )


def main() -> None:
    output = Path(sys.argv[1])
    if "deepspeed" in sys.argv:
        import deepspeed

        # Its shared-memory collectives would be compiled first; gloo does the same work.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    trainer = trainer_for(output, rollout_func=scripted)
    trainer.train()
    duals = gather_object([trainer.duals.state_dict()])
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    if trainer.accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        torch.save({name: value.clone() for name, value in model.state_dict().items()}, output / "weights.pt")
        (output / "duals.json").write_text(json.dumps(duals))


if __name__ == "__main__":
    main()

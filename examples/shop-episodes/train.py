"""Train a policy on four weeks of a simulated shop, under a floor of novelty.

Usage: python train.py POLICY OUTPUT [STEPS]; POLICY is the folder of a policy that answers lists of ten tags
for the Complete Journey panel, such as runs/demo/policy.
"""

import sys
from pathlib import Path

from datasets import Dataset
from trl import GRPOConfig

from recrl import ConstrainedGRPOTrainer
from recrl.envs.data.settings import DataConfig
from recrl.envs.tags.settings import TagsConfig
from recrl.envs.tags.task import Tags
from recrl.rl.rollouts.episodes import Episodes


def main(policy: str, output: str, steps: int = 30) -> None:
    task = Tags(TagsConfig(), DataConfig())
    episodes = Episodes(task=task, weeks=4, reward="clicks")
    trainer = ConstrainedGRPOTrainer(
        policy,
        [*episodes.rewards, "novelty", "duplicates", "length"],
        GRPOConfig(
            output_dir=output,
            max_steps=steps,
            per_device_train_batch_size=64,
            num_generations=8,
            max_completion_length=48,
            learning_rate=2e-4,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            bf16=False,
        ),
        Dataset.from_list(episodes.rows),
        objective="return",
        constraints=["novelty >= 0.3 (mean)", "duplicates <= 0.03 (mean)", "length >= 0.9 (mean)"],
        resources={"catalog": task.catalog, "slots": task.slots},
        rollout_func=episodes,
    )
    trainer.train()
    trainer.save_policy(Path(output))


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:4]))

"""A run of seconds: a tiny policy, four steps, a few test episodes."""

from pathlib import Path
from typing import Any

from recrl.launch import config as configuration
from recrl.launch.config.schema import RunConfig

TREE: dict[str, Any] = {
    "name": "small",
    "policy": {"tiny": {"hidden": 32, "layers": 1, "vocabulary": 400}},
    "task": {"max_train_episodes": 40},
    "warm_start": {"steps": 1, "prompts_per_step": 2, "lists_per_prompt": 2},
    "rewards": ["recall", "novelty", "duplicates"],
    "optimizer": {
        "objective": "recall",
        "constraints": ["novelty >= 0.3 (mean)", "duplicates <= 0.03 (mean)"],
    },
    "train": {"steps": 4, "prompts_per_step": 4, "group_size": 4, "save_every": 100},
    "evaluation": {"max_episodes": 8},
}


def settings(output: Path, cache: Path, *overrides: str) -> RunConfig:
    """That run, written under ``output``."""
    path = output.with_suffix(".yaml")
    tree = {**TREE, "output": str(output), "data": {"cache": str(cache)}}
    path.write_text(configuration.plain_yaml.write(tree))
    return configuration.load(str(path), overrides)

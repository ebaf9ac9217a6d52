"""Cost of rule and multipliers within a real training step: the first steps of the shipped demo."""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

RESULT = "cost.json"
_STEPS = 12
_SKIPPED = 2  # the first steps warm up allocators and caches


def measure() -> dict[str, Any]:
    """Train the demo for a few steps.

    Returns:
        ``step`` and ``optimiser`` (rule and multipliers), seconds, medians over steps; ``share``, the median
        of their ratios; ``samples``, answers a step.
    """
    # Imported here: a report reads this module's file name and need not load a language model for it.
    from recrl.launch.config.reading import load
    from recrl.launch.run import pipeline as run

    with tempfile.TemporaryDirectory() as folder:
        changes = ["warm_start.steps=1", f"train.steps={_STEPS}", "evaluation.max_episodes=8"]
        config = load("demo", [*changes, f"output={folder}/run"])
        lines = (run.train(config) / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines[_SKIPPED:]]
    return {
        "step": statistics.median(s["step_time"] for s in steps),
        "optimiser": statistics.median(s["time/constraints"] for s in steps),
        "share": statistics.median(s["time/constraints"] / s["step_time"] for s in steps),
        "samples": config.train.prompts_per_step * config.train.group_size,
    }


def write(folder: Path) -> None:
    """Measure into ``folder/cost.json``."""
    (folder / RESULT).write_text(json.dumps(measure(), indent=1))

"""recrl: reinforcement learning for LLM recommenders.

Maximise one named reward while the others are held at their targets. The folders are floors, and an import
only points down: ``envs`` (what the policy meets) <- ``rewards`` (what scores an answer) <- ``rl`` (what
improves the policy) <- ``launch`` (what a person runs).
"""

from typing import TYPE_CHECKING, Any

from .rewards import Reward, reward

if TYPE_CHECKING:
    from .rl.trainer.constrained import ConstrainedGRPOTrainer

__all__ = ["ConstrainedGRPOTrainer", "Reward", "reward"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "ConstrainedGRPOTrainer":  # only who trains waits for torch
        from .rl.trainer.constrained import ConstrainedGRPOTrainer

        return ConstrainedGRPOTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

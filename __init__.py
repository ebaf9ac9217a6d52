"""recrl: reinforcement learning for LLM recommenders.

Maximise one named reward while the others are held at their targets. The folders are floors, and an import
only points down: ``envs`` (what the policy meets) <- ``rewards`` (what scores an answer) <- ``rl`` (what
improves the policy) <- ``launch`` (what a person runs).
"""

from .rewards import reward

__all__ = ["reward"]
__version__ = "0.1.0"

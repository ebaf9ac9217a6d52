"""What scores an answer: the Reward protocol, the registry, the engine and the rewards recrl ships with."""

from .base import Reward, RewardError, RewardSpec, RewardSpecError, completion_text
from .encoder import encode_tags
from .engine import RewardEngine
from .registry import declared_in, parameters, resolve, reward

__all__ = [
    "Reward",
    "RewardEngine",
    "RewardError",
    "RewardSpec",
    "RewardSpecError",
    "completion_text",
    "declared_in",
    "encode_tags",
    "parameters",
    "resolve",
    "reward",
]

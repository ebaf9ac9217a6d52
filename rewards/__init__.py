"""What scores an answer: the Reward protocol, the registry, the engine and the rewards recrl ships with."""

from .base import Reward, RewardError, RewardSpecError, completion_text
from .registry import declared_in, known, parameters, resolve, resolve_all, reward
from .scoring.engine import RewardEngine
from .shipped.encoder import encode_tags
from .spec import RewardSpec

__all__ = [
    "Reward",
    "RewardEngine",
    "RewardError",
    "RewardSpec",
    "RewardSpecError",
    "completion_text",
    "declared_in",
    "encode_tags",
    "known",
    "parameters",
    "resolve",
    "resolve_all",
    "reward",
]

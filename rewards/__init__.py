"""What scores an answer: the Reward protocol, the registry, the engine and the rewards recrl ships with."""

from typing import TYPE_CHECKING, Any

from .base import Reward, RewardError, RewardSpecError, completion_text
from .registry import declared_in, known, parameters, resolve, resolve_all, reward
from .spec import RewardSpec

if TYPE_CHECKING:
    from .scoring.engine import RewardEngine
    from .shipped.encoder import encode_tags

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


def __getattr__(name: str) -> Any:
    """Objects that need numerical packages, imported when they are first asked for."""
    if name == "RewardEngine":
        from .scoring.engine import RewardEngine

        return RewardEngine
    if name == "encode_tags":
        from .shipped.encoder import encode_tags

        return encode_tags
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

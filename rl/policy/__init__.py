"""The language model that is trained.

``settings``   which one, and its warm start
``loading``    any causal language model by name or path, and saving it
``adapters``   LoRA around it
``slots``      one input vector for each entity of a store, behind its vocabulary
``tiny``       the embedded policy of a million parameters
``warmstart``  supervised training on demonstrations, before reinforcement learning
"""

from typing import TYPE_CHECKING, Any

from .errors import PolicyError
from .settings import Dtype, LoraConfig, PolicyConfig, TinyConfig

if TYPE_CHECKING:
    from .loading import load, save_policy

__all__ = ["Dtype", "LoraConfig", "PolicyConfig", "PolicyError", "TinyConfig", "load", "save_policy"]


def __getattr__(name: str) -> Any:
    """Import what needs torch and transformers when it is first asked for."""
    if name in ("load", "save_policy"):
        from . import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The language model that is trained.

``loading``    any causal language model by name or path, and saving it
``adapters``   LoRA around it
``tiny``       the embedded policy of a million parameters
``warmstart``  supervised training on demonstrations, before reinforcement learning
"""

from .errors import PolicyError
from .loading import Dtype, LoraConfig, PolicyConfig, load, save_policy
from .tiny import TinyConfig

__all__ = ["Dtype", "LoraConfig", "PolicyConfig", "PolicyError", "TinyConfig", "load", "save_policy"]

"""The language model that is trained.

``loading``    any causal language model by name or path, and saving it
``tiny``       the embedded policy of a million parameters
``warmstart``  supervised training on demonstrations, before reinforcement learning
"""

from .loading import Dtype, PolicyConfig, PolicyError, load, save_policy
from .tiny import TinyConfig

__all__ = ["Dtype", "PolicyConfig", "PolicyError", "TinyConfig", "load", "save_policy"]

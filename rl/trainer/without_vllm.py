"""TRL, imported without the vLLM that it would import for engines of its own."""

import importlib
import sys
from typing import Any


def import_trl() -> None:
    """Import TRL's trainer while vLLM is out of its sight, unless either is imported already.

    TRL 1.16 imports vLLM with its trainer wherever it is installed: a third of what a start takes, for
    engines that a run does not use, since those of :mod:`recrl.rl.rollouts` import vLLM themselves. Programs
    that use TRL's own engines leave this out.
    """
    modules: dict[str, Any] = sys.modules
    if "vllm" in modules or "trl.trainer.grpo_trainer" in modules:
        return
    modules["vllm"] = None  # a package that is not there
    try:
        importlib.import_module("trl.trainer.grpo_trainer")
    finally:
        del modules["vllm"]

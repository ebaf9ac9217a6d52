"""TRL, imported without the vLLM that it would import for engines of its own."""

import gc
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
    # The collector would look through all that was imported again and again: a fifth of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module("trl.trainer.grpo_trainer")
    finally:
        del modules["vllm"]
        if collecting:
            gc.enable()

"""TRL, imported without the vLLM that it would import for engines of its own.

``importing``   imports, without the garbage collector
``import_trl``  TRL's trainer
"""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def importing() -> Iterator[None]:
    """Import without the garbage collector, which would look through the same modules again and again: it
    took half of a start. What was imported stays for good, so later collections leave it out, too.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.freeze()
            gc.enable()


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
        with importing():
            importlib.import_module("trl.trainer.grpo_trainer")
    finally:
        del modules["vllm"]

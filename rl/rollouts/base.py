"""Rollout engines: each holds some version of the policy's weights and answers prompts with it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ...envs.faults import MendableError
from ..sampling import Sampling

if TYPE_CHECKING:
    from torch import Tensor

Weights = Callable[[], "Iterator[tuple[str, Tensor]]"]
"""Function that walks over the policy's parameters once a call; collective where they are sharded."""


class RolloutError(MendableError, RuntimeError):
    """The engine cannot answer, or its answers cannot be trained on; the message names the fix."""


@dataclass(frozen=True)
class Request:
    """One prompt.

    Attributes:
        prompt: Token ids.
        answers: Number of answers to sample.
        seed: Seed of these answers.
        extra: What a logits processor inside the engine is told of them.
    """

    prompt: tuple[int, ...]
    answers: int
    seed: int
    extra: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Answer:
    """One sampled answer.

    Attributes:
        tokens: Token ids, the end token included.
        logprobs: Natural logarithm of each token's probability under the distribution it was drawn from,
            after temperature and truncation.
        versions: Weights that its tokens were drawn from, in order; one unless they were exchanged midway.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    versions: tuple[str, ...]


class RolloutEngine(Protocol):
    """Answers prompts with weights that are handed to it."""

    dtype: str
    """Dtype of its arithmetic: ``float32``, ``bfloat16`` or ``float16``."""

    def update(self, version: str, weights: Weights) -> None:
        """Take over weights; every rank calls it, and comes back when every engine holds them.

        Args:
            version: Name of the weights from now on.
            weights: Parameters under the names of a checkpoint.

        Raises:
            RolloutError: an engine does not hold them in the end.
        """
        ...

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterable[list[Answer]]:
        """The answers to each request, of this rank alone, in order, each as soon as it is there.

        Raises:
            RolloutError: an answer is missing, or these weights did not give it.
        """
        ...

    def close(self) -> None:
        """Give memory and connections back."""
        ...


def sampling_options(sampling: Sampling, request: Request) -> dict[str, Any]:
    """vLLM's ``SamplingParams`` for a request; nothing is left to a model's ``generation_config``."""
    return {
        "n": request.answers,
        "seed": request.seed,
        "max_tokens": sampling.max_tokens,
        # The ends are ours alone: a model's configuration may name others.
        "ignore_eos": True,
        "stop_token_ids": list(sampling.ends),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "logprobs": 0,
        "detokenize": False,
        **({"extra_args": dict(request.extra)} if request.extra else {}),
    }


def fault(answer: Answer, sampling: Sampling) -> str | None:
    """Reason why an answer cannot be trained on, or None."""
    if not 1 <= len(answer.tokens) <= sampling.max_tokens:
        return f"an answer has {len(answer.tokens)} tokens, not 1 to {sampling.max_tokens}"
    if len(answer.logprobs) != len(answer.tokens):
        return f"{len(answer.tokens)} tokens came with {len(answer.logprobs)} log-probabilities"
    if not all(-float("inf") < value <= 1e-3 for value in answer.logprobs):  # NaN is not either
        return "a log-probability is no finite number up to 0"
    ended = answer.tokens[-1] in sampling.ends
    if len(answer.tokens) < sampling.max_tokens and not ended:
        return (
            f"an answer broke off after {len(answer.tokens)} of {sampling.max_tokens} tokens without an end"
        )
    return None

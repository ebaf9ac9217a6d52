"""When prompts are read once: where it is exact, and where it pays.

``can_share``     whether it is exact for a model, tried out once
``differences``   how far shared prompts are from full rows, in nats
``CostModel``     whether it pays
``Sharing``       what a trainer makes of these
"""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..sampling import Sampling
from . import attention
from .branching import decode
from .packing import continuation_logits
from .settings import Kernel, PrefixSharing

logger = logging.getLogger(__name__)


# Mean difference of log-probabilities, in nats, up to which two ways to compute them are the same.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}

# Sharing must save this share of the arithmetic, or its own bookkeeping outweighs it.
_WORTHWHILE = 0.9

# Tokens of an answer, and of a made-up prompt, with which sharing is tried out.
_ANSWER, _PROMPT = 8, 24

# Attribute in which a model notes that it was tried out.
_TRIED = "_recrl_tried_shared_prefix"


@torch.no_grad()
def differences(model: PreTrainedModel, prompt: Sequence[int], kernel: Kernel = "split") -> Tensor:
    """Distance of packed rows and a rollout from full rows on some tokens behind a prompt, in nats.

    Args:
        model: Causal language model without wrappers, whose attention can be shared; its mode is kept.
        prompt: Token ids; cut from the left if a sliding window is shorter.
        kernel: Kernel of the packed rows.
    """
    window = attention.window(model)
    tokens = _ANSWER if window is None else max(1, min(_ANSWER, window // 2))
    if window is not None:
        prompt = prompt[-max(1, window - tokens) :]
    training = model.training
    model.eval()  # dropout would make a difference of its own
    attention.install(model)
    try:
        asked = torch.tensor([prompt], device=model.device)
        # Tokens of the prompt serve as answers, entity slots as the last token, since no answer holds one. A
        # greedy rollout follows.
        told = asked[0].clamp(max=model.config.get_text_config().vocab_size - 1)
        answers = told[torch.linspace(0, len(prompt) - 1, 2 * tokens).long()].view(1, 2, tokens)
        prompts, completions = (asked, torch.ones_like(asked)), (answers, torch.ones_like(answers))
        full, packed = (
            continuation_logits(model, prompts, completions, shared, kernel)[0].float().log_softmax(-1)
            for shared in (False, True)
        )
        apart = (packed - full).gather(-1, answers[..., None]).abs()
        first = torch.zeros(1, 1, dtype=torch.long)
        (taken,) = decode(model, [prompt], first, Sampling(tokens, (), temperature=0.0), None)
        greedy = torch.tensor([[taken]], device=model.device)
        logits, _ = continuation_logits(model, prompts, (greedy, torch.ones_like(greedy)), False)
        # They must be the likeliest ones of a full row.
        missed = logits.amax(-1, keepdim=True) - logits.gather(-1, greedy[..., None])
    finally:
        model.train(training)
    return torch.cat([apart.flatten(), missed.float().flatten()])


def precision(model: PreTrainedModel) -> torch.dtype:
    """Dtype in which the model computes here and now."""
    kind = model.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.dtype


def disagreement(mean: float | Tensor, dtype: torch.dtype) -> str | None:
    """Fault of the mean of :func:`differences`, or None within the tolerance of a dtype."""
    if mean <= TOLERANCE[dtype]:  # NaN is not
        return None
    return (
        f"log-probabilities behind a shared prompt are {mean:.2g} nats off on average, more than "
        f"{TOLERANCE[dtype]:.2g} for {dtype}"
    )


def attempt(
    model: PreTrainedModel, prompt: Sequence[int], kernel: Kernel = "split"
) -> tuple[Tensor, str | None]:
    """Result of :func:`differences`, and why it rules sharing out; an error does too."""
    setattr(model, _TRIED, True)
    try:
        found = differences(model, prompt, kernel)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        return torch.tensor([torch.inf]), f"a shared prompt failed: {error}"
    return found, disagreement(found.mean(), precision(model))


def can_share(model: PreTrainedModel, tokens: int) -> bool:
    """Whether prompts may be read once; the model is then set to shared attention.

    A model that looks fit is tried out with a few tokens, once; one that turns out wrong is warned about.

    Args:
        model: Causal language model without wrappers and adapters.
        tokens: Tokens of the longest row, prompt and answer.
    """
    window = attention.window(model)
    if attention.unsupported(model) or (window is not None and tokens > window):
        return False
    if not getattr(model, _TRIED, False):
        vocabulary = model.config.get_text_config().vocab_size
        _, why = attempt(model, torch.linspace(0, vocabulary - 1, _PROMPT).long().tolist())
        if why:
            attention.refuse(model, why)
            logger.warning("each prompt is read once per answer: %s", attention.unsupported(model))
            return False
    attention.install(model)
    return True


class CostModel:
    """Judgement when reading the prompt once pays, by counting the arithmetic of both ways.

    Args:
        model: Policy; its weights may be sharded.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._hidden = model.config.get_text_config().hidden_size
        self.window = attention.window(model)

    def shares(self, prompt: int, completion: int, copies: int) -> bool:
        """Whether ``copies`` completions of a prompt cost clearly less in one row (lengths in tokens)."""
        if copies < 2 or not self.exact(prompt, completion):
            return False
        row = prompt + completion
        full = copies * self._cost(row, row * row / 2)
        pairs = prompt * prompt / 2 + copies * completion * row
        return self._cost(prompt + copies * completion, pairs) < _WORTHWHILE * full

    def exact(self, prompt: int, completion: int) -> bool:
        """Whether no sliding window cuts through a row."""
        return self.window is None or prompt + completion <= self.window

    def _cost(self, tokens: float, pairs: float) -> float:
        """Cost of a usual layer, with about 16 weights per squared width, over 4 times its width."""
        return 8 * self._hidden * tokens + pairs


class Sharing:
    """Whether a trainer's forward passes read a prompt once, and why not.

    Args:
        model: Policy without wrappers and adapters; set to shared attention unless ``mode`` is ``off``.
        mode: Extent: ``on`` shares wherever it is exact, ``auto`` where the cost model says that it pays.
        kernel: Kernel of the attention, see :class:`recrl.rl.prefix.layouts.Packed`.

    Attributes:
        reason: Reason why nothing is shared; None when something may be.
        understood: Whether the model's attention is one of those that this module knows.

    Raises:
        ValueError: ``on`` for a model that cannot share, or ``flex`` without CUDA.
    """

    def __init__(self, model: PreTrainedModel, mode: PrefixSharing, kernel: Kernel) -> None:
        why = attention.unsupported(model)
        self.understood = why is None
        if mode == "on" and why:
            raise ValueError(f"train.prefix_sharing=on, but {why}; set it to auto")
        if kernel == "flex" and mode != "off" and model.device.type != "cuda":
            raise ValueError(
                f"train.prefix_attention=flex trains on CUDA only, the policy is on {model.device}; "
                "set it to split"
            )
        self.mode, self.kernel = mode, kernel
        self.reason = "train.prefix_sharing=off" if mode == "off" else why
        self._model, self._cost = model, CostModel(model)
        if why and mode == "auto":
            logger.warning("each prompt is read once per answer: %s", why)
        if self.reason is None:
            attention.install(model)

    def copies(self, prompt: int, completion: int, copies: int) -> int:
        """Number of neighbours of a batch that share a row; 1 = full rows (lengths in tokens)."""
        if self.reason is not None or not self._cost.exact(prompt, completion):
            return 1
        return copies if self.mode == "on" or self._cost.shares(prompt, completion, copies) else 1

    def refuse(self, reason: str) -> None:
        """Share nothing from now on."""
        if self.mode == "on":
            raise RuntimeError(f"train.prefix_sharing=on, but {reason}; set it to auto or off")
        self.reason = reason
        attention.refuse(self._model, reason)
        logger.warning("each prompt is read once per answer from now on: %s", reason)

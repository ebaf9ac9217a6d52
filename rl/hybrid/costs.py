"""What a prompt costs: tokens, arithmetic, seconds.

PyTorch's counter leaves attention out on a CPU; here it is counted, two products of queries, keys and values
for each pair of positions that sees one another.

``Cost``        arithmetic of a prompt with its answers
``arithmetic``  counted from a model's shape
``seconds``     measured: reading a prompt, and a training step on it with its answers
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..policy.slots import of
from ..prefix.packing import backbone, continuation_logits
from ..prefix.sharing import can_share


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of a forward pass; a multiplication and an addition are two.

    Attributes:
        linear: Linear layers below the head; ``attention``: pairs of positions; ``head``: logits of answers.
        adaptor: Vectors of the prompt's distinct entities.
    """

    linear: float
    attention: float
    head: float
    adaptor: float

    @property
    def total(self) -> float:
        return self.linear + self.attention + self.head + self.adaptor


def arithmetic(
    model: PreTrainedModel, prompt: int, *, entities: int = 0, answers: int = 1, tokens: int = 0
) -> Cost:
    """Arithmetic of one prompt that is read once for its answers.

    Args:
        prompt: Tokens of the prompt; ``entities``: distinct slots among them.
        answers: Number of answers; ``tokens``: tokens of each. The head also reads the prompt's last token.
    """
    shape = model.config.get_text_config()
    heads = shape.num_attention_heads
    width = heads * (getattr(shape, "head_dim", None) or shape.hidden_size // heads)
    layers = [p for name, p in backbone(model).named_parameters() if p.dim() == 2 and "embed" not in name]
    weights = sum(p.numel() for p in layers)
    read = prompt + answers * tokens
    pairs = prompt * (prompt + 1) / 2 + answers * tokens * (prompt + (tokens + 1) / 2)
    layer = of(model)
    adaptor = 0 if layer is None else sum(p.numel() for p in layer.adaptor.parameters() if p.dim() == 2)
    return Cost(
        linear=2.0 * weights * read,
        attention=4.0 * width * shape.num_hidden_layers * pairs,
        head=2.0 * shape.hidden_size * shape.vocab_size * max(1, answers * tokens),
        adaptor=2.0 * adaptor * entities,
    )


def seconds(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Median seconds over prompts, each alone: ``prefill``, and ``step``, the passes of a training step of
    all weights on the prompt with its answers.

    Args:
        prompts: Token ids.
        answers: Token ids of the answers that every prompt is trained on.
    """
    told = nn.utils.rnn.pad_sequence([torch.tensor(a) for a in answers], batch_first=True)[None]
    mask = nn.utils.rnn.pad_sequence([torch.ones(len(a)).long() for a in answers], batch_first=True)
    found: dict[str, list[float]] = {"prefill": [], "step": []}
    learning = [p.requires_grad for p in model.parameters()]
    model.eval()
    for number, prompt in enumerate([prompts[0], *prompts]):
        ids = torch.tensor([list(prompt)], device=model.device)
        prompt_ids = ids, torch.ones_like(ids)
        completions = told.to(model.device), mask[None].to(model.device)
        shared = can_share(model, ids.shape[1] + told.shape[2])
        model.requires_grad_(True)
        took = {
            "prefill": _clocked(partial(_read, model, ids)),
            "step": _clocked(partial(_learn, model, prompt_ids, completions, shared)),
        }
        model.zero_grad(set_to_none=True)
        if number:  # the first one warms up
            for name, value in took.items():
                found[name].append(value)
    for parameter, learns in zip(model.parameters(), learning, strict=True):
        parameter.requires_grad_(learns)
    return {name: statistics.median(values) for name, values in found.items()}


@torch.no_grad()
def _read(model: PreTrainedModel, ids: Tensor) -> None:
    model(input_ids=ids, use_cache=True, logits_to_keep=1)


def _learn(
    model: PreTrainedModel, prompts: tuple[Tensor, Tensor], answers: tuple[Tensor, Tensor], shared: bool
) -> None:
    logits, labels = continuation_logits(model, prompts, answers, shared)
    nn.functional.cross_entropy(logits.flatten(0, -2).float(), labels.flatten()).backward()


def _clocked(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun

"""Round trip through an engine: weights there, answers back, and the policy's own judgement of them."""

from typing import Any

import torch

from ..sampling import Sampling
from .base import Request, RolloutEngine, Weights
from .guard import check_versions, compare


def round_trip(
    engine: RolloutEngine, model: Any, prompt: tuple[int, ...], version: str, weights: Weights
) -> float:
    """Hand weights over, sample, and give the largest difference of a token's log-probability, in nats.

    Args:
        engine: Engine that is given ``weights``.
        model: Model that holds them, on a device of its own.
        prompt: Token ids.
        version: Name of the weights.

    Raises:
        RolloutError: the engine does not hold them.
    """
    engine.update(version, weights)
    sampling = Sampling(max_tokens=12, ends=(int(model.config.eos_token_id),))
    (answers,) = engine.generate([Request(prompt, 4, seed=0)], sampling)
    check_versions(answers, version)
    return max(_apart(model, prompt, answer.tokens, answer.logprobs) for answer in answers)


@torch.no_grad()
def _apart(
    model: Any, prompt: tuple[int, ...], tokens: tuple[int, ...], logprobs: tuple[float, ...]
) -> float:
    row = torch.tensor([[*prompt, *tokens]], device=model.device)
    found = model(input_ids=row).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1).cpu()
    own = found.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    return float(compare(torch.tensor(logprobs), own, 1.0)[0].max())

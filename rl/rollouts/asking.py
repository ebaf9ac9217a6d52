"""``RolloutClient``: asks a rollout engine for a trainer's batches, and holds it to the trainer's weights."""

import math
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather
from torch import Tensor

from ..prefix.packing import without_adapters
from ..prefix.sharing import TOLERANCE, precision
from ..sampling import Answered, Sampling
from . import guard
from .base import Answer, Request, RolloutEngine, RolloutError
from .weights import named_weights

# Log-probabilities of completion tokens `[N, C]`, from token ids and mask `[N, P + C]` and the width C.
LogProbabilities = Callable[[Tensor, Tensor, int], Tensor]


class RolloutClient:
    """Asks an engine with the current weights, and compares a few of its log-probabilities with the policy's.

    Every rank has one and calls each method, since weights may be sharded and the worst is told to all.

    Args:
        engine: Engine that answers the prompts; its owner closes it.
        model: Policy; wrappers may be around it.
        accelerator: Accelerator, which knows how the policy's weights are sharded.
    """

    def __init__(self, engine: RolloutEngine, model: Any, accelerator: Accelerator) -> None:
        self._engine, self._model, self._accelerator = engine, model, accelerator
        # Servers may outlive a run: its name tells its weights from those of another.
        self._run = broadcast_object_list([secrets.token_hex(4)])[0]
        self._version: str | None = None

    def outdated(self, step: int) -> bool:
        """Whether the engine holds other weights than those after this optimiser step."""
        return self._version != f"{self._run}-{step}"

    def hand_over(self, step: int) -> None:
        """Hand the engine the policy's weights, those after this optimiser step."""
        version = f"{self._run}-{step}"
        self._engine.update(version, partial(named_weights, self._model, self._accelerator))
        self._version = version

    def ask(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_answered: Answered
    ) -> list[Answer]:
        """Answers in the prompts' order.

        Args:
            prompts: Token ids; equal ones make one request.
            on_answered: Function that is called with the numbers of all answers to a prompt, and their
                tokens, once they are there.

        Raises:
            RolloutError: an answer was not sampled from the weights that were handed over.
        """
        rows: dict[tuple[int, ...], list[int]] = {}
        for i, prompt in enumerate(prompts):
            rows.setdefault(tuple(prompt), []).append(i)
        # Seeds come from the trainer's generator, so a checkpoint determines what is sampled after it.
        seeds = torch.randint(2**31, (len(rows),)).tolist()
        requests = [Request(p, len(rows[p]), seed) for p, seed in zip(rows, seeds, strict=True)]
        answered: dict[int, Answer] = {}
        for members, answers in zip(rows.values(), self._engine.generate(requests, sampling), strict=True):
            answered.update(zip(members, answers, strict=True))
            on_answered(members, [answer.tokens for answer in answers])
        in_order = [answered[i] for i in range(len(prompts))]
        assert self._version is not None, "weights are handed over before the engine is asked"
        guard.check_versions(in_order, self._version)
        return in_order

    @torch.no_grad()
    def compare(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Answer],
        sampling: Sampling,
        score: LogProbabilities,
    ) -> dict[str, float]:
        """Hold the log-probabilities of a few answers against the policy's; every rank hears of the worst.

        Args:
            prompts: Token ids; the answers to the first one are compared.
            answers: One answer to each.
            sampling: Sampling by which they were drawn.
            score: Function that gives the policy's own log-probabilities.

        Returns:
            The metrics of :mod:`recrl.rl.rollouts.guard` by name.

        Raises:
            RolloutError: they differ by more than their precision explains.
        """
        first = list(prompts[0])
        answers = [answer for ids, answer in zip(prompts, answers, strict=True) if list(ids) == first]
        answers = answers[: guard.SAMPLES]
        device, width = self._accelerator.device, max(len(answer.tokens) for answer in answers)
        tokens, theirs = torch.zeros(len(answers), width, dtype=torch.long), torch.zeros(len(answers), width)
        taken = torch.zeros(len(answers), width, dtype=torch.bool)
        for row, answer in enumerate(answers):
            tokens[row, : len(answer.tokens)] = torch.tensor(answer.tokens)
            theirs[row, : len(answer.tokens)] = torch.tensor(answer.logprobs)
            taken[row, : len(answer.tokens)] = True
        asked = torch.tensor([first] * len(answers))
        ids = torch.cat([asked, tokens], dim=1).to(device)
        mask = torch.cat([torch.ones_like(asked), taken.long()], dim=1).to(device)
        training = self._model.training
        self._model.eval()  # an engine knows no dropout
        own = score(ids, mask, width)
        self._model.train(training)
        truncated_freely = bool(sampling.top_k or sampling.min_p)
        apart, ratio = guard.compare(
            theirs[taken], own.float().cpu()[taken], 0.0 if truncated_freely else sampling.top_p
        )
        figures = torch.stack([apart.mean(), apart.max(), ratio.min(), ratio.mean(), ratio.max()])
        of_ranks = gather(figures[None].to(device)).cpu()
        worst = of_ranks.amax(0)
        worst[2], worst[3] = of_ranks[:, 2].min(), of_ranks[:, 3].mean()
        dtype = max(
            precision(without_adapters(self._accelerator.unwrap_model(self._model))),
            getattr(torch, self._engine.dtype),
            key=TOLERANCE.__getitem__,
        )
        # A rank's NaN must not get lost in a maximum.
        mean = math.nan if of_ranks.isnan().any() else worst[0].item()
        if why := guard.verdict(mean, dtype, str(self._version)):
            raise RolloutError(why)
        return dict(zip(guard.METRICS, worst.tolist(), strict=True))

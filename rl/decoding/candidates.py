"""Candidates for an answer: the greedy one and some random ones, with their log-probabilities."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..prefix.branching import inverse_transform


class Candidates:
    """Draws the tokens of candidates and adds up their log-probabilities.

    The first answer to a prompt takes the likeliest token each time; the others are drawn from the model's
    distribution over the allowed tokens, with their bonuses. What is drawn depends on the seed, the number of
    the prompt, that of the copy and the step alone, so batches of any size give the same answers.

    Args:
        copies: Number of candidates for each prompt.
        seed: Seed of the random numbers, 0 or more.
    """

    def __init__(self, copies: int, seed: int) -> None:
        self.copies, self._seed = copies, seed
        self._random: list[np.random.Generator] = []
        self._logprobs: list[npt.NDArray[np.float64]] = []

    @property
    def logprobs(self) -> npt.NDArray[np.float64]:
        """Log-probability of each candidate so far, ``[prompts, copies]``, in nats."""
        return np.concatenate(self._logprobs).reshape(-1, self.copies)

    def resume(self, logprobs: npt.NDArray[np.float64]) -> None:
        """Go on behind candidates that were drawn before.

        Args:
            logprobs: Their log-probabilities, ``[prompts * copies]``.
        """
        self._logprobs = [logprobs]

    def begin(self, first: int, end: int) -> None:
        """Go on with the prompts of these numbers, which are answered together."""
        self._random = [np.random.default_rng([self._seed, prompt]) for prompt in range(first, end)]
        self._logprobs.append(np.zeros((end - first) * self.copies))

    def __call__(self, answers: Sequence[int], logits: Tensor) -> Tensor:
        numbers = np.array(answers)
        # Numbers of ended answers are drawn too, so that the others do not depend on them.
        uniform = np.concatenate([one.random(self.copies) for one in self._random])[numbers, None]
        drawn = inverse_transform(logits.softmax(dim=-1), torch.from_numpy(uniform).to(logits.device))
        greedy = torch.from_numpy(numbers % self.copies == 0).to(logits.device)
        tokens = torch.where(greedy[:, None], logits.argmax(dim=-1, keepdim=True), drawn)
        taken = logits.log_softmax(dim=-1).gather(1, tokens)[:, 0]
        self._logprobs[-1][numbers] += taken.double().cpu().numpy()
        return tokens[:, 0]

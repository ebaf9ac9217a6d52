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
        first: Number of the first prompt.
    """

    def __init__(self, copies: int, seed: int, first: int = 0) -> None:
        self.copies, self._seed, self._first = copies, seed, first
        self._random: list[np.random.Generator] = []
        self._uniform: list[list[npt.NDArray[np.float64]]] = []
        self._steps = np.zeros(0, dtype=int)
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

    def behind(self, first: int) -> "Candidates":
        """What draws the answers to the prompts from a number on, as this would, in another place."""
        return Candidates(self.copies, self._seed, self._first + first)

    def add(self, logprobs: npt.NDArray[np.float64]) -> None:
        """Take the log-probabilities of the next answers, which were drawn in another place.

        Args:
            logprobs: ``[prompts * copies]``.
        """
        self._logprobs.append(logprobs)

    def begin(self, first: int, end: int) -> None:
        """Go on with the prompts of these numbers, which are answered together."""
        self._random = [
            np.random.default_rng([self._seed, self._first + prompt]) for prompt in range(first, end)
        ]
        self._uniform = [[] for _ in self._random]
        self._steps = np.zeros((end - first) * self.copies, dtype=int)
        self._logprobs.append(np.zeros((end - first) * self.copies))

    def __call__(self, answers: Sequence[int], logits: Tensor) -> Tensor:
        numbers = np.array(answers)
        uniform = torch.tensor([[self._number(answer)] for answer in answers], dtype=torch.float64)
        drawn = inverse_transform(logits.softmax(dim=-1), uniform.to(logits.device))
        greedy = torch.from_numpy(numbers % self.copies == 0).to(logits.device)
        tokens = torch.where(greedy[:, None], logits.argmax(dim=-1, keepdim=True), drawn)
        taken = logits.log_softmax(dim=-1).gather(1, tokens)[:, 0]
        self._logprobs[-1][numbers] += taken.double().cpu().numpy()
        return tokens[:, 0]

    def _number(self, answer: int) -> float:
        """Random number of an answer's next step; answers need not be at the same one."""
        prompt, copy = divmod(answer, self.copies)
        drawn, step = self._uniform[prompt], self._steps[answer]
        if step == len(drawn):  # for all copies, so that none depends on which of the others go on
            drawn.append(self._random[prompt].random(self.copies))
        self._steps[answer] += 1
        return float(drawn[step][copy])

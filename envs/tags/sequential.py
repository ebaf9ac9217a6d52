"""A learned baseline that reads the order of what a user bought: self-attention over steps.

SASRec (Kang and McAuley 2018, arXiv 1808.09781) for baskets: a position of the sequence is a step in which
the user bought something, read as the mean of its tags' embeddings; what is predicted at it is the set of
tags in the window behind it.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..data.prepared import Data
from ..task import Row, evenly

# Longest sequence, the latest steps; users that are trained on, spread evenly; numbers of a batch.
_LONGEST, _MOST_USERS, _BATCH = 50, 20_000, 6_000_000
_HIDDEN, _HEADS, _LAYERS, _DROPOUT = 64, 2, 2, 0.2
_RATE, _STEPS = 2e-3, 400


class SequenceModel:
    """The model, trained on training users before ``statistics_end``: half a minute on one core.

    Args:
        data: Prepared data. A window that reaches what may not be learned trains nothing.
        seed: Seed of weights, batches and dropout.
    """

    def __init__(self, data: Data, seed: int = 0) -> None:
        self._data = data
        panel = data.panel
        self._first = np.searchsorted(panel.user, np.arange(len(panel.users) + 1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._network = _Network(len(data.catalog))
            self._train(np.random.default_rng(seed))

    def scores(self, data: Data, rows: Sequence[Row]) -> npt.NDArray[np.float32]:
        """``[rows, tags]``: logits of the window from each row's origin."""
        found = np.empty((len(rows), len(data.catalog)), np.float32)
        self._network.eval()
        with torch.inference_mode():
            for at in self._batches(np.arange(len(rows))):
                baskets, lengths = self._sequences([(rows[i]["user"], rows[i]["origin"]) for i in at])
                logits = self._network(baskets)[torch.arange(len(at)), lengths - 1]
                found[at] = logits.numpy()
        return found

    def _train(self, draw: np.random.Generator) -> None:
        users = np.flatnonzero(~self._data.panel.unseen)
        users = users[evenly(len(users), _MOST_USERS)]
        users = np.array([user for user in users if len(self._steps(int(user), self._end(int(user)))) > 1])
        optimiser = torch.optim.AdamW(self._network.parameters(), lr=_RATE, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=_STEPS)
        self._network.train()
        step = 0
        while step < _STEPS and len(users):
            for at in self._batches(draw.permutation(users)):
                asked = [(int(user), self._end(int(user))) for user in at]
                baskets, _ = self._sequences(asked)
                targets = self._windows(asked, baskets.shape[1])
                told = targets.sum(dim=-1) > 0
                if told.any():
                    share = targets[told] / targets[told].sum(dim=-1, keepdim=True)
                    loss = functional.cross_entropy(self._network(baskets)[told], share)
                    optimiser.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
                    optimiser.step()
                schedule.step()
                step += 1
                if step == _STEPS:
                    break

    def _end(self, user: int) -> int:
        """Step from which on nothing may be learned of a user."""
        end, until = self._data.protocol.statistics_end, self._data.panel.until
        assert end is not None, "resolved"
        return end if until is None else min(end, int(until[user]))

    def _steps(self, user: int, end: int) -> npt.NDArray[np.int32]:
        """The latest steps before one in which a user bought something."""
        panel = self._data.panel
        weeks = np.unique(panel.week[self._first[user] : self._first[user + 1]])
        return weeks[weeks < end][-_LONGEST:]

    def _sequences(self, asked: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Baskets ``[users, steps, tags]`` before a step each, shares of a basket, and their numbers."""
        steps = [self._steps(user, end) for user, end in asked]
        baskets = self._multi_hot(asked, steps, max(map(len, steps)), ahead=0)
        filled = baskets / baskets.sum(dim=-1, keepdim=True).clamp(min=1)
        return filled, torch.tensor([max(1, len(found)) for found in steps])

    def _windows(self, asked: Sequence[tuple[int, int]], length: int) -> Tensor:
        """Targets of each step, ``[users, steps, tags]``: what was bought in the window behind it.

        Calendar windows that pass the end have none.
        """
        steps = [self._steps(user, end) for user, end in asked]
        window = self._data.protocol.window
        found = self._multi_hot(asked, steps, length, ahead=window)
        for row, ((_, end), weeks) in enumerate(zip(asked, steps, strict=True)):
            if self._data.protocol.split == "time":
                found[row, : len(weeks)][torch.from_numpy(weeks + window >= end)] = 0
        if not self._data.protocol.repeats:
            found *= 1 - self._multi_hot(asked, steps, length, ahead=0).cummax(dim=1).values
        return found

    def _multi_hot(
        self,
        asked: Sequence[tuple[int, int]],
        steps: Sequence[npt.NDArray[np.int32]],
        length: int,
        *,
        ahead: int,
    ) -> Tensor:
        """Tags of each step, or of the ``ahead`` steps behind it; never of the end or later."""
        panel = self._data.panel
        found = torch.zeros(len(asked), max(1, length), len(self._data.catalog))
        for row, ((user, end), weeks) in enumerate(zip(asked, steps, strict=True)):
            mine = slice(self._first[user], self._first[user + 1])
            week, tag = panel.week[mine], panel.tag[mine]
            week, tag = week[week < end], tag[week < end]
            low, high = (weeks, weeks) if not ahead else (weeks + 1, weeks + ahead)
            place, entry = np.nonzero((week >= low[:, None]) & (week <= high[:, None]))
            found[row, place, tag[entry]] = 1.0
        return found

    def _batches(self, numbers: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
        size = max(1, min(128, _BATCH // (_LONGEST * len(self._data.catalog))))
        for first in range(0, len(numbers), size):
            yield numbers[first : first + size]


class _Network(nn.Module):
    """Causal self-attention over baskets; a tag is scored by its embedding."""

    def __init__(self, tags: int) -> None:
        super().__init__()
        self.tags = nn.Parameter(torch.randn(tags, _HIDDEN) * 0.05)
        self.bias = nn.Parameter(torch.zeros(tags))
        self.places = nn.Parameter(torch.randn(_LONGEST, _HIDDEN) * 0.02)
        layer = nn.TransformerEncoderLayer(
            _HIDDEN, _HEADS, 2 * _HIDDEN, _DROPOUT, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, _LAYERS, nn.LayerNorm(_HIDDEN), enable_nested_tensor=False)

    def forward(self, baskets: Tensor) -> Tensor:
        """Logits ``[users, steps, tags]`` behind each step; later steps are not read."""
        length = baskets.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        read = baskets @ self.tags * _HIDDEN**0.5 + self.places[:length]
        hidden = self.layers(read, mask=mask, is_causal=True)
        return hidden @ self.tags.T + self.bias

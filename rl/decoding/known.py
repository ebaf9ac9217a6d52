"""What a server knows of prompts: what each prompt's list favours, and what it may not name.

A served prompt does not say whose it is, and what a price favours depends on the user. So there is a table,
made before the server starts, that is asked by the digest of a prompt's token ids.

``known.json``  options, number of lines, digests
``worth.npy``   nats that are added to each option, ``[prompt, option]`` float32; -inf: it may not be named
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...envs.task import Lines

KNOWN = "RECRL_KNOWN_PROMPTS"
"""Environment variable of the folder."""

LISTED = "recrl_list"
"""Field of a request's ``vllm_xargs``: 1 asks for a list of different options."""

PROCESSOR = "recrl.rl.decoding.processors:ServedLists"
"""What reads the folder inside vLLM, for ``--logits-processors``."""

# Prompts with their token ids, nats of each option ``[prompt, option]``, and options that each may not name.
Portion = tuple[Sequence[Sequence[int]], Tensor, Sequence[Collection[int]]]


@dataclass(frozen=True)
class Noted:
    """What was written.

    Attributes:
        prompts: Number of different prompts.
        shared: Number of users whose prompt is also that of an earlier one who is worth other options: they
            get the list of that one.
    """

    prompts: int
    shared: int


def note(folder: Path, form: Lines, total: int, portions: Iterable[Portion]) -> Noted:
    """Write the table.

    Args:
        folder: Folder that exists.
        total: Number of prompts of all portions.
    """
    numbers: dict[str, int] = {}
    shared = 0
    shape = (max(total, 1), len(form.options))
    worth = np.lib.format.open_memmap(folder / "worth.npy", mode="w+", dtype=np.float32, shape=shape)
    for prompts, bonuses, barred in portions:
        for prompt, bonus, without in zip(prompts, bonuses.numpy(), barred, strict=True):
            mine = np.array(bonus, dtype=np.float32)
            mine[[*without]] = -np.inf
            digest = _digest(prompt)
            if digest in numbers:
                shared += not np.array_equal(worth[numbers[digest]], mine)
            else:
                worth[len(numbers)] = mine
                numbers[digest] = len(numbers)
    worth.flush()
    told = {"options": form.options, "count": form.count, "digests": [*numbers]}
    (folder / "known.json").write_text(json.dumps(told))
    return Noted(len(numbers), shared)


class Known:
    """The table.

    Args:
        folder: Folder that :func:`note` wrote into; its numbers are read as they are asked for.

    Attributes:
        form: Form of the lists.
    """

    def __init__(self, folder: Path) -> None:
        told = json.loads((folder / "known.json").read_text())
        self.form = Lines(tuple(told["options"]), told["count"])
        self._numbers = {digest: number for number, digest in enumerate(told["digests"])}
        self._worth = np.load(folder / "worth.npy", mmap_mode="r")

    def of(self, prompt: Sequence[int]) -> tuple[Tensor, list[int]] | None:
        """Nats ``[option]`` and options that may not be named; None for a prompt that is not known."""
        number = self._numbers.get(_digest(prompt))
        if number is None:
            return None
        worth = torch.from_numpy(np.array(self._worth[number]))
        barred = worth.isneginf()
        return worth.masked_fill(barred, 0.0), barred.nonzero().flatten().tolist()


def _digest(prompt: Sequence[int]) -> str:
    return hashlib.sha256(np.asarray(prompt, dtype="<i8").tobytes()).hexdigest()[:32]

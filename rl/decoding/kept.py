"""Answers of an evaluation that was stopped, from which it goes on."""

import base64
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from ...envs.storage.sealed import checksum, write


class Kept:
    """Texts that were answered so far, and the random state behind them, in a file.

    Args:
        path: Path of the file; one of another key, or damaged, is not used.
        key: Identity of what is answered: policy, prompts, settings, seed.
        every: Seconds between two writes.
        urgent: Function that says whether to write at once, since the process is about to stop.
    """

    def __init__(
        self, path: Path, key: str, *, every: float = 30.0, urgent: Callable[[], bool] = lambda: False
    ) -> None:
        self._path, self._key, self._every, self._urgent = path, key, every, urgent
        self._written = time.monotonic()

    def begin(self) -> list[str]:
        """Give the texts that are there already; torch's random state becomes the one behind them."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(self._path.read_bytes())
            if content["key"] == self._key and content.pop("crc") == checksum(content):
                _restore(content["random"])
                return list(content["texts"])
        return []

    def keep(self, texts: Sequence[str]) -> None:
        """Note the texts so far; they are written if it is urgent or time."""
        if self._urgent() or time.monotonic() - self._written >= self._every:
            content = {"key": self._key, "texts": list(texts), "random": _random()}
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write(self._path, json.dumps({**content, "crc": checksum(content)}))
            self._written = time.monotonic()


def _random() -> list[str]:
    """States of torch's generators: of the CPU, then of each GPU."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states += torch.cuda.get_rng_state_all()
    return [base64.b64encode(bytes(state.tolist())).decode() for state in states]


def _restore(states: Sequence[str]) -> None:
    cpu, *gpus = (torch.tensor(list(base64.b64decode(state)), dtype=torch.uint8) for state in states)
    torch.set_rng_state(cpu)
    if gpus:
        torch.cuda.set_rng_state_all(gpus)

"""Answers with their log-probabilities, noted as they come: a process that is killed loses one batch."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .candidates import Candidates


class Journal:
    """Answers in a file, one a line; used like :class:`recrl.rl.decoding.kept.Kept`.

    Nothing random may be behind the answers but ``drawn``, which depends on their numbers alone.

    Args:
        path: Path of the file; its name tells what was asked.
        total: Number of answers in the end.
        batch: Number of answers of a batch. A batch that is not whole is asked again, so that answers are the
            same with and without a stop.
        drawn: What draws the answers and knows their log-probabilities; None for greedy ones without.
    """

    def __init__(self, path: Path, total: int, batch: int, drawn: Candidates | None = None) -> None:
        self._path, self._total, self._batch, self._drawn = path, total, batch, drawn
        self._noted = 0

    def begin(self) -> list[str]:
        """Give the texts that are there already; what is torn is taken away."""
        lines = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
        answers = _readable(lines)
        if len(answers) != self._total:
            del answers[len(answers) // self._batch * self._batch :]
        if len(answers) < len(lines):
            with self._path.open("r+b") as stream:
                stream.truncate(sum(map(len, lines[: len(answers)])))
        self._noted = len(answers)
        if self._drawn is not None:
            self._drawn.resume(np.array([logprob for _, logprob in answers], dtype=float))
        return [text for text, _ in answers]

    def keep(self, texts: Sequence[str]) -> None:
        """Note the texts that are new."""
        new = texts[self._noted :]
        logprobs: list[float | None] = [None] * len(new)
        if self._drawn is not None:
            logprobs = self._drawn.logprobs.ravel()[self._noted :].tolist()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as stream:
            stream.writelines(f"{json.dumps(answer)}\n" for answer in zip(new, logprobs, strict=True))
        self._noted = len(texts)


def _readable(lines: Sequence[bytes]) -> list[tuple[str, float | None]]:
    """Answers up to the first line that is torn."""
    answers = []
    for line in lines:
        try:
            text, logprob = json.loads(line)
        except (ValueError, TypeError):
            break
        if not (line.endswith(b"\n") and isinstance(text, str) and isinstance(logprob, float | None)):
            break
        answers.append((text, logprob))
    return answers

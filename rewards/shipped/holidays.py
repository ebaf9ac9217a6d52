"""Fit of tags to the holidays ahead: what ``calendar_fit`` measures with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
_AHEAD, _NOTHING = "; ahead: ", "no holiday"  # as envs.data.calendar.describe writes them


class CalendarFit:
    """Ranks a catalogue's tags by how near their names are to the names of the holidays ahead.

    It knows words only: the order is the same in every shop and year, and owes nothing to what was bought.

    Args:
        embeddings: unit-norm embedding of each tag, ``[T, d]``.
        encode: texts -> their unit-norm embeddings ``[n, d]``, of the same encoder
            (:func:`recrl.rewards.shipped.encoder.encode_tags`). Called once for each calendar line.
    """

    def __init__(self, embeddings: Vectors, encode: Callable[[Sequence[str]], Vectors]) -> None:
        self._embeddings, self._encode = embeddings, encode
        self._found: dict[str, npt.NDArray[np.float64] | None] = {}

    def percentiles(self, line: str) -> npt.NDArray[np.float64] | None:
        """Percentile rank of each tag, 0 the furthest from the holidays and 1 the nearest.

        Args:
            line: text of :func:`recrl.envs.data.calendar.describe`: ``October, autumn; ahead: Halloween``.

        Returns:
            ``[T]`` in 0..1, tags of equal similarity with equal ranks; None if no holiday is ahead.

        Raises:
            ValueError: the line does not say what is ahead.
        """
        if line not in self._found:
            self._found[line] = self._ranked(line)
        return self._found[line]

    def _ranked(self, line: str) -> npt.NDArray[np.float64] | None:
        _, ahead, holidays = line.partition(_AHEAD)
        if not ahead:
            raise ValueError(
                f"calendar line {line!r} does not say what is ahead; write it as "
                f"'October, autumn{_AHEAD}Halloween', or '{_AHEAD}{_NOTHING}' behind the season"
            )
        if holidays == _NOTHING:
            return None
        cosines = self._embeddings @ self._encode([holidays])[0]
        ordered = np.sort(cosines)
        below, up_to = ordered.searchsorted(cosines), ordered.searchsorted(cosines, side="right")
        return (below + up_to - 1) / (2 * max(len(cosines) - 1, 1))

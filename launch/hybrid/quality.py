"""Quality of the ways to write a prompt, of one seed or of several: tables out of values of every episode.

``Episodes``  values of every episode of one seed
``quality``   the tables, as JSON
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...envs.statistics import Values, pooled
from ...rl.hybrid.evaluation import recovered

TEXT, HYBRID, LATEST, FREQUENT = "full text", "hybrid", "latest products", "most frequent products"
CONSTANT, PERMUTED, POPULARITY, OWN = "constant slot", "permuted entities", "popularity", "own frequency"

FILE = "episodes.npz"
"""File of the values, beside ``evaluation.json``."""


@dataclass(frozen=True)
class Episodes:
    """Values of every episode of one seed.

    Attributes:
        users: User of each episode, ``[episode]``.
        recall, overlap: Name of an arm -> headline metric, and share of full text's list that the arm's has
            too, ``[episode]``; NaN where it is undefined.
    """

    users: npt.NDArray[np.integer]
    recall: Mapping[str, Values]
    overlap: Mapping[str, Values]

    def save(self, folder: Path) -> None:
        """Write them into a folder."""
        parts = {"recall": self.recall, "overlap": self.overlap}
        named = {f"{part}/{arm}": values for part, arms in parts.items() for arm, values in arms.items()}
        np.savez_compressed(folder / FILE, allow_pickle=False, users=self.users, **named)

    @classmethod
    def read(cls, folder: Path) -> "Episodes | None":
        """Those of a folder; None where it has none."""
        if not (folder / FILE).exists():
            return None
        parts: dict[str, dict[str, Values]] = {"recall": {}, "overlap": {}}
        with np.load(folder / FILE) as found:
            for name in found.files:
                part, _, arm = name.partition("/")
                if arm:
                    parts[part][arm] = found[name]
            return cls(found["users"], **parts)


def quality(seeds: Sequence[Episodes]) -> dict[str, Any]:
    """Tables of the same episodes, answered under one or several seeds; see
    :func:`recrl.envs.statistics.pooled`.

    Returns:
        ``recall``, ``overlap``, ``differences`` and ``overlap differences`` of pairs of arms, and
        ``recovered``, the share of the gap between constant slot and full text.
    """
    users = seeds[0].users

    def values(part: str, arm: str) -> list[Values]:
        return [getattr(one, part)[arm] for one in seeds]

    def mean(part: str, arm: str) -> dict[str, float]:
        return asdict(pooled(values(part, arm), users))

    def differences(part: str, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        return {
            f"{one} - {other}": asdict(
                pooled([a - b for a, b in zip(values(part, one), values(part, other), strict=True)], users)
            )
            for one, other in pairs
        }

    def gap(arm: str) -> dict[str, float]:
        low, high = values("recall", CONSTANT), values("recall", TEXT)
        return asdict(recovered(values("recall", arm), low, high, users))

    return {
        "recall": {arm: mean("recall", arm) for arm in seeds[0].recall},
        "overlap": {arm: mean("overlap", arm) for arm in seeds[0].overlap},
        "differences": differences(
            "recall",
            [(TEXT, OWN), (TEXT, CONSTANT), (HYBRID, TEXT), (HYBRID, LATEST), (HYBRID, FREQUENT)],
        ),
        "overlap differences": differences("overlap", [(HYBRID, LATEST), (HYBRID, FREQUENT)]),
        "recovered": {arm: gap(arm) for arm in (HYBRID, LATEST, FREQUENT, PERMUTED)},
    }

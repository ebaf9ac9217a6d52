"""Tags that a demonstration of the tag task names."""

from collections.abc import Sequence

import numpy as np


def sample_list(
    target: Sequence[int], history: Sequence[int], slots: int, n_tags: int, rng: np.random.Generator
) -> list[int]:
    """``slots`` distinct tags: random target tags, then the history's most frequent, then random ones."""
    chosen = rng.permutation(np.asarray(target))[:slots].tolist()
    if len(chosen) < slots:
        known = set(chosen)
        chosen += [tag for tag in history if tag not in known][: slots - len(chosen)]
        others = np.setdiff1d(np.arange(n_tags), chosen)
        chosen += rng.permutation(others)[: slots - len(chosen)].tolist()
        chosen = rng.permutation(chosen).tolist()
    return chosen

"""Tags that a demonstration of the tag task names."""

from collections.abc import Collection, Sequence

import numpy as np


def sample_list(
    target: Sequence[int],
    history: Sequence[int],
    slots: int,
    n_tags: int,
    rng: np.random.Generator,
    barred: Collection[int] = (),
) -> list[int]:
    """``slots`` distinct tags: random target tags, then the history's most frequent, then random ones.

    Args:
        barred: Tags that are not filled in; where too few others are left, the list is shorter.
    """
    chosen = rng.permutation(np.asarray(target))[:slots].tolist()
    if len(chosen) < slots:
        known = set(chosen)
        chosen += [tag for tag in history if tag not in known][: slots - len(chosen)]
        others = np.setdiff1d(np.arange(n_tags), [*chosen, *barred])
        chosen += rng.permutation(others)[: slots - len(chosen)].tolist()
        chosen = rng.permutation(chosen).tolist()
    return chosen

"""The figure of a hybrid representation's report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from .quality import CONSTANT, HYBRID, PERMUTED, TEXT
from .seeds import Seed

# Controls have the tokens of hybrid prompts.
_TOKENS_OF = {CONSTANT: HYBRID, PERMUTED: HYBRID}


def quality(found: Mapping[str, Any], seeds: Sequence[Seed], path: Path) -> None:
    """Headline and overlap of each arm, with the tokens of its prompts; a ring for each of several seeds."""
    arms = list(found["recall"])
    figure, panels = plt.subplots(1, 2, figsize=(10, 0.42 * len(arms) + 1.1), sharey=True)
    for part, label, axis in zip(
        ("recall", "overlap"), (found["headline"], "overlap with full text"), panels, strict=True
    ):
        for row, arm in enumerate(arms):
            if part == "overlap" and arm == TEXT:
                continue
            one = found[part][arm]
            colour = "C3" if arm == HYBRID else "C0" if arm in found["costs"] else "0.5"
            if len(seeds) > 1:
                means = [seed.found[part][arm]["mean"] for seed in seeds]
                axis.plot(means, [row] * len(seeds), "o", color=colour, markerfacecolor="none", alpha=0.6)
            axis.plot((one["low"], one["high"]), (row, row), color=colour, linewidth=1.5)
            axis.plot(one["mean"], row, "D", color=colour, markersize=5)
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
        axis.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(arms)), [_label(arm, found["costs"]) for arm in arms])
    panels[0].invert_yaxis()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _label(arm: str, costs: Mapping[str, Any]) -> str:
    cost = costs.get(_TOKENS_OF.get(arm, arm))
    return arm if cost is None else f"{arm}, {cost['tokens']:,.0f} tokens"

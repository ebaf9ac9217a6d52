"""The plots of a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from ...envs.task import TradeOff
from ...rl.evaluation.settings import UNPRICED
from .sections import _seconds


def _plot_training(
    log: Sequence[Mapping[str, Any]], constraints: Sequence[str], objective: str, path: Path
) -> None:
    steps = [row["step"] for row in log]
    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(8, 9), sharex=True)
    _line(top, steps, [row["objective"] for row in log], "C0", objective)
    top.set_ylabel(f"objective: {objective}")
    for i, name in enumerate(constraints):
        colour = f"C{i + 1}"
        _line(middle, steps, [row[f"constraint/{name}/slack"] for row in log], colour, name)
        bottom.plot(steps, [row[f"constraint/{name}/price"] for row in log], color=colour, label=name)
    middle.axhline(0, color="black", linewidth=0.8)
    middle.set_ylabel("slack (met at 0 and above)")
    bottom.set_ylabel("price (objective per unit of bound)")
    bottom.set_xlabel("step")
    for axis in (middle, bottom):
        if constraints:
            axis.legend(loc="best")
    _save(figure, path)


def _plot_validation(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    steps = [one["step"] for one in found]
    headline = found[0]["headline"]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 6), sharex=True)
    _ranges(top, steps, [one["metrics"][headline] for one in found], "C0", headline)
    top.set_ylabel(f"{headline}, validation")
    for i, name in enumerate(found[0]["constraints"]):
        _ranges(bottom, steps, [one["constraints"][name] for one in found], f"C{i + 1}", name)
    bottom.axhline(0, color="black", linewidth=0.8)
    bottom.set_ylabel("slack (met at 0 and above)")
    bottom.set_xlabel("step")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    if found[0]["constraints"]:
        bottom.legend(loc="best")
    _save(figure, path)


def _ranges(
    axis: Any, steps: Sequence[int], values: Sequence[Mapping[str, float]], colour: str, label: str
) -> None:
    """Means over steps, with their intervals."""
    means = np.array([one["mean"] for one in values])
    low, high = (np.array([one[end] for one in values]) for end in ("low", "high"))
    # Rounding may put an end of the interval of equal values on the wrong side.
    ends = np.maximum(0, (means - low, high - means))
    axis.errorbar(steps, means, yerr=ends, color=colour, marker="o", capsize=3, label=label)


def _plot_conflict(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    figure, axis = plt.subplots(figsize=(8, 4))
    pairs = sorted({key for row in log for key in row if key.startswith("conflict/corr/")})
    means = {key: np.mean([row[key] for row in log if row.get(key) is not None]) for key in pairs}
    strongest = sorted(means, key=lambda key: -abs(means[key]))[:6]
    for i, key in enumerate(strongest):
        rows = [row for row in log if row.get(key) is not None]
        _line(
            axis,
            [r["step"] for r in rows],
            [r[key] for r in rows],
            f"C{i}",
            key.removeprefix("conflict/corr/"),
        )
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xlabel("step")
    axis.set_ylabel("within-group correlation")
    if strongest:
        axis.legend(loc="best", fontsize=8)
    _save(figure, path)


def _plot_time(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    seconds = _seconds(log)
    if not seconds:
        return
    figure, axis = plt.subplots(figsize=(8, 3.5))
    labels = [part.replace("_", " ") for part in seconds]
    axis.stackplot([row["step"] for row in log], list(seconds.values()), labels=labels)
    # The first step also warms up; it would flatten the others.
    usual = np.percentile(np.sum(list(seconds.values()), axis=0), 98)
    axis.set_ylim(0, 1.2 * usual)
    axis.set_xlabel("step")
    axis.set_ylabel("seconds")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    _save(figure, path)


def _plot_trade_off(deployed: Mapping[str, Any], plotted: TradeOff, path: Path) -> None:
    figure, axis = plt.subplots(figsize=(9.5, 5))
    ours = {"trained": "C3", "warm start": "C1"}
    markers = iter("s^vD<>pPX*hd" * len(deployed["metrics"]))
    for name, table in deployed["metrics"].items():
        if not {plotted.x, plotted.y} <= table.keys():  # a metric that no answer has a value of
            continue
        x, y = table[plotted.x], table[plotted.y]
        policy = name.removesuffix(UNPRICED)
        color, filled = ours.get(policy, "0.45"), name in ours or policy not in ours
        # Not as error bars: an interval of equal values can miss their mean by a rounding.
        axis.plot((x["low"], x["high"]), (y["mean"], y["mean"]), color=color, linewidth=1)
        axis.plot((x["mean"], x["mean"]), (y["low"], y["high"]), color=color, linewidth=1)
        axis.plot(
            x["mean"],
            y["mean"],
            "o" if policy in ours else next(markers),
            color=color,
            markerfacecolor=color if filled else "white",
            label=name,
            linestyle="none",
        )
    if plotted.floor:
        axis.axvline(
            plotted.floor, color="black", linewidth=0.8, linestyle="--", label=f"bound: {plotted.floor:g}"
        )
    # Beside the axes, so that it covers nothing.
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axis.set_xlabel(plotted.label)
    axis.set_ylabel(plotted.y)
    axis.set_title(plotted.title)
    _save(figure, path)


def _line(axis: Any, steps: Sequence[int], values: Sequence[float], colour: str, label: str) -> None:
    """Thin raw values and a thick running mean."""
    raw = np.asarray(values, float)
    width = max(1, len(raw) // 15)
    smooth = np.convolve(
        np.pad(raw, (width // 2, width - 1 - width // 2), mode="edge"), np.ones(width) / width, "valid"
    )
    axis.plot(steps, raw, color=colour, alpha=0.3, linewidth=0.8)
    axis.plot(steps, smooth, color=colour, linewidth=1.8, label=label)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)

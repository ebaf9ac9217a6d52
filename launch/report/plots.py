"""The plots of a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from ...envs.task import TradeOff
from ...rl.evaluation.settings import UNPRICED
from .training import _seconds


def _plot_training(
    log: Sequence[Mapping[str, Any]], constraints: Sequence[str], objective: str, path: Path
) -> None:
    """Objective, and under it slack and price of each constraint, each on axes of its own."""
    steps = [row["step"] for row in log]
    figure, top, below = _panels(len(constraints), columns=2)
    _line(top, steps, [row["objective"] for row in log], "C0")
    top.set_ylabel(f"objective: {objective}")
    for i, (name, (slack, price)) in enumerate(zip(constraints, below, strict=True)):
        colour = f"C{i + 1}"
        _line(slack, steps, [row[f"constraint/{name}/slack"] for row in log], colour)
        slack.axhline(0, color="black", linewidth=0.8)
        slack.set_ylabel("slack (met from 0 on)")
        price.plot(steps, [row[f"constraint/{name}/price"] for row in log], color=colour)
        price.set_ylabel("price (objective per unit)")
        for axis in (slack, price):
            axis.set_title(name, fontsize=10)
    _save(figure, path)


def _plot_validation(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Headline of each validation, and under it the slack of each constraint."""
    steps = [one["step"] for one in found]
    headline, constraints = found[0]["headline"], list(found[0]["constraints"])
    figure, top, below = _panels(len(constraints), columns=1)
    _ranges(top, steps, [one["metrics"][headline] for one in found], "C0")
    top.set_ylabel(f"{headline}, validation")
    for i, (name, (slack,)) in enumerate(zip(constraints, below, strict=True)):
        _ranges(slack, steps, [one["constraints"][name] for one in found], f"C{i + 1}")
        slack.axhline(0, color="black", linewidth=0.8)
        slack.set_ylabel("slack (met from 0 on)")
        slack.set_title(name, fontsize=10)
    _save(figure, path)


def _panels(rows: int, columns: int) -> tuple[Any, Any, Any]:
    """A figure over steps: one wide panel on top, and panels below, ``[row][column]``."""
    figure = plt.figure(figsize=(9, 3.2 + 2.3 * rows))
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=[1.3, *[1] * rows])
    top = figure.add_subplot(grid[0, :])
    below = [[figure.add_subplot(grid[1 + i, j]) for j in range(columns)] for i in range(rows)]
    for axis in figure.axes:
        _steps(axis)
    return figure, top, below


def _steps(axis: Any) -> None:
    """Label the horizontal axis as steps, which are whole numbers."""
    axis.set_xlabel("step")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _ranges(axis: Any, steps: Sequence[int], values: Sequence[Mapping[str, float]], colour: str) -> None:
    """Means over steps, with their intervals."""
    means = np.array([one["mean"] for one in values])
    low, high = (np.array([one[end] for one in values]) for end in ("low", "high"))
    # Rounding may put an end of the interval of equal values on the wrong side.
    ends = np.maximum(0, (means - low, high - means))
    axis.errorbar(steps, means, yerr=ends, color=colour, marker="o", capsize=3)


def _plot_conflict(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    figure, axis = plt.subplots(figsize=(9.5, 4))
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
    _steps(axis)
    axis.set_ylabel("within-group correlation")
    if strongest:
        _legend_beside(axis)
    _save(figure, path)


def _plot_time(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    seconds = _seconds(log)
    if not seconds:
        return
    figure, axis = plt.subplots(figsize=(9.5, 3.5))
    labels = [part.replace("_", " ") for part in seconds]
    axis.stackplot([row["step"] for row in log], list(seconds.values()), labels=labels)
    # The first step also warms up; it would flatten the others.
    usual = np.percentile(np.sum(list(seconds.values()), axis=0), 98)
    axis.set_ylim(0, 1.2 * usual)
    _steps(axis)
    axis.set_ylabel("seconds")
    _legend_beside(axis)
    _save(figure, path)


def _plot_trade_off(deployed: Mapping[str, Any], plotted: TradeOff, path: Path) -> None:
    figure, axis = plt.subplots(figsize=(9.5, 5))
    ours = {"trained": "C3", "warm start": "C1"}
    markers = iter("s^vD<>pPX*hd" * len(deployed["metrics"]))
    for name, table in deployed["metrics"].items():
        if not {plotted.x, plotted.y} <= table.keys():  # no answer of theirs has a value
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
    _legend_beside(axis)
    axis.set_xlabel(plotted.label)
    axis.set_ylabel(plotted.y)
    axis.set_title(plotted.title)
    _save(figure, path)


def _legend_beside(axis: Any) -> None:
    """A legend to the right of the axes, where it covers nothing; :func:`_save` makes room for it."""
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)


def _line(
    axis: Any, steps: Sequence[int], values: Sequence[float], colour: str, label: str | None = None
) -> None:
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
